"""Shared by the benchmarks of the verifier: the model, the generator, and a description of the machine."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _random_model import SHAPES, make_random_model

from genprm_trl import GenPRM
from genprm_trl.generation.backends import open_generator
from genprm_trl.generation.base import Generator, SamplingParams
from genprm_trl.records import Solution, Verdict

# Where models are made that are not at hand.
MODELS = Path("outputs/benchmark")
BACKENDS = ("transformers", "vllm")
# More than the longest rationale of the miniature world takes.
MINIATURE_STEP_TOKENS = 320


@dataclass
class Setup:
    """A model and how it is run.

    Attributes:
        model: Its directory.
        backend: What generates.
        sampling: How rationales are sampled, on both sides of a comparison.
        max_step_tokens: Bound on the tokens of a rationale, on both sides.
        options: Of the backend's generator.
    """

    model: Path
    backend: str
    sampling: SamplingParams
    max_step_tokens: int
    options: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Generator:
        """The generator as the verifier uses it."""
        return open_generator(self.model, backend=self.backend, **self.options)

    def open_plain(self) -> Generator:
        """The same for one request at a time, without a prefix cache."""
        if self.backend == "vllm":
            return open_generator(self.model, backend="vllm", enable_prefix_caching=False, **self.options)
        # TransformersGenerator keeps no keys and values of a model that is handed over.
        from genprm_trl.generation.loading import load_model, load_tokenizer

        options = self.options | {"max_batch_size": 1}
        model = load_model(self.model, dtype=options.pop("dtype", "auto"), device=options.pop("device", None))
        return open_generator(model, load_tokenizer(self.model), **options)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--model", help="directory of a GenPRM; default: outputs/quickstart/genprm, or one that is made"
    )
    group.add_argument(
        "--size", choices=("miniature", *SHAPES), default="miniature", help="others have random weights"
    )
    group.add_argument("--backend", choices=BACKENDS, default="transformers")
    group.add_argument("--backend-options", default="{}", help="further arguments of the generator, as JSON")
    group.add_argument("--device", help="of the transformers backend, for instance cuda")
    group.add_argument("--batch-size", type=int, default=256, help="requests that the engine works on at once")
    group.add_argument("--max-step-tokens", type=int)


def make_setup(options: argparse.Namespace) -> Setup:
    """The setup that the options describe; makes the model if there is none."""
    backend_options: dict[str, Any] = {"max_batch_size": options.batch_size, **json.loads(options.backend_options)}
    if options.device:
        backend_options["device"] = options.device
    if options.backend == "vllm":
        # On a CPU: a cache that leaves memory to others, and threads that the system may move off a busy core. The
        # engine's scheduler, this process and code that runs have a core to themselves, as where vLLM binds threads.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
        # Nothing is compiled, and numbers are those of the checkpoint.
        backend_options = {"enforce_eager": True, "dtype": "float32", **backend_options}
    if options.size != "miniature":
        path = Path(options.model or MODELS / f"random-{options.size}")
        if not path.is_dir():
            make_random_model(path, options.size)
        # Without filters the tokens of the format come up by chance, and with them code to run.
        sampling = SamplingParams(temperature=1.0, top_p=1.0, top_k=0)
        return Setup(path, options.backend, sampling, options.max_step_tokens or 512, backend_options)
    path = Path(options.model or "outputs/quickstart/genprm")
    if not path.is_dir():
        path = _trained()
    if options.backend == "vllm":
        path = _widened(path)
    return Setup(
        path, options.backend, SamplingParams(), options.max_step_tokens or MINIATURE_STEP_TOKENS, backend_options
    )


def _trained() -> Path:
    if not (MODELS / "genprm").is_dir():
        from genprm_trl.miniature.quickstart import FAST_PLAN, run_quickstart

        run_quickstart(MODELS, FAST_PLAN, announce=print)
    return MODELS / "genprm"


def _widened(path: Path) -> Path:
    """The same model in heads that vLLM's kernels take."""
    from _widening import widen_heads

    from genprm_trl.conversation.settings import load_settings
    from genprm_trl.generation.loading import load_model, load_tokenizer

    wide = MODELS / "wide-genprm"
    widen_heads(load_model(path, device="cpu")).save_pretrained(wide)
    load_tokenizer(path).save_pretrained(wide)
    settings = load_settings(path)
    if settings is not None:
        settings.save(wide)
    return wide


def describe_machine() -> str:
    import torch

    parts = [platform.machine(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}"]
    if torch.cuda.is_available():
        parts.insert(2, torch.cuda.get_device_name())
    for package in ("torch", "transformers", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{package} {importlib.metadata.version(package)}")
    return f"machine: {', '.join(parts)}; load average at the start {os.getloadavg()[0]:.1f}"


def describe_setup(setup: Setup) -> str:
    from safetensors import safe_open

    count = 0
    for file in setup.model.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    sampling = setup.sampling
    return (
        f"model: {setup.model.name} ({count / 1e6:.2f}M parameters) on {setup.backend} {setup.options}; temperature "
        f"{sampling.temperature}, top_p {sampling.top_p}, top_k {sampling.top_k}, at most {setup.max_step_tokens} "
        "tokens a step"
    )


async def judge(prm: GenPRM, solutions: Sequence[Solution]) -> tuple[float, dict[str, Verdict]]:
    """Seconds, and the verdicts by id."""
    started = time.perf_counter()
    verdicts = {verdict.id: verdict async for verdict in prm.verify_stream(solutions)}
    return time.perf_counter() - started, verdicts
