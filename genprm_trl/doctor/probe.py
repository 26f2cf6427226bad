"""Tries packages out, in a process of its own: importing a broken one can end a process, or hang it.

`python -m genprm_trl.doctor.probe NAME ...` tries one after the other. Before each it writes the line
`{"probe": NAME}`, and after it the same with `facts` (what was learned) or `error` (why it does not work). A process
that ends in between was ended by the probe named last.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

Facts = dict[str, Any]


def _torch() -> Facts:
    import torch

    facts: Facts = {"cuda_build": torch.version.cuda or torch.version.hip, "mps": torch.backends.mps.is_available()}
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        device = {
            "name": properties.name,
            "memory": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
        }
        try:  # a card that this build has no kernels for is only found out by using it
            ones = torch.ones(16, 16, device=f"cuda:{index}")
            if (ones @ ones).sum().item() != 16**3:
                device["error"] = "computes wrongly"
        except RuntimeError as error:
            device["error"] = _first_line(error)
        devices.append(device)
    return facts | {"devices": devices}


def _trainers() -> Facts:
    # TRL and transformers load their parts when they are used: importing the packages alone proves nothing.
    from genprm_trl import GenPRMTrainer, PRMTrainer, StepGRPOTrainer

    return {"names": [kind.__name__ for kind in (GenPRMTrainer, PRMTrainer, StepGRPOTrainer)]}


def _grading() -> Facts:
    from genprm_trl.grading.comparison import grade

    found = grade(r"so it is $\frac{1}{2}$", "0.5", timeout=60.0)
    if not found.correct:
        raise RuntimeError(f"1/2 and 0.5 were not found to be equal ({found.status})")
    return {}


def _vllm() -> Facts:
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: F401  (loads what an engine needs)

    return {"device": current_platform.device_type}


def _lm_eval() -> Facts:
    from genprm_trl.harness.command import register
    from genprm_trl.harness.tasks import tasks_path

    register()
    return {"tasks": sorted(path.name for path in tasks_path().iterdir() if (path / "README.md").is_file())}


def _huggingface_hub() -> Facts:
    from huggingface_hub import constants, get_token

    return {
        "logged_in": get_token() is not None,  # the token itself stays where it is
        "endpoint": constants.ENDPOINT,
        "offline": constants.HF_HUB_OFFLINE,
        "cache": constants.HF_HUB_CACHE,
        "home": constants.HF_HOME,
    }


def _hub_answers() -> Facts:
    from huggingface_hub import HfApi, get_token

    api = HfApi()
    if get_token() is not None:
        return {"user": api.whoami()["name"]}
    next(iter(api.list_models(limit=1)), None)
    return {"user": None}


PROBES: dict[str, Callable[[], Facts]] = {
    "torch": _torch,
    "trainers": _trainers,
    "grading": _grading,
    "vllm": _vllm,
    "lm_eval": _lm_eval,
    "huggingface_hub": _huggingface_hub,
    "hub_answers": _hub_answers,
}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def main(names: list[str]) -> None:
    """Tries each of the names: those of `PROBES`; any other is a module to import."""
    # Libraries print as they like; what they print must not pass for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in names:
        print(json.dumps({"probe": name}), file=answers, flush=True)
        answer: dict[str, Any]
        try:
            if name in PROBES:
                answer = {"facts": PROBES[name]()}
            else:
                import_module(name)
                answer = {"facts": {}}
        except (Exception, SystemExit) as error:
            answer = {"error": _first_line(error)}
        print(json.dumps({"probe": name, **answer}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
