"""Which training problems are also in a benchmark: equal ones, and those that share a long run of words.

The two tests of Light-R1 (arXiv 2503.10460). The first compares what is left of two problems when digits, punctuation
and white space are dropped, so it also finds a problem in which only the numbers were changed. The second looks for
`ngram` words in a row that both problems have. A problem without a letter, such as an arithmetic expression, is
compared as it stands: nothing else is left of it. Reading and searching take time in proportion to the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from genprm_trl.data.formats import to_solutions
from genprm_trl.data.sources import open_source
from genprm_trl.errors import DataError, check_at_least
from genprm_trl.rows.digests import text_hash
from genprm_trl.rows.fields import as_filled_text, as_list, as_object, json_safe

NGRAM = 32

_WORD = re.compile(r"\w+")
_TEXTS = ("problem", "modified_question", "question", "prompt")  # the second: PRMBench


@dataclass(frozen=True, slots=True)
class Match:
    """What a problem has in common with one of a benchmark.

    Attributes:
        test: `same`: equal but for digits and punctuation. `ngram`: a run of words.
        file: The benchmark's file or dataset.
        row: The row there, from 1.
        problem: The problem there.
        shared: The shared words; for `same` the whole problem.
    """

    test: Literal["same", "ngram"]
    file: str
    row: int
    problem: str
    shared: str


class Benchmarks:
    """Problems that no training data should hold.

    Args:
        ngram: How many words in a row two problems must share.

    Raises:
        ConfigError: `ngram` is below 1.

    Examples:
        >>> benchmarks = Benchmarks()
        >>> benchmarks.add("Tom has 3 apples!", file="test.jsonl", row=1)
        >>> benchmarks.match("Tom has 14 apples.").test
        'same'
    """

    def __init__(self, ngram: int = NGRAM):
        check_at_least(1, ngram=ngram)
        self._ngram = ngram
        self._problems: list[tuple[str, int, str]] = []
        self._same: dict[int, int] = {}  # the number of the first problem, by the hash of what is compared
        self._runs: dict[int, int] = {}

    def __len__(self) -> int:
        """The number of problems, each counted once."""
        return len(self._problems)

    def add(self, problem: str, *, file: str, row: int) -> None:
        """Takes in a problem. One that differs from an earlier one in digits and punctuation alone adds its words."""
        key, number = text_hash(_skeleton(problem)), len(self._problems)
        if self._same.setdefault(key, number) == number or problem != self._problems[self._same[key]][2]:
            self._problems.append((file, row, problem))
            for run in _runs(_words(problem), self._ngram):
                self._runs.setdefault(text_hash(run), number)

    def match(self, problem: str) -> Match | None:
        """The first thing that a problem has in common with one of these; None if there is none."""
        number = self._same.get(text_hash(_skeleton(problem)))
        if number is not None:
            return Match("same", *self._problems[number], shared=problem)
        for run in _runs(_words(problem), self._ngram):
            number = self._runs.get(text_hash(run))
            if number is not None:
                return Match("ngram", *self._problems[number], shared=run)
        return None


def _skeleton(text: str) -> str:
    letters = "".join(character for character in text.casefold() if character.isalpha())
    return letters or "".join(text.split())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: Sequence[str], length: int) -> Iterator[str]:
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


def problem_text(row: Mapping[str, Any]) -> str:
    """The problem of a row of any kind: of a format in `formats`, with rationales, or a conversation.

    Of a conversation it is the first message of the user, which may hold a solution's first step, too.

    Raises:
        DataError: No problem can be found, or it is no text.
    """
    if isinstance(row.get("solution"), Mapping):  # rationales, critiques
        return problem_text(row["solution"])
    for name in _TEXTS:
        value = row.get(name)
        if isinstance(value, str):
            return as_filled_text(value, name)
        if isinstance(value, Mapping):  # PRM800K
            return as_filled_text(value.get("problem"), f"{name}.problem")
    for name in ("messages", "prompt"):
        if row.get(name) is not None:
            for number, message in enumerate(as_list(row[name], name)):
                turn = as_object(message, f"{name}[{number}]")
                if turn.get("role") == "user":
                    return as_filled_text(turn.get("content"), f"{name}[{number}].content")
            raise DataError("has no message of the user", field=name)
    return to_solutions(row, "row")[0].problem


def read_benchmarks(sources: Iterable[Any], *, ngram: int = NGRAM, split: str | None = None) -> Benchmarks:
    """Reads the problems that no training data should hold.

    Args:
        sources: Sources that `load_solutions` takes. Rows are of any kind that `problem_text` reads.
        ngram: How many words in a row two problems must share.
        split: The split, of sources that have several.

    Raises:
        ConfigError: `ngram` is below 1.
        DataError: A source cannot be read, is empty, or a row has no problem. Names file and row.
    """
    benchmarks = Benchmarks(ngram)
    for source in sources:
        name, _, rows = open_source(source, split)
        is_empty = True
        for number, _, problem in _problems(name, rows):
            benchmarks.add(problem, file=name, row=number)
            is_empty = False
        if is_empty:
            raise DataError("is empty", file=name)
    return benchmarks


@dataclass(slots=True)
class Decontamination:
    """Goes through training data once, and leaves out what a benchmark holds.

    Attributes:
        benchmarks: What must not be in the data.
        rows, kept: Rows that were read, and those of them that share nothing.
        removed: Rows that were left out, by the test that found them.
    """

    benchmarks: Benchmarks
    rows: int = 0
    kept: int = 0
    removed: Counter[str] = field(default_factory=Counter)

    def clean(
        self,
        source: Any,
        *,
        split: str | None = None,
        on_match: Callable[[int, str, Match], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The rows that share nothing with a benchmark, as they are.

        Args:
            source: A source that `load_solutions` takes.
            split: The split, where the source has several.
            on_match: Called for each other row with its number, its problem and what it shares.

        Raises:
            DataError: The source cannot be read, is empty, or a row has no problem. Names file and row.
        """
        name, _, rows = open_source(source, split)
        for number, row, problem in _problems(name, rows):
            self.rows += 1
            match = self.benchmarks.match(problem)
            if match is None:
                self.kept += 1
                yield json_safe(row)
            else:
                self.removed[match.test] += 1
                if on_match is not None:
                    on_match(number, problem, match)
        if not self.rows:
            raise DataError("is empty", file=name)

    def counts(self) -> dict[str, int]:
        """What was compared and found, for people and for the data's card."""
        return {
            "rows": self.rows,
            "benchmark_problems": len(self.benchmarks),
            "removed_same": self.removed["same"],
            "removed_ngram": self.removed["ngram"],
            "kept": self.kept,
        }


def _problems(name: str, rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, dict[str, Any], str]]:
    for number, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            yield number, row, problem_text(row)
        except DataError as error:
            raise error.at(file=name, row=number) from None
