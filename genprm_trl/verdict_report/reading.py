"""Files of verdicts as a page needs them: each verdict with what it judges, and several files matched."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genprm_trl.data.solutions import iter_judged
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.stages.verdict_file import kept_time
from genprm_trl.verdict_report.content import Entry, make_entry


def read_verdicts(
    path: Path, solutions: Mapping[str, Solution] | None, follow: Any = iter
) -> Iterator[tuple[Verdict, Solution | None]]:
    """The verdicts of a file, each with what it judges, if that is known. The solutions' labels count.

    Args:
        path: What `iter_judged` reads.
        solutions: The judged solutions by id, if they were given.
        follow: Wraps the iterator over verdicts, to show progress.

    Raises:
        DataError: A row is bad, or a verdict is about another text than the solution of its id.
    """
    for verdict, judged_with_it in follow(iter_judged(path)):
        solution = None if solutions is None else solutions.get(verdict.id)
        if solution is None:
            solution = judged_with_it
        elif verdict.solution_digest not in ("", solution.digest) or len(verdict.rewards) > len(solution.steps):
            raise DataError(
                f"holds a verdict of '{verdict.id}' about another text than the solution of that id; name the file "
                "that was judged",
                file=str(path),
            )
        if solution is not None:
            verdict.label = solution.label  # it may have been corrected since the solution was judged
        yield verdict, solution


@dataclass(slots=True)
class JudgedFile:
    """A file of verdicts for a comparison.

    Attributes:
        path: The file.
        name: What tables call its verifier.
        verdicts: Its verdicts by id, without their texts and code.
        entries: What the page holds of them. The texts of problem and steps are in one of the files' entries.
        seconds: What judging a solution took; None where that is not known.
    """

    path: Path
    name: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(slots=True)
class Matched:
    """Several files about the same solutions.

    Attributes:
        files: The files, at least two.
        ids: The solutions that are compared, in the order of the first file.
        left_out: Verdicts of each file on solutions that are not in all files, or have another text there.
        other_text: Ids under which the files judge different texts.
        without_solution: Compared solutions whose problem and steps are not known, though solutions were given.
    """

    files: list[JudgedFile]
    ids: list[str]
    left_out: list[int]
    other_text: int
    without_solution: int


def match_files(
    paths: Sequence[Path], *, common: bool = False, solutions: Iterable[Solution] | None = None, follow: Any = iter
) -> Matched:
    """Reads several files of verdicts and matches them by id and text of the solutions.

    Args:
        paths: The files, at least two.
        common: Compare the solutions that all files judge, instead of refusing files that differ in them.
        solutions: The judged solutions; see `write_report`.
        follow: Wraps the iterator over each file's verdicts, to show progress.

    Raises:
        ConfigError: There are fewer than two files.
        DataError: A file cannot be read, or judges a solution twice. Files differ in their labels; or in their
            solutions, unless `common`. No solution is in all of them.
    """
    if len(paths) < 2:
        raise ConfigError("a comparison takes the verdicts of at least two verifiers; name two files or more")
    by_id = None if solutions is None else {solution.id: solution for solution in solutions}
    with_texts: dict[str, bool] = {}  # by id, whether problem and steps are known
    names = _names(paths)
    files = [_read(path, name, by_id, with_texts, follow) for path, name in zip(paths, names, strict=True)]
    every = dict.fromkeys(itertools.chain.from_iterable(file.verdicts for file in files))
    ids, other_text = [], []
    for id in every:
        found = [file.verdicts[id] for file in files if id in file.verdicts]
        if len({verdict.solution_digest for verdict in found} - {""}) > 1:
            other_text.append(id)
        elif len(found) == len(files):
            ids.append(id)
    if not common:
        _refuse_differences(files, list(every), other_text)
    if not ids:
        raise DataError("holds no solution that all the files judge", file=str(paths[0]))
    _check_labels(files, ids)
    left_out = [len(file.verdicts) - len(ids) for file in files]
    without = 0 if by_id is None else sum(not with_texts[id] for id in ids)
    return Matched(files, ids, left_out, len(other_text), without)


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names without their endings, or their paths where names are the same."""
    stems = [path.stem for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a file of verdicts is named twice; a comparison takes each verifier once")
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _read(
    path: Path, name: str, solutions: Mapping[str, Solution] | None, with_texts: dict[str, bool], follow: Any
) -> JudgedFile:
    file = JudgedFile(path, name)
    for verdict, solution in read_verdicts(path, solutions, follow):
        if verdict.id in file.verdicts:
            raise DataError(f"holds two verdicts of '{verdict.id}'", file=str(path), field="id")
        if solution is not None and not verdict.solution_digest:
            verdict.solution_digest = solution.digest
        # One copy of the texts is enough.
        texts = None if with_texts.get(verdict.id) else solution
        with_texts[verdict.id] = with_texts.get(verdict.id, False) or solution is not None
        file.entries[verdict.id] = make_entry(verdict, texts)
        bare = [[replace(each, rationale="", code_rounds=[]) for each in chain] for chain in verdict.chains]
        file.verdicts[verdict.id] = replace(verdict, chains=bare)
    if not file.verdicts:
        raise DataError("holds no verdicts", file=str(path))
    timed, seconds = kept_time(path)
    file.seconds = seconds / timed if timed >= len(file.verdicts) else None
    return file


def _refuse_differences(files: Sequence[JudgedFile], every: Sequence[str], other_text: Sequence[str]) -> None:
    what_to_do = "--common compares the solutions that all files judge"
    if other_text:
        raise DataError(
            f"judges another text under the id '{other_text[0]}' than another file does ({len(other_text)} such ids); "
            f"{what_to_do}",
            file=str(next(file.path for file in files if other_text[0] in file.verdicts)),
        )
    for file in files:
        missing = [id for id in every if id not in file.verdicts]
        if missing:
            raise DataError(
                f"holds no verdict of {len(missing)} of the {len(every)} solutions that the files judge, such as "
                f"'{missing[0]}'; {what_to_do}",
                file=str(file.path),
            )


def _check_labels(files: Sequence[JudgedFile], ids: Sequence[str]) -> None:
    first, *others = files
    for other in others:
        differ = [id for id in ids if first.verdicts[id].label != other.verdicts[id].label]
        if differ:
            one, two = (_said(file.verdicts[differ[0]].label) for file in (first, other))
            raise DataError(
                f"gives '{differ[0]}' {two}, and {first.path} gives it {one} ({len(differ)} solutions have other "
                "labels); name the solutions with --solutions, whose labels then count",
                file=str(other.path),
                field="label",
            )


def _said(label: int | None) -> str:
    return "no label" if label is None else f"the label {label}"
