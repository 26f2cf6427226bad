"""Final answers: finding them in text, and comparing them with math-verify under a limit that holds.

Comparing answers means handing text that a model wrote to a computer algebra system. `9^{9^{9^9}}` keeps one busy in C
code for ever, where neither a signal handler nor a thread can stop it, so the comparison runs in separate processes
(`grading_worker`) that are killed when their time is up and started anew. Callers may be threads, or coroutines of any
event loop through `asyncio.to_thread`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from genprm_trl.errors import GenPRMError

GradeStatus = Literal[
    "ok",  # the answers were compared
    "no_answer",  # there is nothing in the prediction that reads as an answer
    "too_long",  # an answer of thousands of characters, compared as text only
    "timeout",  # the comparison ran into its time limit
    "error",  # the comparison ran out of memory or crashed
]

# Two answers stay below a pipe's 64 KiB even with every character escaped, so that no request waits for its reader.
_MAX_CHARACTERS = 2_500
_START_SECONDS = 120.0
# Computer algebra caches fill up; a fresh process now and then keeps the memory bounded.
_TASKS_PER_WORKER = 2_000


@dataclass(frozen=True, slots=True)
class Grade:
    """The comparison of a prediction with a reference answer.

    Attributes:
        correct: Whether they are equal. False whenever the status is not `ok`, unless the texts are the same.
        status: See `GradeStatus`.
    """

    correct: bool
    status: GradeStatus


def answers_match(prediction: str, reference: str, *, timeout: float = 5.0) -> bool:
    """Whether a prediction gives the reference answer. `grade` also says why not.

    Args:
        prediction: A whole solution, or a bare answer. The answer is what `extract_answer` finds; without such a
            mark, what math-verify finds in the last line.
        reference: The right answer, bare or in a text.
        timeout: Seconds the comparison may take, measured without waiting for other callers' comparisons.

    Examples:
        >>> answers_match("Half of it, so the answer is $\\\\frac{1}{2}$.", "0.5")
        True
    """
    return grade(prediction, reference, timeout=timeout).correct


def grade(prediction: str, reference: str, *, timeout: float = 5.0) -> Grade:
    """Compares a prediction with a reference answer. Arguments as for `answers_match`.

    Never raises for what the texts hold, and never takes longer than the time limit by more than the start of a
    process.

    Raises:
        ValueError: The time limit is not positive, or over a day.
        GenPRMError: The comparing process cannot be started.
    """
    _check_timeout(timeout)
    ours, theirs = _Answer.of(prediction), _Answer.of(reference)
    known = _grade_directly(ours, theirs)
    return known if known is not None else _grade_in_worker((ours, theirs), timeout)


def grade_many(pairs: Iterable[tuple[str, str]], *, timeout: float = 5.0) -> list[Grade]:
    """Compares many predictions with their references, several at a time and equal pairs once.

    Args:
        pairs: (prediction, reference) pairs.
        timeout: Seconds that each comparison may take.

    Returns:
        A grade for each pair, in order.
    """
    _check_timeout(timeout)
    answers = [(_Answer.of(prediction), _Answer.of(reference)) for prediction, reference in pairs]
    grades: dict[tuple[_Answer, _Answer], Grade] = {}
    slow = []
    for pair in dict.fromkeys(answers):
        known = _grade_directly(*pair)
        if known is None:
            slow.append(pair)
        else:
            grades[pair] = known
    if slow:
        with ThreadPoolExecutor(min(len(slow), _pool.size), thread_name_prefix="grading") as threads:
            grades.update(zip(slow, threads.map(lambda pair: _grade_in_worker(pair, timeout), slow), strict=True))
    return [grades[pair] for pair in answers]


# ---------------------------------------------------------------------------------------------------------------------
# Finding the answer

# Everything here takes time linear in the text, whatever the text: possessive quantifiers, one pass over braces.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*+\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)\s++([^\s{}$\\]++)")
# What stands before an answer; the answer is the rest of the line.
_MARKS = (
    re.compile(r"####[^\S\n]*+(?=\S)"),
    re.compile(r"\banswer\s*+(?:is|was|:|=)\s*+:?\s*+(?=\S)", re.IGNORECASE),
    re.compile(r"^A:[^\S\n]*+(?=\S)", re.MULTILINE),
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)")
_DELIMITERS = (("**", "**"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"))


def extract_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` (or `\fbox{...}`) that is closed and not blank, or None."""
    opened: list[int | None] = []
    best: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):
        mark = token.group()
        if mark == "}":
            start = opened.pop() if opened else None
            if start is not None and (best is None or start > best[0]) and text[start : token.start()].strip():
                best = (start, token.start())
        elif mark == "{":
            opened.append(None)
        elif mark.endswith("{") and len(mark) > 2:
            opened.append(token.end())
    if best is not None:
        return text[best[0] : best[1]].strip()
    bare = deque(_BARE_BOX.finditer(text), maxlen=1)
    return (bare[0].group(1).rstrip(".,;") or None) if bare else None


def extract_answer(text: str) -> str | None:
    r"""The final answer that a text marks as such, or None.

    Looked for in this order, the last one of its kind: `\boxed{...}`, `#### ...` (GSM8K), `the answer is ...` and
    `Answer: ...`, and a line `A: ...` (GSM8K's model solutions).

    Examples:
        >>> extract_answer("2 + 2 = 4, so the answer is **4**.")
        '4'
    """
    boxed = extract_boxed(text)
    if boxed is not None:
        return boxed
    for mark in _MARKS:
        last = deque(mark.finditer(text), maxlen=1)
        if last and (answer := _trim(text[last[0].end() :].partition("\n")[0])):
            return answer
    return None


def _trim(text: str) -> str:
    """Takes the rest of the sentence off, and emphasis and math delimiters."""
    end = _SENTENCE_END.search(text)
    text = (text[: end.start()] if end else text).strip().rstrip(",;:").strip()
    if text.count("**") == 1:  # the mark itself was emphasised: `**Answer:** 5`
        text = text.replace("**", "").strip()
    for left, right in _DELIMITERS:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            inner = text[len(left) : -len(right)]
            # `$a$ and $b$` is not one formula.
            if left not in inner and right not in inner:
                text = inner.strip()
    return text


_NUMBER = re.compile(r"([-+]?)(?:\\?\$)?(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(?:[eE]([-+]?\d{1,3}))?(?:/(\d{1,30}))?\.?")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is compared: the answer's text, and whether it is prose that holds an answer or a formula."""

    text: str
    prose: bool

    @classmethod
    def of(cls, text: str) -> _Answer:
        boxed = extract_boxed(text)
        if boxed is not None:
            return cls(boxed, prose=False)
        answer = extract_answer(text)
        if answer is None:
            answer = text.strip().rpartition("\n")[2].strip()
        # "18 dollars per day" is to be searched for its number, where "x^2 + 5" is to be taken whole.
        return cls(answer, prose=len(_WORD.findall(answer[:_MAX_CHARACTERS])) >= 2)

    def number(self) -> Fraction | None:
        """The value of a plain number such as `-1,234.5`, `3/4` or `$18`."""
        text = self.text.replace(" ", "")
        match = _NUMBER.fullmatch(text) if 0 < len(text) <= 60 else None
        if match is None or not (match[2] or match[3]):
            return None
        value = Decimal(f"{match[1]}{(match[2] or '0').replace(',', '')}{match[3] or ''}e{match[4] or 0}")
        below = int(match[5] or 1)
        return Fraction(value) / below if below else None


def _grade_directly(ours: _Answer, theirs: _Answer) -> Grade | None:
    """The grade where no algebra is needed, else None."""
    if not ours.text:
        return Grade(False, "no_answer")
    if _plain(ours.text) == _plain(theirs.text):
        return Grade(True, "ok")
    if max(len(ours.text), len(theirs.text)) > _MAX_CHARACTERS:
        return Grade(False, "too_long")
    a, b = ours.number(), theirs.number()
    if a is not None and b is not None:
        if a == b:
            return Grade(True, "ok")
        if a.denominator == b.denominator == 1:
            return Grade(False, "ok")
    return None  # unequal decimals too: math-verify allows for rounding


def _plain(text: str) -> str:
    return " ".join(text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").strip(" $.").split())


# ---------------------------------------------------------------------------------------------------------------------
# The processes


def _grade_in_worker(pair: tuple[_Answer, _Answer], timeout: float) -> Grade:
    ours, theirs = pair
    request = {
        "prediction": [ours.text, ours.prose],
        "reference": [theirs.text, theirs.prose],
        "timeout": timeout,
    }
    try:
        reply = _pool.ask(request, timeout)
    except TimeoutError:
        return Grade(False, "timeout")
    except _WorkerDied:
        return Grade(False, "error")
    status: GradeStatus = reply["status"]
    return Grade(bool(reply["correct"]) and status == "ok", status)


def _check_timeout(timeout: float) -> None:
    if not 0 < timeout < 86_400:
        raise ValueError(f"the time limit must be between 0 and 86,400 seconds, not {timeout}")


class _WorkerDied(Exception):
    """The process ended without an answer."""


class _Worker:
    """A process that compares answers, one at a time."""

    def __init__(self) -> None:
        # The answers are untrusted: the process sees neither our environment (tokens) nor our directory.
        names = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        environment["PYTHONHASHSEED"] = "0"  # the order of terms, and so the time taken, does not vary
        self.tasks = 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process that writes it)
        # A program of its own rather than `multiprocessing`: that would run the caller's main module again, or fork
        # a process full of threads and CUDA state. -P keeps our modules' names off the top level.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("grading_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=environment,
            cwd="/",
            start_new_session=True,  # an interrupt at the terminal is ours to handle
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._received = b""
        try:
            self._receive(_START_SECONDS)
        except (TimeoutError, _WorkerDied):
            self.kill()
            self._errors.seek(0)
            last = self._errors.read()[-2_000:].decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise GenPRMError(f"the process that compares answers did not start: {last[-1]}") from None

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        self.tasks += 1
        try:
            os.write(self._in, json.dumps(request).encode() + b"\n")
        except OSError:
            raise _WorkerDied from None
        return self._receive(timeout)

    def _receive(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._received:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                part = os.read(self._out, 65_536)
                if not part:
                    raise _WorkerDied
                self._received += part
        line, _, self._received = self._received.partition(b"\n")
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            raise _WorkerDied from None
        return reply

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self.forget()
        self._process.wait()

    def forget(self) -> None:
        """Closes our ends of the pipes."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


class _Pool:
    """As many workers as are needed at once, up to a bound, kept for later."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.size = min(4, cores)
        self._slots = threading.BoundedSemaphore(self.size)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        with self._slots:
            worker = self._take() or _Worker()
            try:
                reply = worker.ask(request, timeout)
            except BaseException:  # an interrupt too leaves an answer under way that nobody will read
                worker.kill()
                raise
            if reply["status"] == "error" or worker.tasks >= _TASKS_PER_WORKER:
                worker.kill()
            else:
                with self._lock:
                    self._idle.append(worker)
            return reply

    def _take(self) -> _Worker | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                worker = self._idle.pop()
            if worker._process.poll() is None:
                return worker
            worker.forget()

    def close(self) -> None:
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        for worker in self._idle:
            worker.forget()


_pool = _Pool()


def _after_fork() -> None:
    """The workers are the parent's: two processes must not talk over one pipe."""
    global _pool
    _pool.forget()
    _pool = _Pool()


atexit.register(lambda: _pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
