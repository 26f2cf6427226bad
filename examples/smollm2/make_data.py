"""Make solutions with rationales from GSM8K's annotated solutions and from generated expressions.

    python make_data.py GSM8K_TRAIN.jsonl OUTPUT.jsonl [--config data.yaml]

Errors are planted, and steps are written plainly or in LaTeX. The code of each rationale is really run.
"""

import argparse
import asyncio
import json
from collections import Counter
from pathlib import Path

import yaml

from genprm_trl.records import RationaleRecord
from genprm_trl.rows.jsonl import write_jsonl
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.smollm2.expressions import make_expressions
from genprm_trl.smollm2.gsm8k import make_gsm8k_solutions
from genprm_trl.smollm2.rationales import rationale_records
from genprm_trl.smollm2.worked import WorkedSolution

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("gsm8k")
parser.add_argument("output")
parser.add_argument("--config", help="numbers of solutions, shares of errors and the seed, as in data.yaml")


async def with_rationales(solutions: list[WorkedSolution]) -> tuple[list[RationaleRecord], Counter[str]]:
    """The solutions with rationales whose code has run, and why others are left out."""
    async with LocalSandbox() as sandbox:
        return await rationale_records(solutions, sandbox)


if __name__ == "__main__":
    arguments = parser.parse_args()
    plan = {"gsm8k": {"n": 90}, "expressions": {"n": 160}}
    if arguments.config:
        plan = yaml.safe_load(Path(arguments.config).read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in Path(arguments.gsm8k).read_text(encoding="utf-8").splitlines()]
    made = [*make_gsm8k_solutions(rows, **plan["gsm8k"]), *make_expressions(**plan["expressions"])]
    records, left_out = asyncio.run(with_rationales(made))
    write_jsonl(arguments.output, records)
    print(f"{len(records)} solutions in {arguments.output}; {left_out.total()} left out")
