"""A recipe of few problems, whose models are scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from genprm_trl.miniature.world import make_problems
from genprm_trl.rows.jsonl import write_jsonl

POLICY = {"model": "policy", "backend": "tests.helpers.scripted_policy:ScriptedPolicy", "system_prompt": ""}
SECTIONS: dict[str, dict[str, Any]] = {
    "rollout": {**POLICY, "max_samples": 16, "first_round": 8, "keep": 4, "max_items": 4},
    "label": {**POLICY, "k_hard": 4, "k": 4, "k_easy": 4, "max_items": 4},
    "rationalize": {
        "model": "reasoner",
        "backend": "genprm_trl.miniature.reasoner_generator:ScriptedReasoner",
        "backend_options": {"mistake_rate": 0.2},
        "samples": 2,
        "max_items": 8,
    },
    "consensus": {"min_agreement": 0.5},
}


def write_config(directory: Path, output: str = "out", problems: int = 8, **changes: Any) -> str:
    """A recipe of few problems; `changes` are sections or other options."""
    rows = [
        {"id": f"p{number}", "problem": problem.text, "answer": str(problem.answer)}
        for number, problem in enumerate(make_problems(problems, seed=2, small_share=1.0))
    ]
    write_jsonl(directory / "problems.jsonl", rows)
    config = {"problems": str(directory / "problems.jsonl"), "output_dir": str(directory / output), **SECTIONS}
    path = directory / f"{output}.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return str(path)
