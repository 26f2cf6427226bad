"""The roll-outs of an earlier labelling, for another one that asks for more of them, or for other labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.labeling.rollout_tree import prefix_text, state_digest
from genprm_trl.records import Solution
from genprm_trl.rows.jsonl import decode_line
from genprm_trl.stages.file import stage_directory


class EarlierRollouts:
    """What `genprm label` paid for in an earlier run, read from its output problem by problem.

    Roll-outs of a state are a fixed stream, of which the earlier labelling has a prefix; so it must have been made
    with the same model, sampling and seed. Its rule, K and way to stop may be others.

    Args:
        path: The earlier output; finished.
        settings: What decides roll-outs now, as JSON values.

    Raises:
        ConfigError: The earlier roll-outs were made with other settings.
        DataError: The earlier output, or what it was made with, cannot be read.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]):
        self.path = Path(path)
        before = self._settings()
        now = json.loads(json.dumps(dict(settings)))
        changed = [name for name, value in now.items() if before.get(name) != value]
        if changed:
            differences = ", ".join(f"{name} was {before.get(name)!r} and is now {now[name]!r}" for name in changed)
            raise ConfigError(f"the roll-outs of {self.path} were made otherwise ({differences})")
        self._rows_of: dict[str, list[int]] = {}
        place = 0
        try:
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    row = decode_line(line, file=str(self.path), row=number)
                    if not isinstance(row.get("problem"), str):
                        raise DataError("must be a string", file=str(self.path), row=number, field="problem")
                    self._rows_of.setdefault(state_digest(row["problem"], ""), []).append(place)
                    place += len(line)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", file=str(self.path)) from None

    def _settings(self) -> dict[str, Any]:
        path = stage_directory(self.path) / "settings.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot be read, so it is not known how the roll-outs of {self.path} were made: {error}",
                file=str(path),
            ) from None
        return settings if isinstance(settings, dict) else {}

    def of(self, problem: str, answer: str) -> dict[str, str]:
        """The roll-outs of a problem's states: state digest to bits (see `rollout_tree.State`).

        Those that were held against another reference answer say nothing about this one, and are left aside.

        Raises:
            DataError: A row is not one of a labelling.
        """
        known: dict[str, str] = {}
        places = self._rows_of.get(state_digest(problem, ""), [])
        if not places:
            return known
        with self.path.open("rb") as lines:
            for place in places:
                lines.seek(place)
                row = json.loads(lines.readline())
                try:
                    solution = Solution.from_dict(row)
                    separator = solution.extra["separator"]
                    bits = [solution.extra["monte_carlo"]["initial"], *solution.extra["monte_carlo"]["steps"]]
                except (KeyError, TypeError) as error:
                    raise DataError(
                        f"row '{row.get('id')}' is not one of `genprm label`: {error} is missing", file=str(self.path)
                    ) from None
                if solution.answer != answer:
                    continue
                for t, outcomes in enumerate(bits):
                    digest = state_digest(problem, prefix_text(solution.steps[:t], separator))
                    if len(outcomes) > len(known.get(digest, "")):
                        known[digest] = outcomes
        return known
