r"""`answer_reward` in the place of `accuracy_reward`: what TRL's test_rewards.py checks of rewards for final answers.

An answer that math-verify cannot parse has no reward in TRL's. Ours compares it as text.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from trl.rewards import accuracy_reward, reasoning_accuracy_reward

from genprm_trl.rewards import answer_reward, step_format_reward


def ours(completions: list[Any], solution: list[str]) -> list[float | None]:
    return answer_reward(completions, answer=solution)


def as_messages(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


ANSWERS = [
    (r"\boxed{\frac{63}{400}}", r"\frac{63}{400}", 1.0),
    (r"\boxed{\frac{63}{400}}", "63/400", 1.0),
    (r"\boxed{\frac{64}{400}}", r"\frac{63}{400}", 0.0),
    (r"\boxed{3}", "6", 0.0),
    (r"So it is \boxed{42}.", r"\boxed{42}", 1.0),
]
AFTER_THOUGHTS = [
    (r"<think> Reasoning content </think> \boxed{\frac{63}{400}}", r"\frac{63}{400}", 1.0),
    (r"Reasoning content </think> \boxed{\frac{63}{400}}", r"\frac{63}{400}", 1.0),
    (r"<think> Reasoning content </think> \boxed{\frac{64}{400}}", r"\frac{63}{400}", 0.0),
    (r"<think> My answer is \boxed{42} </think> Some other text.", r"\boxed{42}", 0.0),
    (r"<think> The answer is \boxed{42} </think> Here's a wrong answer: \boxed{43}.", r"\boxed{42}", 0.0),
    (r"<think> Incomplete reasoning without closing tag", r"\frac{63}{400}", 0.0),
]


@pytest.mark.parametrize("reward", [accuracy_reward, ours])
def test_answers(reward: Callable[..., Any]) -> None:
    texts, solutions, expected = zip(*ANSWERS, strict=True)
    assert reward(as_messages(*texts), list(solutions)) == list(expected)


@pytest.mark.parametrize("reward", [reasoning_accuracy_reward, ours])
def test_answers_after_thoughts(reward: Callable[..., Any]) -> None:
    texts, solutions, expected = zip(*AFTER_THOUGHTS, strict=True)
    assert reward(as_messages(*texts), list(solutions)) == list(expected)


@pytest.mark.parametrize("reward", [accuracy_reward, ours])
def test_a_worker_thread_grades_too(reward: Callable[..., Any]) -> None:
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.extend(reward(as_messages(r"\boxed{\frac{1}{3}}"), [r"\frac{1}{3}"]))
    )
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize("reward", [answer_reward, step_format_reward])
def test_rewards_are_pickled(reward: Callable[..., Any]) -> None:
    again = pickle.loads(pickle.dumps(reward))
    columns = {"completions": as_messages("Step 1: 2 + 3 = 5\n\nStep 2: The answer is 5."), "answer": ["5"]}
    assert again(**columns) == reward(**columns)


def test_what_has_no_reference_has_no_reward() -> None:
    assert answer_reward(["The answer is 5."] * 3, answer=[None, "", "5"], other_column=[1, 2, 3]) == [None, None, 1.0]
