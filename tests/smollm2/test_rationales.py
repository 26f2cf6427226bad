"""Rationales hold what their code really printed, and are in the verifier's format."""

import asyncio
from dataclasses import replace

from genprm_trl.protocol.genprm import parse_rationale
from genprm_trl.sandbox import LocalSandbox
from genprm_trl.smollm2.rationales import rationale_records
from genprm_trl.smollm2.worked import WorkedSolution, WorkedStep

STEPS = (
    WorkedStep("We look at it.", ()),
    WorkedStep("12/60 = 0.2", (("12/60", "0.2"),)),
    WorkedStep("2 + 3 = 6", (("2 + 3", "6"),)),
    WorkedStep("6 * 2 = 12", (("6 * 2", "12"),)),
)
WRONG = WorkedSolution("a", "How many?", STEPS, "10", 2, "sum", "expressions")


async def records(*solutions):
    async with LocalSandbox() as sandbox:
        return await rationale_records(solutions, sandbox)


def test_a_solution_is_judged_up_to_its_first_error():
    made, disagreeing = asyncio.run(records(WRONG))
    [record] = made
    assert not disagreeing
    assert record.labels == [True, True, False]
    parsed = [parse_rationale(text) for text in record.rationales]
    assert {each.status for each in parsed} == {"ok"}
    assert [each.rationale.blocks[0].output for each in parsed] == ["no equation", "True", "False"]
    assert parsed[1].rationale.blocks[0].code == "same = abs(12/60 - 0.2) < 0.05\nprint(same)"
    assert "It states 2 + 3 = 6." in parsed[2].rationale.analysis
    assert record.solution.to_dict()["extra"] == {"error_kind": "sum"}


def test_a_label_that_the_code_contradicts_leaves_the_solution_out():
    made, disagreeing = asyncio.run(records(replace(WRONG, label=-1), replace(WRONG, label=1)))
    assert made == []
    assert disagreeing.total() == 2
