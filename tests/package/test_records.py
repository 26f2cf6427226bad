"""Records to JSON and back, and what they refuse."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.errors import DataError
from genprm_trl.records import CodeRound, RationaleRecord, Solution, StepJudgement, Verdict
from genprm_trl.rows.jsonl import encode_line

filled = st.text(min_size=1).filter(lambda text: not text.isspace())
numbers = st.floats(allow_nan=False, allow_infinity=False)
rewards = st.floats(0, 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.text(), json_values, max_size=3)


@st.composite
def solutions(draw):
    steps = draw(st.lists(filled, min_size=1, max_size=5))
    return Solution(
        id=draw(filled),
        problem=draw(filled),
        steps=steps,
        answer=draw(st.none() | st.text()),
        final_answer_correct=draw(st.none() | st.booleans()),
        label=draw(st.none() | st.integers(-1, len(steps) - 1)),
        generator=draw(st.none() | st.text()),
        extra=draw(objects),
    )


judgements = st.builds(
    StepJudgement,
    rationale=st.text(),
    reward=rewards,
    status=st.sampled_from(["ok", "fallback", "no_verdict", "truncated", "error"]),
    code_rounds=st.lists(
        st.builds(CodeRound, code=st.text(), output=st.text(), status=st.text(), seconds=numbers), max_size=2
    ),
    num_tokens=st.integers(0, 10**6),
)


@st.composite
def verdicts(draw):
    size = draw(st.integers(1, 4))
    return Verdict(
        id=draw(filled),
        rewards=draw(st.lists(rewards, min_size=size, max_size=size)),
        prediction=draw(st.integers(-1, size - 1)),
        chains=draw(st.lists(st.lists(judgements, max_size=3), max_size=3)),
        label=draw(st.none() | st.integers(-1, 5)),
        threshold=draw(numbers),
    )


@st.composite
def rationales(draw):
    solution = draw(solutions())
    judged = draw(st.integers(1, len(solution.steps)))
    return RationaleRecord(
        solution=solution,
        rationales=draw(st.lists(filled, min_size=judged, max_size=judged)),
        labels=draw(st.lists(st.booleans(), min_size=judged, max_size=judged)),
        source=draw(objects),
    )


@settings(deadline=None)
@given(solutions() | verdicts() | rationales())
def test_round_trip_through_a_line_of_json(record):
    line = encode_line(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    again = type(record).from_dict(json.loads(line))
    assert again == record
    assert encode_line(again) == line


SOLUTION = {"id": "a", "problem": "p", "steps": ["s", "t"]}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"steps": None}, "steps", "must not be null"),
        ({"steps": []}, "steps", "at least one step"),
        ({"steps": "s"}, "steps", "must be a list, but is a string"),
        ({"steps": ["s", ""]}, "steps[1]", "must not be empty"),
        ({"steps": ["s", " \n"]}, "steps[1]", "blank text"),
        ({"steps": ["s", 5]}, "steps[1]", "must be a string, but is the number 5"),
        ({"steps": ["s", None]}, "steps[1]", "must be a string, but is null"),
        ({"steps": ["\ud800"]}, "steps[0]", "lone surrogate"),
        ({"problem": None}, "problem", "must not be null"),
        ({"problem": ""}, "problem", "must not be empty"),
        ({"problem": ["p"]}, "problem", "must be a string"),
        ({"label": math.nan}, "label", "must be an integer, but is the number nan"),
        ({"label": 0.5}, "label", "must be an integer, but is the number 0.5"),
        ({"label": True}, "label", "must be an integer, but is the boolean true"),
        ({"label": "1"}, "label", "must be an integer, but is a string"),
        ({"label": 2}, "label", "must be from -1 to 1, but is 2"),
        ({"label": -2}, "label", "must be from -1 to 1, but is -2"),
        ({"label": 10**4000}, "label", "too large"),
        ({"final_answer_correct": 1}, "final_answer_correct", "must be true or false, but is the number 1"),
        ({"answer": [1]}, "answer", "must be a string"),
        ({"answer": math.inf}, "answer", "finite"),
        ({"answer": True}, "answer", "must be a string"),
        ({"generator": 5}, "generator", "must be a string"),
        ({"id": 1.5}, "id", "must be a string or an integer"),
        ({"id": True}, "id", "must be a string or an integer"),
        ({"id": ""}, "id", "must not be empty"),
        ({"id": None}, "id", "is missing"),
    ],
)
def test_bad_solutions_name_the_field(change, field, message):
    with pytest.raises(DataError) as caught:
        Solution.from_dict({**SOLUTION, **change})
    assert caught.value.field == field
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["steps", "problem"])
def test_missing_fields(field):
    row = {key: value for key, value in SOLUTION.items() if key != field}
    with pytest.raises(DataError, match=f"field '{field}': is missing"):
        Solution.from_dict(row)


def test_large_solutions_are_fine():
    solution = Solution.from_dict({**SOLUTION, "steps": ["x" * 100_000] * 500, "label": 499})
    assert len(solution.steps) == 500


def test_other_fields_are_kept():
    row = {**SOLUTION, "id": 7, "answer": 18, "level": 3, "score": math.nan, "extra": {"source": "here"}}
    solution = Solution.from_dict(row)
    assert (solution.id, solution.answer) == ("7", "18")
    assert solution.extra == {"source": "here", "level": 3, "score": None}  # JSON has no NaN
    assert Solution.from_dict(SOLUTION | {"id": None}, default_id="file-1").id == "file-1"


JUDGEMENT = {"rationale": "r", "reward": 0.5, "status": "ok", "code_rounds": [], "num_tokens": 3}
VERDICT = {"id": "a", "rewards": [0.5], "prediction": -1, "chains": [[JUDGEMENT]], "label": None, "threshold": 0.5}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"rewards": None}, "rewards", "must not be null"),
        ({"rewards": [0.5, math.nan]}, "rewards[1]", "finite"),
        ({"rewards": [1.5]}, "rewards[0]", "between 0 and 1"),
        ({"rewards": [True]}, "rewards[0]", "must be a number"),
        ({"rewards": [10**400]}, "rewards[0]", "finite"),
        ({"prediction": 1}, "prediction", "from -1 to 0"),
        ({"chains": [JUDGEMENT]}, "chains[0]", "must be a list"),
        ({"chains": [[JUDGEMENT, "x"]]}, "chains[0][1]", "must be an object"),
        ({"chains": [[JUDGEMENT | {"status": "fine"}]]}, "chains[0][0].status", "must be one of ok, fallback"),
        ({"chains": [[JUDGEMENT | {"reward": None}]]}, "chains[0][0].reward", "must be a number"),
        ({"chains": [[JUDGEMENT | {"num_tokens": -1}]]}, "chains[0][0].num_tokens", "at least 0"),
        ({"chains": [[JUDGEMENT | {"code_rounds": [{"code": 1}]}]]}, "chains[0][0].code_rounds[0].code", "string"),
        ({"id": None}, "id", "is missing"),
    ],
)
def test_bad_verdicts_name_the_field(change, field, message):
    Verdict.from_dict(VERDICT)
    with pytest.raises(DataError) as caught:
        Verdict.from_dict(VERDICT | change)
    assert caught.value.field == field
    assert message in str(caught.value)


RATIONALE = {"id": "a", "solution": SOLUTION, "rationales": ["r"], "labels": [True]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"solution": SOLUTION | {"steps": []}}, "solution.steps"),
        ({"solution": "s"}, "solution"),
        ({"rationales": []}, "rationales"),
        ({"rationales": ["r", "s", "t"], "labels": [True] * 3}, "rationales"),
        ({"rationales": [""]}, "rationales[0]"),
        ({"labels": []}, "labels"),
        ({"labels": [2]}, "labels[0]"),
        ({"source": [1]}, "source"),
    ],
)
def test_bad_rationales_name_the_field(change, field):
    RationaleRecord.from_dict(RATIONALE)
    with pytest.raises(DataError) as caught:
        RationaleRecord.from_dict(RATIONALE | change)
    assert caught.value.field == field


@pytest.mark.parametrize("record_type", [Solution, Verdict, RationaleRecord])
@pytest.mark.parametrize("row", [None, [], "a", 5])
def test_a_row_must_be_an_object(record_type, row):
    with pytest.raises(DataError, match="must be an object"):
        record_type.from_dict(row)


def test_numpy_values_become_plain_numbers():
    judgement = StepJudgement("r", np.float32(0.5), "ok", [CodeRound("c", "o", "ok", np.float64(0.1))], np.int64(3))
    verdict = Verdict("a", [np.float32(0.25)], np.int64(0), [[judgement]], label=np.int64(-1))
    assert Verdict.from_dict(json.loads(encode_line(verdict))) == Verdict(
        "a", [0.25], 0, [[StepJudgement("r", 0.5, "ok", [CodeRound("c", "o", "ok", 0.1)], 3)]], label=-1
    )
