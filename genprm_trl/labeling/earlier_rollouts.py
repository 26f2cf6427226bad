"""The rollouts of an earlier labelling, for another one that asks for more of them, or for other labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genprm_trl.data.problems import SolutionGroup
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.labeling.rollout_tree import prefix_text, state_digest
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import JsonlWriter, decode_line, is_torn
from genprm_trl.stages.file import stage_directory
from genprm_trl.stages.settings import changes, read_settings, refuse_changes


class EarlierRollouts:
    """What `genprm label` paid for in an earlier run, read from its journal and partial results problem by problem.

    The rollouts of a state are a fixed stream, and the earlier labelling has a prefix of it. So it must have been made
    with the same model, sampling and seed. Its rule, K and way to stop may be others, and it need not be finished.

    Args:
        output: The earlier output.
        settings: What decides rollouts now, as JSON values.
        directory: Where its journal and settings are, if they were set aside.

    Raises:
        ConfigError: The earlier rollouts were made with other settings.
        DataError: The earlier journal or settings cannot be read.
    """

    def __init__(self, output: str | Path, settings: Mapping[str, Any], directory: Path | None = None):
        directory = directory or stage_directory(output)
        _check(output, directory, settings)
        self._journal, self._partial = directory / "journal.jsonl", directory / "partial.jsonl"
        self._places: dict[str, list[int]] = {}
        self._partial_places: dict[str, list[int]] = {}
        try:
            for place, item in _whole_lines(self._journal):
                for problem in {row["problem"] for row in item["rows"]}:
                    self._places.setdefault(state_digest(problem, ""), []).append(place)
        except (OSError, KeyError, TypeError) as error:
            raise DataError(f"is not the journal of `genprm label`: {error!r}", file=str(self._journal)) from None
        if self._partial.exists():
            for place, record in _whole_lines(self._partial):
                self._partial_places.setdefault(str(record.get("id")), []).append(place)

    def of(self, group: SolutionGroup) -> dict[str, str]:
        """The rollouts of a problem's states: state digest to bits (see `rollout_tree.State`).

        Those that were held against another reference answer say nothing about this one, and are left aside. Of an
        unfinished problem only those count that were made for the same solutions.

        Raises:
            DataError: A row is not one of a labelling.
        """
        known: dict[str, str] = {}
        for item in _lines_at(self._journal, self._places.get(state_digest(group.problem, ""), [])):
            for row in item["rows"]:
                try:
                    solution = Solution.from_dict(row)
                    separator = solution.extra["separator"]
                    bits = [solution.extra["monte_carlo"]["initial"], *solution.extra["monte_carlo"]["steps"]]
                except (KeyError, TypeError) as error:
                    raise DataError(
                        f"row '{row.get('id')}' is not one of `genprm label`: {error} is missing",
                        file=str(self._journal),
                    ) from None
                if (solution.problem, solution.answer) != (group.problem, group.answer):
                    continue
                for t, outcomes in enumerate(bits):
                    digest = state_digest(group.problem, prefix_text(solution.steps[:t], separator))
                    if len(outcomes) > len(known.get(digest, "")):
                        known[digest] = outcomes
        for kept in _lines_at(self._partial, self._partial_places.get(group.id, [])):
            record = kept["record"]
            bits_before = known.get(record["state"], "")
            if kept.get("digest") == group.digest and record["start"] == len(bits_before):
                known[record["state"]] = bits_before + record["outcomes"]
        return known


def _whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The place of each line and what it holds. One that was torn by a kill is passed over."""
    place = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n") and is_torn(line):
                return
            yield place, decode_line(line, file=str(path), row=number)
            place += len(line)


def _lines_at(path: Path, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    if places:
        with path.open("rb") as lines:
            for place in places:
                lines.seek(place)
                yield json.loads(lines.readline())


def earlier_directory(output: Path) -> Path:
    """Where the rollouts of an earlier labelling with the same output are kept."""
    return output.with_name(output.name + ".earlier")


def forget_earlier(output: Path) -> None:
    """Removes the rollouts that were set aside, once the new labelling holds them."""
    shutil.rmtree(earlier_directory(output), ignore_errors=True)


def set_aside(output: Path, settings: Mapping[str, Any], rollout_settings: Mapping[str, Any]) -> Path | None:
    """Makes room for a labelling that takes the place of an earlier one, and keeps the earlier one's rollouts.

    Args:
        output: The output of both.
        settings: What decides the rows now, as JSON values. If the labelling has begun already, nothing moves.
        rollout_settings: What decides rollouts now.

    Returns:
        The directory with journal and settings of the earlier labelling. None if the new one is finished.

    Raises:
        ConfigError: The earlier rollouts were made with other settings, or a labelling in between is not finished.
        DataError: Another process is writing there, or there is no earlier labelling.
    """
    directory, earlier = stage_directory(output), earlier_directory(output)
    before = read_settings(directory / "settings.json")
    if before is None and not earlier.exists():
        _check(output, directory, rollout_settings)
    if before is not None and changes(before, settings):
        _check(output, directory, rollout_settings)
        if earlier.exists() and not (directory / "summary.json").exists():
            raise ConfigError(f"{output} is not finished: finish it with its own settings, or name another --output")
        with JsonlWriter(directory / "journal.jsonl"):  # nobody else is writing
            shutil.rmtree(earlier, ignore_errors=True)
            directory.rename(earlier)
    if not earlier.exists():
        return None
    JsonlWriter(directory / "journal.jsonl").close()  # the output belongs to the new labelling from here on
    return earlier


def _check(output: str | Path, directory: Path, rollout_settings: Mapping[str, Any]) -> None:
    before = read_settings(directory / "settings.json")
    if before is None:
        raise DataError(
            "has no rollouts of `genprm label`; name an output of it, or leave out --estimates", file=str(output)
        )
    refuse_changes(
        changes(before, rollout_settings),
        what=f"{output} holds rollouts made with other settings",
        instead="leave out --estimates",
    )
