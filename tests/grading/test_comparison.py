"""Finding and comparing final answers, also of a hostile kind, from threads, event loops and forked processes."""

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm_trl.data.steps import written_steps
from genprm_trl.errors import GenPRMError
from genprm_trl.grading import pool
from genprm_trl.grading.comparison import Grade, answers_match, grade, grade_many
from genprm_trl.grading.extract import before_cut, extract_answer, extract_boxed, final_answer
from tests.helpers.growth import growth
from tests.helpers.paths import SAMPLES, shared_data


def worker_processes(pid=None):
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "grading/worker.py" in " ".join(child.cmdline())]


# ---------------------------------------------------------------------------------------------------------------------
# Finding


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $x = \boxed{5}$.", "5"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{3}, but no: \boxed{", "3"),
        (r"\boxed{4} \boxed{ }", "4"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{9}", "9"),
        (r"$\boxed 8$.", "8"),
        (r"#### 1 then \boxed{2}", "2"),
        ("2 + 2\n#### 1,234", "1,234"),
        ("#### 1\n#### 2", "2"),
        ("The answer is 3.5. That is all.", "3.5"),
        ("Thus the final answer is: $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("**Answer:** see below. The answer is **42**.", "42"),
        ("**Answer:** 5", "5"),
        ("**Answer: 5**", "5"),
        ("The answer is:\n\n$$ x^2 $$", "x^2"),
        (r"The answer is \(7\).", "7"),
        ("She has 3.\nA: 26", "26"),
        ("A: 26\nThe answer is 27", "27"),
        ("The answer is $a$ and $b$", "$a$ and $b$"),
        ("No mark at all: 5", None),
        ("", None),
        (r"\boxed{", None),
        ("the answer is", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@settings(deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(["\\boxed{", "{", "}", "\\", "answer is", " ", "\n", "$", "####", "5"])).map("".join)
)
def test_extraction_takes_any_text(text):
    for answer in (extract_boxed(text), extract_answer(text)):
        # Several boxes are one answer.
        assert answer is None or (answer == answer.strip() and all(part in text for part in answer.split(", ")))


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 50_000,
        "\\boxed" + " " * 300_000,
        "answer is" + " " * 300_000,
        "answer " * 50_000,
        "{" * 300_000 + "}" * 300_000,
        "####" * 80_000,
        "####" + " " * 300_000,
        "A:" + "\t" * 300_000,
        "A:\n" * 100_000,
        "\\" * 300_000,
        "The answer is " + "$" * 300_000,
    ],
)
def test_extraction_time_is_linear(text):
    assert growth(extract_answer, text) < 30


# ---------------------------------------------------------------------------------------------------------------------
# Comparing


@pytest.mark.parametrize(
    ("prediction", "reference", "correct"),
    [
        ("18", "18", True),
        ("$18", "18", True),
        ("1,234.50", "1234.5", True),
        ("-3", "3", False),
        ("1/2", "0.5", True),
        ("1e3", "1000", True),
        ("007", "7", True),
        (r"\frac12", "0.5", True),
        (r"\boxed{\dfrac{3}{4}}", r"\frac{3}{4}", True),
        ("0.333333", r"\frac{1}{3}", True),
        ("0.33", r"\frac{1}{3}", False),
        ("x = 5", "5", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("(x+1)^2", "x^2+1", False),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        ("(1, 2)", "(2, 1)", False),
        (r"\text{east}", "East", True),
        (r"\text{(A)}", "A", True),
        ("B", "A", False),
        ("18 dollars per day", "18", True),
        ("So she makes $18 every day at the market", "18", True),
        ("So she makes $18 every day at the market", "19", False),
        ("x^2 + 5", "5", False),
        (r"10\text{ cm}", "10", True),
        ("3, 4 and 5, so the answer is 7.", "7", True),
        ("1/0", "1", False),
    ],
)
def test_answers_match(prediction, reference, correct):
    assert grade(prediction, reference) == Grade(correct, "ok")
    assert answers_match(prediction, reference) is correct


@pytest.mark.parametrize(
    ("text", "answer", "other"),
    [
        ("The answer is:\n\\[\n5\n\\]", "5", "6"),
        ("The answer is:\n\\[ 5 \\]\nas was to be shown", "5", "6"),
        ("Therefore, the answer is\n\n$$\n\\frac{1}{2}\n$$", "0.5", "1"),
        ("The answer is:\n```\n5\n```", "5", "6"),
        ("The answer is:\n```text\n5\n```\nDone.", "5", "6"),
        ("The answer is:\n- 5", "5", "-5"),
        ("The answer is:\n\n* 3\n* 4\n", "3, 4", "3"),
        ("The answer is:\n\n**5**", "5", "6"),
        ("**Final Answer**\n\n\\[ 5 \\]", "5", "6"),
        ("The answer is\n5", "5", "6"),
        ("The answer is:\n\\[\n5\n", "5", "6"),
        ("The answers are:\n1. $x = 2$\n2. $x = 3$", "2, 3", "1, 2"),
        (
            "The answer is:\n\\[\n\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}\n\\]",
            r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
            "2",
        ),
    ],
)
def test_an_answer_on_the_next_lines(text, answer, other):
    assert grade(text, answer).correct
    assert not grade(text, other).correct


@pytest.mark.parametrize(
    ("text", "answer", "other"),
    [
        ("<answer>5</answer>", "5", "6"),
        ("<think>It is \\boxed{5}.</think>\n\n<answer>\n6\n</answer>", "6", "5"),
        ("<answer>We add 2 and 3, so it is \\boxed{5}.</answer>", "5", "2"),
        ("<answer>5</answer> is what I found after 6 tries", "5", "6"),
        ("<answer>4</answer> No: <answer>5</answer>", "5", "4"),
        ("I write <answer> tags. The answer is 5.", "5", "6"),
        ("I write `<answer>6</answer>`. The answer is 5.", "5", "6"),
        ("2 + 3 = 5\n#### Answer: 5", "5", "2"),
        ("2 + 3 = 5\n#### The final answer is 5", "5", "2"),
        ("2 + 3 = 5\n### 5", "5", "2"),
        ("Solution: 12", "12", "1"),
        ("**Result:** 12", "12", "1"),
        ("答案是 5", "5", "6"),
        ("(a) \\boxed{3} (b) \\boxed{4}", "3, 4", "4"),
        ("Part (a): \\boxed{3}\nPart (b): \\boxed{4}", "3, 4", "4"),
        ("$\\boxed{3}\\\\\\boxed{4}$", "3, 4", "4"),
        ("$\\boxed{3}\\text{ cm}$", "3 cm", "3 m"),
        ("$\\boxed{3}\\,\\mathrm{cm}^2$", "3 cm^2", "3 cm"),
        ("It is $\\boxed{3}$ hours.", "3 hours", "3 minutes"),
        ("It is $\\boxed{3}$ in total.", "3 cm", "4"),
    ],
)
def test_marks_of_an_answer(text, answer, other):
    for one, correct in ((answer, True), (other, False)):
        assert grade(text, one).correct is correct
        assert grade(one, text).correct is correct


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<end_of_turn>", " <eos>", "<｜end▁of▁sentence｜>"]
)
@pytest.mark.parametrize("text", ["5", "#### 5", "The answer is 5", "The answer is 5.", "\\boxed{5}"])
def test_a_token_ends_an_answer(text, end):
    assert extract_answer(text + end) == extract_answer(text)
    assert grade(text + end, "5").correct
    assert grade("5", text + end).correct
    assert grade(f"{text}{end}\nNext: the answer is 7.", "5").correct
    assert before_cut(f"{text}{end}") == ("" if text == "5" else f"{(text + end).partition('<')[0]}\n")


@pytest.mark.parametrize(
    ("text", "answer", "other"),
    [
        ("9 + 9 = 18\n#### 18\n\nQuestion: How many are 3 and 4?\n3 + 4 = 7\n#### 7", "18", "7"),
        ("9 + 9 = 18\n#### 18\nTom has 3 eggs. How many are left?\n3 + 4 = 7\n#### 7", "18", "7"),
        ("It is \\boxed{18}.\n\nProblem: 3 + 4?\nIt is \\boxed{7}.", "18", "7"),
        ("It is \\boxed{18}.\n\n## Exercise 2\n3 + 4 is \\boxed{7}.", "18", "7"),
        ("The answer is 18.\n\nQ: 3 + 4?\nA: The answer is 7.", "18", "7"),
        ("The answer is 18.\n\nHuman: and 3 + 4?\n\nThe answer is 7.", "18", "7"),
        ("#### 18 Human: and 3 + 4? #### 7", "18", "7"),
        # Without a question between them, the last one is a correction.
        ("#### 18\nNo, 9 + 8 = 17.\n#### 17", "17", "18"),
        ("Question: 9 + 9?\nThe answer is 18.", "18", "9"),
    ],
)
def test_a_question_that_a_policy_goes_on_with_is_not_answered(text, answer, other):
    assert grade(text, answer).correct
    assert not grade(text, other).correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 12", None),
        ("The answer is 12.", None),  # it may go on with 12.5
        ("The answer is 12. ", "12"),
        ("The answer is 12\n", "12"),
        ("The answer is 12.5. To check", "12.5"),
        ("#### 12", None),
        ("9 + 3 = 12\n#### 12\n", "12"),
        ("It is \\boxed{12", None),
        ("It is \\boxed{12}", "12"),
        ("It is \\boxed{12}. And", "12"),
        ("It is \\boxed{12}. So the answer is 13", "12"),
        ("It is \\boxed 12", None),
        ("The answer is:\n\\[\n12", None),
        ("The answer is:\n- 3\n- 4", None),
        ("The answers are $x = 3$ and $x = 4", None),
        ("The answer is 5.\nWait, the answer is 12", None),
        ("We add 3 and 4.\nThat is 12.\n", None),  # not marked: it goes on
        ("<think>It is \\boxed{12}.", None),
        ("<think>It is \\boxed{12}.</think>The answer is 1", None),
        ("<think>It is \\boxed{1}.</think>The answer is 12.\nI", "12"),
        ("", None),
    ],
)
def test_an_answer_that_was_cut_off_is_none(text, answer):
    counted = before_cut(text)
    assert extract_answer(counted) == answer
    assert grade(counted, answer or "12").correct is (answer is not None)


@given(
    st.text() | st.lists(st.sampled_from(["\\boxed{", "}", "the answer is ", "12", ". ", "\n", "####"])).map("".join)
)
@settings(deadline=None)
def test_any_text_may_be_cut_off(text):
    assert before_cut(text) in text or "think" in text


@pytest.mark.parametrize("published", [False, True])
def test_agrees_with_the_marks_of_sampled_solutions(published):
    path = shared_data("gsm8k/model_solutions.jsonl") if published else SAMPLES / "gsm8k_solutions_sample.jsonl"
    pairs, marks = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for sampled in (value for value in row.values() if isinstance(value, dict)):
            pairs.append((sampled["solution"], row["ground_truth"]))
            marks.append(sampled["is_correct"])
    assert [result.correct for result in grade_many(pairs)] == marks


def test_plain_answers_need_no_process(monkeypatch):
    monkeypatch.setattr(pool, "_pool", None)
    assert answers_match("The answer is 1,000.", "1000")
    assert not answers_match("7", "8")
    assert answers_match(r"\boxed{ \frac{a}{b} }", r"\frac{a}{b}")


# ---------------------------------------------------------------------------------------------------------------------
# Hostile text

TOWER = r"\boxed{9^{9^{9^{9}}}}"


@pytest.mark.parametrize(
    ("prediction", "status"),
    [
        (TOWER, "timeout"),
        ("9!!!!!!", "timeout"),
        ("(" * 2_000, "timeout"),
        ("\\frac{" * 1_000, "too_long"),
        ("a" * 100_000, "too_long"),
        ("\\boxed{" + "\\frac{" * 30_000 + "}" * 30_001, "too_long"),
        ("", "no_answer"),
        (" \n\t", "no_answer"),
        ("The quick brown fox has no number", "no_answer"),
        ("\x00", "ok"),
        ("\ud800", "ok"),
        ("\U0001d7d9" * 2_500, "ok"),
        ("__import__('os').abort()", "no_answer"),
    ],
)
def test_hostile_predictions_end_with_a_status(prediction, status):
    result = grade(prediction, "1/7", timeout=1.0)
    assert not result.correct
    # What takes a fast machine its limit may take a slow one's too; a hang is what must not be.
    assert result.status in (status, "timeout")
    assert answers_match("x+x", "2x", timeout=20), "the next comparison works"


def test_many_grades_with_hostile_ones_among_them():
    pairs = [("x+x", "2x"), (TOWER, "1"), ("4", "4"), (TOWER, "1"), ("x+x", "3x"), ("5", "4")]
    grades = grade_many(pairs, timeout=1.5)
    assert grades == [
        Grade(True, "ok"),
        Grade(False, "timeout"),
        Grade(True, "ok"),
        Grade(False, "timeout"),
        Grade(False, "ok"),
        Grade(False, "ok"),
    ]
    assert grade_many([]) == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_impossible_time_limit_is_refused(timeout):
    with pytest.raises(ValueError, match="time limit"):
        grade("1", "1", timeout=timeout)


# ---------------------------------------------------------------------------------------------------------------------
# Time

REPEATED = ["\n", "\n \n", " ", "\t", "$", "$$", "{", "}", "\\", "\\\\", "\\[", "\\]", "*", "**", "#", "-", "_", "`",
            "5", "5!", ".", "1.", "1. \n", "- 5\n", "! ", "no. ", "a = ", "5 or ", "(", "[", "=", "<", "</", "<think>",
            "</think>", "<think></think>", "\\boxed{", "\\boxed{5} and ", "\\boxed 5 ", "\\begin{a}", "answer is ",
            "Answer:\n", "#### ", "#### 5\n", "A:\n", "Question: \n", "Question ", "? ",
            "```\n", "x\n\n", "Step 1: "]  # fmt: skip


@pytest.mark.parametrize("before", ["", "\\boxed{5}", "Answer"])
def test_no_repeated_text_takes_long(before):
    """A pattern that reads the rest of the text at every place would take 64 times as long for 8 times the text."""

    def read(text):
        before_cut(text)
        final_answer(text)
        final_answer(text + "5")
        written_steps(text + "5")

    texts = {piece: before + piece * (10_000 // len(piece)) for piece in REPEATED}
    assert [piece for piece, text in texts.items() if growth(read, text) > 30] == []


@pytest.mark.timeout(120)
def test_many_boxes_take_no_longer():
    final_answer("\\boxed{" * 20_000 + "5" + "}" * 20_000)
    final_answer("".join(f"\\boxed{{{number}}} and " for number in range(10_000)))
    final_answer("\\boxed{5}" + "#### 1 " * 20_000 + "\\boxed{")


# ---------------------------------------------------------------------------------------------------------------------
# Callers and processes


def test_threads_and_event_loops_share_the_processes():
    def ask(k):
        return answers_match(f"x+{k}", f"{k}+x"), answers_match(f"x+{k}", f"x+{k + 1}")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(24))) == [(True, False)] * 24

    results = []

    def loop():
        async def both():
            return await asyncio.gather(*(asyncio.to_thread(ask, k) for k in range(4)))

        results.append(asyncio.run(both()))

    loops = [threading.Thread(target=loop) for _ in range(2)]
    for thread in loops:
        thread.start()
    for thread in loops:
        thread.join()
    assert results == [[(True, False)] * 4] * 2
    assert len(worker_processes()) <= pool.workers().size


def test_a_successor_is_there_when_time_is_up():
    """Else the next comparison waits for a start, on top of its own time limit."""
    pool.workers().close()
    assert grade(TOWER, "1", timeout=2).status == "timeout"
    assert len(worker_processes()) == 1
    assert answers_match("x+1", "1+x")
    assert len(worker_processes()) == 1


def test_killed_process_is_replaced():
    assert answers_match("x+1", "1+x")
    for process in worker_processes():
        process.kill()
        process.wait(5)
    assert answers_match("x+2", "2+x")


def test_process_sees_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pool.workers().close()
    assert answers_match("x+1", "1+x")
    environments = [process.environ() for process in worker_processes()]
    assert environments
    assert all("HF_TOKEN" not in environment for environment in environments)


def _ask_in_child(queue):
    queue.put([answers_match(f"x+{k}", f"{k}+x") for k in range(5)])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_processes_do_not_share_an_answer():
    assert answers_match("x+1", "1+x")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_ask_in_child, args=(queue,))
    child.start()
    ours = [answers_match(f"x+{k}", f"x-{k}") for k in range(1, 6)]
    assert queue.get(timeout=60) == [True] * 5
    assert ours == [False] * 5
    child.join(30)
    assert child.exitcode == 0


def test_no_process_outlives_a_killed_caller():
    """Neither an idle one nor one that is busy in C code."""
    script = textwrap.dedent(
        rf"""
        import threading
        from genprm_trl.grading.comparison import answers_match
        threading.Thread(target=answers_match, args=({TOWER!r}, "1"), kwargs={{"timeout": 1.0}}, daemon=True).start()
        answers_match("x+1", "1+x")
        print("asked", flush=True)
        threading.Event().wait()
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout.readline() == "asked\n"
        workers = worker_processes(caller.pid)
        assert workers
        caller.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_start_failure_is_reported(monkeypatch, tmp_path):
    """A broken installation must not pass for wrong answers."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'No module named math_verify' >&2\nexit 1\n")
    broken.chmod(0o755)
    pool.workers().close()
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(GenPRMError, match="did not start: No module named math_verify"):
        answers_match("x+1", "1+x")


def test_import_is_light():
    code = (
        "import sys, genprm_trl.grading.comparison, genprm_trl.metrics.processbench, genprm_trl.data.solutions;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'sympy', 'math_verify', 'sklearn')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
