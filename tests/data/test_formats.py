"""Row formats of other datasets, read by hand-checked example."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.data.formats import (
    FORMATS,
    describe_format,
    detect_format,
    read_stepwise,
    to_processbench,
    to_solutions,
)
from genprm_trl.data.solutions import load_solutions
from genprm_trl.errors import DataError
from genprm_trl.records import Solution
from tests.helpers.paths import SAMPLES, shared_data

DATA = SAMPLES
FIELDS = [
    *("id", "problem", "steps", "label", "question", "answer", "ground_truth", "m", "solution", "input", "prompt"),
    *("completions", "labels", "is_correct", "candidates", "steps", "target", "mistake_index"),
    *("modified_process", "error_steps", "modified_question", "classification", "idx"),
    *("uuid", "model_output_steps", "model_output_solution_correctness", "model_output_solution_first_error_step"),
]


def rows(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def convert(row, format=None):
    return to_solutions(row, "row", format)


@pytest.mark.parametrize(
    ("file", "format"),
    [
        ("bigbench_mistake_sample", "bigbench_mistake"),
        ("prmbench_sample", "prmbench"),
        ("mr_gsm8k_sample", "mr_gsm8k"),
        ("processbench_sample", "processbench"),
        ("prm800k_sample", "prm800k"),
        ("math_shepherd_sample", "math_shepherd"),
        ("stepwise_sample", "stepwise"),
        ("gsm8k_solutions_sample", "gsm8k_solutions"),
        ("gsm8k_sample", "gsm8k"),
        ("math_sample", "math"),
    ],
)
def test_each_format_is_detected(file, format):
    for row in rows(file):
        assert detect_format(row) == format
        # As parquet and Arrow have it: every column is there, the absent ones null.
        columns = [*FIELDS, "unheard_of"]
        assert detect_format(dict.fromkeys(columns) | row) == format
        assert convert(dict.fromkeys(columns) | row) == convert(row, format)


def test_unknown_rows_are_refused_and_say_what_is_known():
    with pytest.raises(
        DataError, match=r"field 'steps': is missing.*candidates, .*processbench, prm800k.*its fields are: id, problem"
    ):
        detect_format({"id": "a", "problem": "p"})
    with pytest.raises(DataError, match="its fields are: none"):
        detect_format({})
    with pytest.raises(KeyError):
        convert({}, "parquet")


# ---------------------------------------------------------------------------------------------------------------------
# ProcessBench


def test_processbench_rows_are_unchanged():
    for row in rows("processbench_sample"):
        (solution,) = convert(row)
        assert to_processbench(solution) == row
        assert solution.extra == {}


# ---------------------------------------------------------------------------------------------------------------------
# TRL's stepwise supervision


def test_stepwise():
    right, wrong, mixed = (convert(row)[0] for row in rows("stepwise_sample"))
    assert (right.label, wrong.label, mixed.label) == (-1, 0, 1)
    assert right.problem == "What is 2 + 3 + 4?"
    assert right.steps == ["2 + 3 = 5.", "5 + 4 = 9."]
    assert mixed.extra == {"labels": [True, False, True]}


steps = st.lists(st.text(min_size=1).filter(lambda text: not text.isspace()), min_size=1, max_size=5)


@settings(deadline=None)
@given(steps, st.data())
def test_no_label_of_a_stepwise_row_is_lost(completions, data):
    labels = data.draw(st.lists(st.booleans(), min_size=len(completions), max_size=len(completions)))
    row = {"prompt": "p", "completions": completions, "labels": labels}
    assert read_stepwise(row) == ("p", completions, labels)
    (solution,) = convert(row)
    # And through a file row of our own.
    again = Solution.from_dict(json.loads(json.dumps(solution.to_dict())))
    first = solution.label if solution.label >= 0 else len(labels)
    rest = [True] * first + [False] * (len(labels) - first)
    assert (again.problem, again.steps) == ("p", completions)
    assert again.extra.get("labels", rest) == labels


def test_stepwise_takes_zeros_and_ones_and_other_fields():
    (solution,) = convert(
        {"id": 5, "prompt": "p", "completions": ["a", "b"], "labels": [1.0, 0], "level": 2, "answer": 4}
    )
    assert (solution.id, solution.label, solution.answer, solution.extra) == ("5", 1, "4", {"level": 2})


def test_blank_steps_are_read_as_trl_has_them_but_make_no_solution():
    row = {"prompt": "", "completions": ["a", " "], "labels": [True, False]}
    assert read_stepwise(row) == ("", ["a", " "], [True, False])
    with pytest.raises(DataError, match=r"field 'prompt': must not be empty"):
        convert(row)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"labels": [True]}, "labels", "must be as many as the completions: 1 for 2"),
        ({"labels": None}, "labels", "must not be null"),
        ({"labels": [True, None]}, "labels[1]", "must be true or false, but is null"),
        ({"labels": [True, float("nan")]}, "labels[1]", "the number nan"),
        ({"labels": [True, 0.7]}, "labels[1]", "the number 0.7"),
        ({"labels": [True, 2]}, "labels[1]", "the number 2"),
        ({"labels": ["true", "wrong"]}, "labels[1]", "is a string"),
        ({"completions": ["a", ""]}, "completions[1]", "must not be empty"),
        ({"prompt": [{"role": "user", "content": "p"}]}, "prompt", "must be a string, but is a list"),
    ],
)
def test_bad_stepwise_rows(change, field, message):
    with pytest.raises(DataError) as caught:
        convert({"prompt": "p", "completions": ["a", "b"], "labels": [True, False], **change})
    assert caught.value.field == field
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# GSM8K


def test_gsm8k_reference_solutions():
    first, second = (convert(row)[0] for row in rows("gsm8k_sample"))
    assert first.steps == [
        "On Monday 48/2=24 sweets are eaten.",
        "That leaves 48-24=24 sweets.",
        "After Tuesday 24-6=18 sweets are left.",
    ]
    assert (first.id, first.answer, first.label, first.final_answer_correct) == ("row", "18", -1, True)
    assert second.answer == "1,500"


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"question": "q", "answer": "no mark"}, "answer", "must end with '#### '"),
        ({"question": "q", "answer": "s\n#### "}, "answer", "must end with '#### '"),
        ({"question": "q", "answer": "#### 5"}, "answer", "holds no steps"),
        ({"question": "", "answer": "s\n#### 5"}, "question", "must not be empty"),
        ({"question": "q", "answer": 5}, "answer", "must be a string"),
    ],
)
def test_bad_gsm8k_rows(row, field, message):
    with pytest.raises(DataError) as caught:
        convert(row)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_gsm8k_model_solutions():
    row = rows("gsm8k_solutions_sample")[0]
    solutions = convert(row)
    assert [solution.id for solution in solutions] == [
        "row-small",
        "row-small_checked",
        "row-large",
        "row-large_checked",
    ]
    assert [solution.final_answer_correct for solution in solutions] == [False, False, False, True]
    assert {solution.answer for solution in solutions} == {"12"}
    assert {solution.label for solution in solutions} == {None}
    assert {solution.extra["problem_id"] for solution in solutions} == {"row"}
    assert solutions[1].generator == "small_checked"
    assert solutions[1].steps == ["The trays hold 6*15=90 rolls", "After the sale 90-70=20 rolls are left", "A: 20"]


def test_solutions_that_stop_within_an_annotation_stay_as_the_model_left_them():
    solutions = load_solutions(DATA / "gsm8k_solutions_sample.jsonl")
    assert len({solution.id for solution in solutions}) == len(solutions) == 48
    marked = [step for solution in solutions for step in solution.steps if "<<" in step]
    assert [step[step.index("<<") :] for step in marked] == ["<<59*7", "<<22*18=396", "<<44/"]


def test_whole_file_of_published_model_solutions():
    solutions = load_solutions(shared_data("gsm8k/model_solutions.jsonl"))
    assert len({solution.id for solution in solutions}) == len(solutions) == 2640
    marked = [step for solution in solutions for step in solution.steps if "<<" in step]
    # Four solutions stop within an annotation, at the model's limit.
    assert len(marked) == 4
    assert not any(">>" in step for step in marked)
    assert sum(len(solution.steps) == 1 for solution in solutions) > 0


@pytest.mark.parametrize(
    ("sampled", "field"),
    [
        ({"solution": "s"}, "m.is_correct"),
        ({"solution": "s", "is_correct": 1}, "m.is_correct"),
        ({"solution": " ", "is_correct": True}, "m.solution"),
        ({"solution": None, "is_correct": True}, "m.solution"),
        ({"solution": "<<1+1=2>>", "is_correct": True}, "m.solution"),
    ],
)
def test_bad_model_solutions(sampled, field):
    with pytest.raises(DataError) as caught:
        convert({"question": "q", "ground_truth": "s\nA: 5", "m": sampled})
    assert caught.value.field == field


# ---------------------------------------------------------------------------------------------------------------------
# Candidates


def test_bigbench_mistake_traces():
    solutions = [convert(row)[0] for row in rows("bigbench_mistake_sample")]
    assert [solution.label for solution in solutions] == [2, -1, 0, 2, -1, 0]
    assert [solution.final_answer_correct for solution in solutions] == [False, True, False, False, True, False]
    assert solutions[0].problem == "((3 + 4) * (2 - 5)) ="
    assert (solutions[0].answer, solutions[0].extra) == ("-21", {})
    assert solutions[4].steps[1] == "(blank)"  # or the places of the steps behind it would be others


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mistake_index": 9}, "mistake_index"),
        ({"mistake_index": -1}, "mistake_index"),
        ({"steps": []}, "steps"),
        ({"steps": ["a", 5]}, r"steps\[1\]"),
        ({"input": " "}, "input"),
    ],
)
def test_bad_bigbench_mistake_rows(change, field):
    row = rows("bigbench_mistake_sample")[0]
    with pytest.raises(DataError, match=f"field '{field}'"):
        convert({**row, **change})
    del row["mistake_index"]
    with pytest.raises(DataError, match="field 'mistake_index': is missing; null stands for no mistake"):
        convert(row)


def test_prmbench_rows():
    read = [convert(row) for row in rows("prmbench_sample")]
    # The original solution of a redundant one is judged, too.
    assert [[solution.id for solution in solutions] for solutions in read[:3]] == [
        ["correct_own_0", "redundency_own_0"], ["correct_own_1", "redundency_own_1"], ["circular_own_0"]
    ]  # fmt: skip
    original, modified = read[0]
    assert (original.label, original.extra) == (-1, {"classification": "correct", "error_steps": []})
    assert (modified.label, modified.extra["labels"]) == (1, [True, False, True, True])
    assert original.steps == ["3 * 4 = 12.", "12 - 2 = 10.", "So 10 are left."]
    missing, deception = read[7][0], read[8][0]
    assert missing.problem.startswith("Ann has 3 bags of pears")
    assert missing.steps[1] == "(blank)"
    assert (deception.label, deception.extra["error_steps"]) == (1, [0, 2, 3])  # there is no step 0
    assert read[6][0].extra["error_steps"] == [1, 9]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"error_steps": [1, "2"]}, r"error_steps\[1\]"),
        ({"error_steps": 2}, "error_steps"),
        ({"modified_process": []}, "modified_process"),
        ({"original_process": None}, "original_process"),
        ({"classification": None}, "classification"),
        ({"modified_question": " "}, "modified_question"),
    ],
)
def test_bad_prmbench_rows(change, field):
    with pytest.raises(DataError, match=f"field '{field}'"):
        convert({**rows("prmbench_sample")[0], **change})


def test_mr_gsm8k_rows():
    solutions = [convert(row)[0] for row in rows("mr_gsm8k_sample")]
    assert [solution.label for solution in solutions] == [-1, 1, 0, -1, 2, 0]
    assert [solution.final_answer_correct for solution in solutions] == [True, False, False, True, False, True]
    assert (solutions[1].id, solutions[1].answer) == ("own-1", "10")
    assert solutions[1].extra == {
        "first_error_reason": "The pears that she eats are added.", "question_type": "original"
    }  # fmt: skip
    assert solutions[4].steps[1] == "Step 2: "


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_output_solution_first_error_step": 4}, "model_output_solution_first_error_step"),
        ({"model_output_solution_first_error_step": "N/A"}, "model_output_solution_first_error_step"),
        ({"model_output_solution_correctness": "maybe"}, "model_output_solution_correctness"),
        ({"model_output_answer_correctness": "maybe"}, "model_output_answer_correctness"),
        ({"model_output_steps": "Step 1"}, "model_output_steps"),
        ({"question": ""}, "question"),
    ],
)
def test_bad_mr_gsm8k_rows(change, field):
    with pytest.raises(DataError, match=f"field '{field}'"):
        convert({**rows("mr_gsm8k_sample")[1], **change})


def test_candidates():
    row = {
        "question": "2+2?",
        "answer": 4,
        "candidates": [{"steps": ["a", "b"], "final_answer_correct": True}, {"text": "One.\n\n#### 3"}, "#### 5"],
    }
    assert detect_format(row) == "candidates"
    solutions = convert(row)
    assert [solution.id for solution in solutions] == ["row-0", "row-1", "row-2"]
    assert [solution.steps for solution in solutions] == [["a", "b"], ["One.", "#### 3"], ["#### 5"]]
    assert [solution.final_answer_correct for solution in solutions] == [True, None, None]
    assert {(solution.problem, solution.answer) for solution in solutions} == {("2+2?", "4")}
    assert {solution.extra["problem_id"] for solution in solutions} == {"row"}
    assert [solution.id for solution in convert({**row, "id": 7})] == ["7-0", "7-1", "7-2"]


# ---------------------------------------------------------------------------------------------------------------------
# MATH


def test_math_reference_solutions():
    row = rows("math_sample")[0]
    (solution,) = convert(row)
    assert solution.id == "test/prealgebra/sample.json"
    assert solution.answer == "\\frac{5}{6}"
    assert len(solution.steps) == 2
    assert solution.extra == {"subject": "Prealgebra", "level": 1}
    (unmarked,) = convert({key: value for key, value in row.items() if key not in ("answer", "unique_id")})
    assert (unmarked.answer, unmarked.id, unmarked.label) == ("\\frac{5}{6}", "row", -1)
    bare = {"problem": row["problem"], "solution": row["solution"]}
    (named,) = convert(bare, "math")
    assert (named.answer, named.label, named.final_answer_correct) == ("\\frac{5}{6}", -1, True)


# ---------------------------------------------------------------------------------------------------------------------
# Texts of one's own


MULTIPLIED = {"problem": "What is 5*3?", "solution": "Step 1: 5*3=16\nStep 2: So it is \\boxed{16}."}


@pytest.mark.parametrize(
    "row",
    [
        MULTIPLIED,
        {**MULTIPLIED, "id": "2"},
        {**MULTIPLIED, "level": "hard"},
        {**MULTIPLIED, "subject": "Algebra"},
        {**MULTIPLIED, "answer": None, "unique_id": None},
        # The columns of MATH, and what says that a model wrote the solution, or how good it is.
        {**MULTIPLIED, "level": "Level 1", "type": "Algebra", "generator": "m"},
        {**MULTIPLIED, "level": "Level 1", "subject": "Algebra", "model": "m"},
        {**MULTIPLIED, "unique_id": "test/1.json", "is_correct": False},
        {"question": MULTIPLIED["problem"], "response": MULTIPLIED["solution"]},
        {"question": MULTIPLIED["problem"], "solution": MULTIPLIED["solution"]},
        {"prompt": MULTIPLIED["problem"], "completion": MULTIPLIED["solution"]},
        {"problem": MULTIPLIED["problem"], "text": "<think>Is it \\boxed{15}?</think>" + MULTIPLIED["solution"]},
    ],
)
def test_a_text_of_ones_own_has_no_label_and_no_answer(row):
    assert detect_format(row) == "text"
    (solution,) = convert(row)
    assert solution.steps == ["Step 1: 5*3=16", "Step 2: So it is \\boxed{16}."]
    assert (solution.label, solution.answer, solution.final_answer_correct) == (None, None, None)
    assert solution.problem == "What is 5*3?"


def test_a_text_has_the_label_and_answer_that_its_row_gives():
    (solution,) = convert(
        {**MULTIPLIED, "answer": 15, "label": 0.0, "final_answer_correct": False, "generator": "m", "unique_id": "u"}
    )
    assert (solution.id, solution.answer, solution.label) == ("u", "15", 0)
    assert (solution.final_answer_correct, solution.generator, solution.extra) == (False, "m", {})
    (by_steps,) = convert({**MULTIPLIED, "labels": [1.0, 0.0]})
    assert by_steps.label == 1


def test_a_question_with_another_solution_than_its_answer_is_no_gsm8k():
    (solution,) = convert({"question": "5*3?", "answer": "15", "solution": "5*3=16"})
    assert (solution.steps, solution.answer, solution.label) == (["5*3=16"], "15", None)
    with pytest.raises(DataError, match="no other known format"):
        detect_format({"question": "5*3?", "answer": "5*3=16\n#### 16", "generator": "m"})


@pytest.mark.parametrize("text", ["<think>5*3 is", "5*3 <think>is 16?", "<think>a</think>", "a</think>\n"])
def test_thoughts_that_do_not_end_are_no_solution(text):
    with pytest.raises(DataError, match="field 'solution': holds no steps"):
        convert({"problem": "p", "solution": text})
    with pytest.raises(DataError, match=r"field 'candidates\[1\]': holds no steps"):
        convert({"problem": "p", "candidates": ["a", text]})


def test_a_row_that_does_not_look_like_the_reference_solutions_before_it_is_refused():
    reference = rows("math_sample")[0]
    with pytest.raises(DataError, match="row 2: is not in the format of the first rows, math"):
        load_solutions([reference, {**MULTIPLIED, "id": "own"}])
    assert len(load_solutions([reference, {**MULTIPLIED, "id": "own"}], format="math")) == 2


def test_the_recognised_format_is_told_once():
    told = []
    load_solutions([MULTIPLIED, {**MULTIPLIED, "id": "b"}], on_format=told.append)
    assert told == ["text"]
    assert "without labels" in describe_format("text")


# ---------------------------------------------------------------------------------------------------------------------
# Labels


STEPS = {"problem": "p", "steps": ["a", "b", "c"]}


@pytest.mark.parametrize("label", [-1, -1.0, 2, 2.0])
def test_labels_may_be_whole_floats(label):
    (solution,) = convert({**STEPS, "label": label})
    assert solution.label == int(label)
    assert isinstance(solution.label, int)


@pytest.mark.parametrize("label", [0.5, float("nan"), float("inf"), True, "1", 3.0, -2.0])
def test_other_labels_are_refused(label):
    with pytest.raises(DataError, match="field 'label'"):
        convert({**STEPS, "label": label})


@pytest.mark.parametrize(
    ("label", "labels"),
    [
        (-1, [True, False, True]),
        (-1, [1, 1, 0]),
        (0, [True, False, False]),
        (1, [1.0, 1.0, 1.0]),
        (2, [True, False]),
        (1, [True, True]),
    ],
)
def test_labels_that_contradict_the_label_are_refused(label, labels):
    with pytest.raises(DataError, match=r"field 'label': says that .*, but the row's 'labels' say"):
        convert({**STEPS, "label": label, "labels": labels})
    row = {"prompt": "p", "completions": [*"abc"][: len(labels)], "labels": labels, "label": label}
    if label < len(labels):
        with pytest.raises(DataError, match="field 'label'"):
            convert(row)


@pytest.mark.parametrize(
    ("label", "labels", "expected"),
    [
        (1, [True, False, True], 1),
        (1, [True, False], 1),
        (2, [True, True], 2),
        (-1, [1, 1, 1], -1),
        (None, [1, 0, 0], 1),
        (None, [1.0, 1.0, 1.0], -1),
        (None, [True, False], 1),
        (None, ["true", "False", "true"], 1),
        (None, ["1", "1", "1"], -1),
        (None, [], None),
        (2, ["easy"], 2),
        (0, [0.3, 0.2, 0.9], 0),
        (0, [], 0),
    ],
)
def test_labels_that_agree_are_taken(label, labels, expected):
    (solution,) = convert({**STEPS, "label": label, "labels": labels})
    assert solution.label == expected


@pytest.mark.parametrize(
    ("labels", "field", "message"),
    [
        ([True], "labels", "must be as many as the steps, or end with a wrong one: 1 for 3"),
        ([float("nan"), 1, 1], "labels[0]", "the number nan"),
        ([True, None, True], "labels[1]", "is null"),
        (["easy", "hard", "easy"], "labels[0]", "is a string"),
        ("true", "labels", "must be a list"),
        ({"0": True}, "labels", "must be a list"),
    ],
)
def test_labels_that_cannot_be_read_are_refused_where_there_is_no_label(labels, field, message):
    for row in (STEPS, {"problem": "p", "solution": "a\n\nb\n\nc"}):
        with pytest.raises(DataError, match=message) as caught:
            convert({**row, "labels": labels})
        assert caught.value.field == field


def test_there_are_no_more_labels_than_steps():
    with pytest.raises(DataError, match="field 'labels': must be as many as the steps: 4 for 3"):
        convert({**STEPS, "labels": [True] * 4})


# ---------------------------------------------------------------------------------------------------------------------
# PRM800K


def test_prm800k_first_phase():
    path, other_start, refused_end = convert(rows("prm800k_sample")[0])
    assert path.steps == ["Multiplication comes first.", "$4 \\cdot 2 = 8$.", "$3 + 8 = 11$."]
    assert (path.id, path.label, path.answer, path.final_answer_correct) == ("row", -1, "11", True)
    assert path.extra["ratings"] == [0, 1, 1]  # neutral is no error; the labeller's own step is right
    assert (other_start.id, other_start.label) == ("row-step0-alt1", 0)
    assert other_start.steps == ["Addition comes first: $3 + 4 = 7$."]
    assert (refused_end.id, refused_end.label) == ("row-step2-alt0", 2)
    assert refused_end.steps == [*path.steps[:2], "$3 + 8 = 12$."]
    assert refused_end.final_answer_correct is None


def test_prm800k_second_phase():
    error, repair, unrated = convert(rows("prm800k_sample")[1])
    assert (error.label, repair.label, unrated.label) == (1, -1, None)
    assert error.steps[1] == "$\\frac{1}{5}$ of $50$ is $5$."
    assert error.extra["finish_reason"] == "found_error"
    assert error.extra["generation"] == 9


def test_prm800k_given_up_rows_hold_no_solutions():
    assert convert(rows("prm800k_sample")[2]) == []
    assert len(load_solutions(DATA / "prm800k_sample.jsonl")) == 6


def test_prm800k_bare_human_step_and_missing_completions():
    row = {
        "question": {"problem": "p", "ground_truth_answer": "1"},
        "label": {
            "finish_reason": "give_up",
            "steps": [
                {"completions": [], "human_completion": "mine", "chosen_completion": None},
                {"completions": None, "human_completion": None, "chosen_completion": None},
            ],
        },
    }
    (solution,) = convert(row)
    assert (solution.steps, solution.label, solution.final_answer_correct) == (["mine"], -1, None)


@pytest.mark.parametrize(
    ("step", "field"),
    [
        ("text", "label.steps[0]"),
        ({"completions": [{"text": "", "rating": 1}], "chosen_completion": 0}, "label.steps[0].completions[0].text"),
        (
            {"completions": [{"text": "a", "rating": 2}], "chosen_completion": 0},
            "label.steps[0].completions[0].rating",
        ),
        ({"completions": [{"text": "a", "rating": 1}], "chosen_completion": 1}, "label.steps[0].chosen_completion"),
        ({"completions": None, "human_completion": {"text": None}}, "label.steps[0].human_completion"),
        ({"completions": None}, "label.steps"),
    ],
)
def test_bad_prm800k_rows(step, field):
    with pytest.raises(DataError) as caught:
        convert({"question": {"problem": "p"}, "label": {"steps": [step], "finish_reason": "solution"}})
    assert caught.value.field == field


# ---------------------------------------------------------------------------------------------------------------------
# Math-Shepherd


def test_math_shepherd():
    right, wrong, mixed = (convert(row)[0] for row in rows("math_shepherd_sample"))
    assert right.problem == "Tom has 3 bags of 5 apples and eats 2. How many are left?"
    assert right.steps == [
        "Step 1: He has 3*5 = <<3*5=15>>15 apples.",
        "Step 2: 15-2 = <<15-2=13>>13 are left. The answer is: 13",
    ]
    assert (right.label, wrong.label, mixed.label) == (-1, 0, 1)
    assert right.extra == {"task": "GSM8K"}
    assert mixed.extra == {"task": "MATH", "labels": [True, False, True, True]}


def test_math_shepherd_rows_with_known_faults():
    # A tag inside the problem: its mark belongs to no step.
    (solution,) = convert(
        {"input": "One. ки Two? Step 1: a ки\nStep 2: b ки", "label": "One. - Two? Step 1: a +\nStep 2: b -"}
    )
    assert (solution.problem, solution.steps, solution.label) == ("One.  Two?", ["Step 1: a", "Step 2: b"], 1)
    # No step numbers: the problem ends with its question mark.
    (solution,) = convert({"input": "What? First a ки then b ки", "label": "What? First a + then b +"})
    assert (solution.problem, solution.steps, solution.label) == ("What?", ["First a", "then b"], -1)


@pytest.mark.parametrize(
    ("text", "label", "field", "message"),
    [
        ("P? Step 1: a", "P? Step 1: a", "input", "must mark the end of each step"),
        (
            "P? Step 1: a ки",
            "P? Step 1: a ?",
            "label",
            "in place of tag 1 of the input, at character 14; there is '?'",
        ),
        ("P? Step 1: a ки b ки", "P? Step 1: a +", "label", "no mark for its tag 2"),
        ("P? Step 1: a ки b", "P? Step 1: a + b", "input", "text after the last tag"),
        ("P? Step 1: a ки ки", "P? Step 1: a + +", "input", "an empty step before tag 2"),
        ("Step 1: a ки", "Step 1: a +", "input", "must not be empty"),
        ("Nothing asked. a ки", "Nothing asked. a +", "input", "neither 'Step 1:' nor a question mark"),
        ("P? Step 1: a ки", None, "label", "must not be null"),
    ],
)
def test_bad_math_shepherd_rows(text, label, field, message):
    with pytest.raises(DataError) as caught:
        convert({"input": text, "label": label}, "math_shepherd")
    assert caught.value.field == field
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), values), st.sampled_from([None, *FORMATS]))
def test_any_row_gives_solutions_or_a_data_error(row, format):
    try:
        solutions = convert(row, format)
    except DataError:
        return
    for solution in solutions:
        assert Solution.from_dict(json.loads(json.dumps(solution.to_dict(), allow_nan=False))) == solution


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_row_gives_solutions_or_a_data_error(data):
    """A real row with any one value in it, at any depth, replaced by something else."""
    name = data.draw(st.sampled_from(["prm800k_sample", "math_shepherd_sample", "gsm8k_solutions_sample"]))
    row = json.loads(json.dumps(data.draw(st.sampled_from(rows(name)))))
    place = row
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
        else:
            place[key] = data.draw(values)
            break
    test_any_row_gives_solutions_or_a_data_error.hypothesis.inner_test(row, detect_format(rows(name)[0]))
