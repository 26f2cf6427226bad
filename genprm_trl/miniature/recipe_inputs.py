"""What the data recipe starts from in the miniature world: word problems with answers, and a tiny policy.

    python -m genprm_trl.miniature.recipe_inputs [--output_dir outputs/miniature]

writes `problems.jsonl` and trains `policy/` on right solutions to other problems, from random weights. The policy
learns tables of small sums and products on the way, which takes most of the time; where one is there, it is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from genprm_trl.errors import GenPRMError
from genprm_trl.miniature.policy import train_policy
from genprm_trl.miniature.tokenizer import build_tokenizer
from genprm_trl.miniature.world import make_problems
from genprm_trl.rows.jsonl import write_json, write_jsonl
from genprm_trl.rows.outputs import CommandFiles, command_files
from genprm_trl.stages.settings import changes, read_settings, refuse_changes

# Of the problems; the policy's training draws its own with other seeds.
_PROBLEM_SEED = 11
_BATCH = 16


def make_inputs(output_dir: str | Path, *, problems: int, steps: int, seed: int = 0, **options: Any) -> Path:
    """Writes the problems, and trains the policy unless there is one.

    Args:
        output_dir: Gets `problems.jsonl` and `policy/`.
        problems: How many problems, with numbers small enough for the policy.
        steps: Optimiser steps of the policy's training, each of 16 solutions that it has not seen before.
        seed: Fixes the policy's data and weights.
        options: Further fields of `SFTConfig`.

    Returns:
        The policy's directory.

    Raises:
        ConfigError: The directory was made with other numbers, or holds problems of somebody else.
    """
    output = Path(output_dir)
    rows = [
        {"id": f"word-{number}", "problem": problem.text, "answer": str(problem.answer)}
        for number, problem in enumerate(make_problems(problems, _PROBLEM_SEED, small_share=1.0))
    ]
    made_with = {"problems": problems, "steps": steps, "seed": seed}
    mark = output / "recipe_inputs.json"
    refuse_changes(
        changes(read_settings(mark) or made_with, made_with),
        what=f"{output} was made with other numbers",
        instead="name another --output_dir",
    )
    files = CommandFiles(others=[output / "problems.jsonl"], overwrite=None, name="--output_dir", command="inputs")
    with command_files(files):
        write_jsonl(output / "problems.jsonl", rows, result=True)
    write_json(mark, made_with)
    policy = output / "policy"
    if not (policy / "model.safetensors").exists():
        tokenizer = build_tokenizer()
        train_policy(str(policy), tokenizer, n=_BATCH * steps, max_steps=steps, seed=seed, use_cpu=True, **options)
        tokenizer.save_pretrained(policy)
    return policy


def main() -> None:
    """Makes the inputs with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/miniature")
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--steps", type=int, default=3000, help="of the policy's training")
    arguments = parser.parse_args()
    try:
        policy = make_inputs(arguments.output_dir, problems=arguments.problems, steps=arguments.steps)
    except GenPRMError as error:
        parser.error(str(error))
    print(f"problems           {Path(arguments.output_dir) / 'problems.jsonl'}\npolicy             {policy}")


if __name__ == "__main__":
    main()
