"""The consensus filter against tables worked by hand, and against what reasoners should not write."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.labeling.consensus import (
    DROP_REASONS,
    consensus_lines,
    decide,
    disagreement,
    examine,
    judged_steps,
    left_out_share,
    outcome_of,
    verdicts_of,
)
from genprm_trl.labeling.critiques import SAMPLE_STATUSES, RationaleSample, SampledCode, SampledSolution
from genprm_trl.labeling.parquet import exported_row
from genprm_trl.protocol import parse_rationale
from genprm_trl.records import RationaleRecord, Solution
from genprm_trl.stages.file import StageSummary
from genprm_trl.training.sft.data import read_row

BEFORE, AT, NONE = "disagrees_before_first_error", "disagrees_at_first_error", "no_verdict"
Y, N = True, False


@pytest.mark.parametrize(
    ("label", "verdicts", "expected"),
    [
        # Three steps, the second is wrong: the first must be Yes, the second No, the third does not count.
        (1, [Y, N], None),
        (1, [Y, N, N], None),
        (1, [Y, N, Y], None),
        (1, [Y, N, None], None),
        (1, [Y, Y, N], AT),
        (1, [Y, Y, Y], AT),
        (1, [N, N, N], BEFORE),
        (1, [N, Y, Y], BEFORE),
        (1, [N], BEFORE),
        (1, [Y], NONE),
        (1, [Y, None, N], NONE),
        (1, [None, N, N], NONE),
        (1, [], NONE),
        # The first is wrong.
        (0, [N], None),
        (0, [N, Y, Y], None),
        (0, [Y, N, N], AT),
        # The last is wrong.
        (2, [Y, Y, N], None),
        (2, [Y, N, N], BEFORE),
        (2, [Y, Y, Y], AT),
        (2, [Y, Y], NONE),
        # None is wrong: every step must be Yes, and any No is before the end.
        (-1, [Y, Y, Y], None),
        (-1, [Y, Y, N], BEFORE),
        (-1, [N, Y, Y], BEFORE),
        (-1, [Y, Y], NONE),
    ],
)
def test_agreement_up_to_the_first_error(label, verdicts, expected):
    assert disagreement(verdicts, label, num_steps=3) == expected


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
def test_an_index_agrees_with_itself_alone(num_steps):
    indices = range(-1, num_steps)
    for label in indices:
        assert judged_steps(label, num_steps) == (num_steps if label == -1 else label + 1)
        for first_error in indices:
            found = disagreement(verdicts_of(first_error, num_steps), label, num_steps)
            if first_error == label:
                assert found is None
            elif label == -1 or -1 < first_error < label:
                assert found == BEFORE
            else:
                assert found == AT


STEPS = ["2 * 3 = 6", "6 + 1 = 8", "8 * 2 = 16"]


def solution(label: int | None = 1) -> Solution:
    return Solution("s1", "What is (2 * 3 + 1) * 2?", STEPS, label=label)


def part(number: int, code: str | None = None, output: str | None = "True", analysis: str = "It says so.") -> str:
    block = ""
    if code is not None:
        block = f"```python\n{code}\n```\n"
        if output is not None:
            block += f"[Code Output]\n\n```\n{output}\n```\n"
    return f"### Paragraph {number}\n<analyze>\n{analysis}\n</analyze>\n<verify>\n{block}</verify>\n\n"


RAN = [SampledCode("a = 6\nprint(a == 2 * 3)", "True", "ok"), SampledCode("print(a + 1 == 8)", "False", "ok")]
GOOD = part(1, RAN[0].code) + part(2, RAN[1].code, "False") + "\\boxed{2}"


def sample(answer: str = GOOD, ran: list[SampledCode] | None = None, **fields) -> RationaleSample:
    return RationaleSample(fields.pop("status", "complete"), answer, RAN if ran is None else ran, **fields)


def reason(answer: str, ran: list[SampledCode] | None = None, label: int = 1) -> str | None:
    return examine(solution(label), sample(answer, ran)).reason


def test_a_critique_that_agrees_becomes_the_conversation_of_sft_byte_for_byte():
    decision = decide(SampledSolution(solution(), [sample()], {"reasoner": "r"}))
    assert decision.record == RationaleRecord(
        solution(),
        [
            "<analyze>\nLet's analyze the Paragraph 1 step by step: It says so.\n</analyze>\n"
            "<verify>\nLet's use python code to find any potential error:\n```python\na = 6\nprint(a == 2 * 3)\n```\n"
            "[Code Output]\n\n```\nTrue\n```\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n",
            "<analyze>\nLet's analyze the Paragraph 2 step by step: It says so.\n</analyze>\n"
            "<verify>\nLet's use python code to find any potential error:\n```python\nprint(a + 1 == 8)\n```\n"
            "[Code Output]\n\n```\nFalse\n```\n</verify>\n<output>\n**Judgement**: $\\boxed{No}$\n</output>\n",
        ],
        [True, False],
        {"reasoner": "r", "mode": "full", "sample": 0, "samples": 1, "agreeing": 1},
    )
    conversation = read_row(json.loads(json.dumps(decision.record.to_dict())))
    assert conversation.mode == "full"
    assert [message["content"] for opening in conversation.openings for message in opening] == [
        "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step.",
        "What is (2 * 3 + 1) * 2?\n2 * 3 = 6",
        "6 + 1 = 8",
    ]
    assert conversation.rationales == decision.record.rationales
    assert conversation.judgements == [True, False]


@pytest.mark.parametrize(
    ("answer", "ran", "expected"),
    [
        (GOOD, None, None),
        (GOOD.replace("\\boxed{2}", "\\boxed{1}"), None, BEFORE),
        (GOOD.replace("\\boxed{2}", "\\boxed{-1}"), None, AT),
        (GOOD.replace("\\boxed{2}", "\\boxed{3}"), None, AT),
        (GOOD.replace("\\boxed{2}", "\\boxed{4}"), None, "verdict_out_of_range"),
        (GOOD.replace("\\boxed{2}", "\\boxed{0}"), None, NONE),
        (GOOD.replace("\\boxed{2}", "That is all."), None, NONE),
        ("", [], NONE),
        ("\\boxed{2}", [], "unparsable"),  # a verdict on nothing
        # The verdict is readable; it is the headings that are not.
        (GOOD.replace("### Paragraph ", "### Step "), None, "unparsable"),
        (GOOD.replace("### Paragraph 2", "### Paragraph two"), None, "unparsable"),
        (GOOD.replace("### Paragraph ", "### Step ").replace("\\boxed{2}", "\\boxed{1}"), None, BEFORE),
        (GOOD.replace("### Paragraph 1", "#### Paragraph 1: Product").replace("{2}", "{\\text{2}}"), None, None),
        (GOOD.replace("```python\n", "```python \n"), None, None),
        (GOOD.removesuffix("</verify>\n\n\\boxed{2}"), None, NONE),
        (part(2, RAN[1].code, "False") + part(1, RAN[0].code) + "\\boxed{2}", None, "unparsable"),
        (part(1, RAN[0].code) + GOOD, None, "unparsable"),  # a paragraph critiqued twice
        (GOOD.replace("\\boxed", part(1, RAN[0].code) + "\\boxed"), None, "unparsable"),
        (GOOD.replace("<analyze>\nIt says so.\n</analyze>", "It says so."), None, "unparsable"),
        (part(1) + part(2, RAN[1].code, "False") + "\\boxed{2}", RAN[1:], "code_not_run"),
        (part(1, RAN[0].code, None) + part(2, RAN[1].code, "False") + "\\boxed{2}", None, "code_not_run"),
        (GOOD, RAN[:1], "code_not_run"),
        (GOOD, RAN[::-1], "code_not_run"),  # run in another order than it stands in
        (GOOD, [RAN[0], SampledCode(RAN[1].code, "True", "ok")], "output_altered"),
        # What follows the first error does not count, whatever it looks like.
        (GOOD.replace("\\boxed", part(3) + "\\boxed"), None, None),
        # Code that is run in the analysis would be taught as the model's own words.
        (GOOD.replace("It says so.", "Let me see: [Code Output]\n\n```\n6\n```\n"), None, "unparsable"),
    ],
)
def test_why_a_critique_is_dropped(answer, ran, expected):
    assert reason(answer, ran) == expected


def test_tags_of_the_format_in_an_output_make_it_unusable():
    for output in ("True\n</verify>", "1\n```\n2", "### Paragraph 2\n", "</analyze>", "\\boxed{2}", "</think>"):
        ran = [SampledCode(RAN[0].code, output, "ok"), RAN[1]]
        answer = part(1, RAN[0].code, output) + part(2, RAN[1].code, "False") + "\\boxed{2}"
        found = reason(answer, ran)
        # A tag of another place does no harm where it is read back as what it is.
        if found is None:
            assert output in ("</analyze>", "### Paragraph 2\n")
        else:
            assert found in ("output_altered", "code_not_run", "unparsable", "no_verdict")


def test_a_verdict_that_a_program_prints_is_none():
    code = SampledCode("print('\\\\boxed{2}')", "\\boxed{2}", "ok")
    tail = f"```python\n{code.code}\n```\n[Code Output]\n\n```\n{code.output}\n```\n"
    assert reason(GOOD.replace("\\boxed{2}", tail), [*RAN, code]) == NONE


@pytest.mark.parametrize("status", [status for status in SAMPLE_STATUSES if status != "complete"])
def test_an_unfinished_critique_is_dropped_for_that(status):
    decision = decide(SampledSolution(solution(), [sample(status=status)]))
    assert (decision.record, decision.reason) == (None, status)


def test_an_error_of_the_code_is_something_to_learn_from():
    ran = [SampledCode("a = 6", "", "ok"), SampledCode("print(b)", "Code execute Error: NameError: b", "error")]
    answer = part(1, ran[0].code, "") + part(2, ran[1].code, ran[1].output) + "\\boxed{2}"
    assert reason(answer, ran) is None


def test_the_solution_that_is_right():
    code = [SampledCode(f"print({number})", str(number), "ok") for number in range(3)]
    answer = "".join(part(number + 1, ran.code, ran.output) for number, ran in enumerate(code)) + "\\boxed{-1}"
    decision = decide(SampledSolution(solution(-1), [sample(answer, code)]))
    assert decision.record.labels == [True, True, True]
    assert decide(SampledSolution(solution(2), [sample(answer, code)])).reason == AT


def test_the_choice_among_several():
    failed = sample(ran=[RAN[0], SampledCode(RAN[1].code, "False", "error")], num_tokens=10)
    long, short, wrong = sample(num_tokens=90), sample(num_tokens=80), sample(GOOD.replace("{2}", "{1}"), num_tokens=1)

    def chosen(*samples: RationaleSample) -> int | None:
        record = decide(SampledSolution(solution(), list(samples))).record
        return None if record is None else record.source["sample"]

    assert chosen(failed, long, short) == 2  # no failed code first, then the shorter one
    assert chosen(short, short) == 0
    assert chosen(wrong, failed) == 1
    assert chosen(wrong, wrong) is None


def test_the_reason_is_that_of_the_critique_that_came_furthest():
    early, at, late = sample(status="out_of_tokens"), sample(GOOD.replace("{2}", "{3}")), sample(ran=[])
    assert decide(SampledSolution(solution(), [late, early, at])).reason == "code_not_run"
    assert decide(SampledSolution(solution(), [early, at])).reason == AT
    assert decide(SampledSolution(solution(), [early])).reason == "out_of_tokens"


@pytest.mark.parametrize(("share", "expected"), [(0.0, None), (0.5, None), (0.51, "minority"), (1.0, "minority")])
def test_a_minority_that_agrees_may_be_too_little(share, expected):
    # Two of the four readable verdicts agree; the one that cannot be read has no say.
    others = [sample(GOOD.replace("{2}", f"{{{number}}}")) for number in (1, 3)]
    sampled = SampledSolution(solution(), [sample(), *others, sample(), sample(status="out_of_tokens")])
    decision = decide(sampled, min_agreement=share)
    assert decision.reason == expected
    if decision.record is not None:
        assert (decision.record.source["agreeing"], decision.record.source["samples"]) == (2, 5)


def test_without_the_filter_the_critique_is_its_own_label():
    sampled = SampledSolution(solution(-1), [sample()])
    assert decide(sampled).reason == BEFORE
    record = decide(sampled, require_agreement=False).record
    assert record.labels == [True, False]
    assert record.solution.label == 1
    assert decide(SampledSolution(solution(None), [sample()]), require_agreement=False).record.labels == [True, False]


def test_a_row_whose_label_is_the_critiques_is_read_again():
    labelled = replace(solution(-1), extra={"labels": [True] * len(solution().steps), "mc": [0.5]})
    record = decide(SampledSolution(labelled, [sample()]), require_agreement=False).record
    assert RationaleRecord.from_dict(record.to_dict()) == record
    assert Solution.from_dict(exported_row(record)).label == 1
    assert labelled.label == -1


def test_what_cannot_be_decided():
    with pytest.raises(DataError, match="'s1' has no label"):
        decide(SampledSolution(solution(None), [sample()]))
    with pytest.raises(ConfigError, match="min_agreement"):
        decide(SampledSolution(solution(), [sample()]), min_agreement=1.1)


def test_counts():
    summary = StageSummary()
    groups = [[sample()], [sample(ran=[]), sample(GOOD.replace("{2}", "{1}"))], [sample(status="out_of_tokens")]]
    for samples in groups:
        decision = decide(SampledSolution(solution(), samples))
        summary.add(outcome_of(decision))
    assert (summary.items, summary.rows) == (3, 1)
    assert summary.dropped == {"code_not_run": 1, "out_of_tokens": 1}
    samples = {"usable": 1, "code_not_run": 1, BEFORE: 1, "out_of_tokens": 1}
    assert summary.counts == {f"samples/{reason}": number for reason, number in samples.items()}
    assert left_out_share(summary) == 2 / 3
    assert consensus_lines(summary)[0].endswith("1 of 3 solutions (66.7 % dropped)")


HOSTILE = st.lists(
    st.sampled_from([part(1, RAN[0].code), part(2, RAN[1].code, "False"), "\\boxed{2}", GOOD, "\n```\n", "</verify>"])
    | st.text(max_size=8),
    max_size=8,
).map("".join)


@settings(deadline=None)
@given(st.text(st.characters(codec=None)) | HOSTILE, st.integers(-1, 2), st.booleans())
def test_any_answer_ends_in_a_record_or_a_reason(answer, label, require_agreement):
    decision = decide(SampledSolution(solution(label), [sample(answer)]), require_agreement=require_agreement)
    if decision.record is None:
        assert decision.reason in DROP_REASONS
        return
    assert decision.reason is None
    judgements = [parse_rationale(text).rationale.judgement for text in decision.record.rationales]
    assert judgements == decision.record.labels
    if require_agreement:
        assert decision.record.labels == [index != label for index in range(judged_steps(label, 3))]
    read_row(decision.record)  # fit for training


@given(
    st.lists(
        st.builds(
            RationaleSample,
            st.sampled_from(SAMPLE_STATUSES),
            st.text(),
            st.lists(st.builds(SampledCode, st.text(), st.text(), st.text()), max_size=2),
            st.integers(0, 10**6),
            st.none() | st.text(),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_samples_are_written_and_read_without_loss(samples):
    sampled = SampledSolution(solution(), samples, {"reasoner": "r"})
    row = json.loads(json.dumps(sampled.to_dict()))
    assert SampledSolution.from_dict(row) == sampled
    assert SampledSolution.from_dict(row).digest == sampled.digest


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"samples": []}, "samples"),
        ({"samples": [{"status": "fine", "answer": ""}]}, "samples[0].status"),
        ({"samples": [{"status": "complete", "answer": "", "code_rounds": [{"code": 1}]}]}, "code_rounds[0].code"),
        ({"solution": {"id": "s", "problem": "p"}}, "solution.steps"),
    ],
)
def test_a_bad_row_is_named(change, field):
    row = SampledSolution(solution(), [sample()]).to_dict() | change
    with pytest.raises(DataError) as error:
        SampledSolution.from_dict(row)
    assert field in error.value.field
