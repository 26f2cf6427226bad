"""A file of verdicts that a run can resume, and that never mixes what does not belong together."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import write_json
from genprm_trl.stages.resumable import ResumableFile
from genprm_trl.stages.settings import read_settings

# Where the settings say what judging took.
_TOOK = "took"
_NO_LABEL = -2


class VerdictFile(ResumableFile[Solution]):
    """Verdicts of one verifier over one set of solutions, appended as they finish.

    Beside it stands `NAME.settings.json` with the settings that the verdicts were made with, and what judging took. A
    file made with other settings is refused, and so is one whose verdicts are about other texts under the same ids.

    Args:
        path: The JSON Lines file, made with its directory where missing.
        settings: What decides verdicts, as JSON values.
        solutions: All that are to be judged. It must give the same ones each time it is iterated over.
        overwrite: Start again, once no other process is found to be writing.
        retry_errors: Remove the verdicts with a judgement that failed (status `error`), so that their solutions remain
            to be judged.

    Attributes:
        seconds: What judging took in this and earlier runs. None if that is not known, as after a kill.

    Raises:
        ConfigError: The file was made with other settings or by something else, or `path` is a directory or gzipped.
        DataError: It cannot be written, is being written by another process, or holds verdicts of other texts.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        solutions: Iterable[Solution],
        *,
        overwrite: bool = False,
        retry_errors: bool = False,
    ):
        path = Path(path)
        if path.suffix.lower() == ".gz":
            raise ConfigError(f"{path}: verdicts are written one at a time, so they cannot be packed; leave out .gz")
        timed, seconds = (0, 0.0) if overwrite else kept_time(path)
        self._labels = array("q")
        super().__init__(
            path,
            settings,
            solutions,
            settings_path=Path(f"{path}.settings.json"),
            output=path,
            what="verdicts",
            overwrite=overwrite,
        )
        self._settings = dict(settings)
        if retry_errors and any(verdict.has_failed for verdict in self.verdicts()):
            self.rewrite(lambda row: None if str(row["id"]) in self and Verdict.from_dict(row).has_failed else row)
        if not self.done:  # settings outlive a file that somebody has removed
            timed, seconds = 0, 0.0
        self._timed = timed
        self.seconds: float | None = seconds if timed >= self.done else None
        self.add_seconds(0.0)

    def _note_item(self, item: Solution) -> None:
        self._labels.append(_NO_LABEL if item.label is None else item.label)

    def _label(self, id: str) -> int | None:
        number = self._numbers.get(id)
        assert number is not None
        return None if self._labels[number] == _NO_LABEL else self._labels[number]

    def _key(self, line: Mapping[str, Any]) -> tuple[str, str]:
        verdict = Verdict.from_dict(line)  # a bad verdict shows before any work starts
        return verdict.id, verdict.solution_digest

    def verdicts(self) -> Iterator[Verdict]:
        """The finished verdicts of the solutions at hand, in the solutions' order, with the solutions' own labels."""
        for line in self.lines():
            verdict = Verdict.from_dict(line)
            verdict.label = self._label(verdict.id)
            yield verdict

    def update_labels(self) -> int:
        """Gives the verdicts in the file the labels of the solutions at hand, which may have been corrected since.

        Returns:
            How many labels were others.
        """
        changed = sum(line.get("label") != self._label(str(line["id"])) for line in self.lines())
        if changed:
            self.rewrite(lambda row: {**row, "label": self._label(str(row["id"]))} if str(row["id"]) in self else row)
        return changed

    def write(self, verdict: Verdict) -> None:
        """Appends a verdict; it survives a kill from here on."""
        self.append(verdict.id, verdict)

    def add_seconds(self, seconds: float) -> None:
        """Notes what judging took, with what it took before; see `kept_time`."""
        if self.seconds is None:
            return
        self.seconds = round(self.seconds + seconds, 3)
        self._timed = max(self._timed, self.done)
        if self._timed and self._writer.has_path():
            took = {"verdicts": self._timed, "seconds": self.seconds}
            write_json(self._settings_path, {**self._settings, _TOOK: took})


def kept_time(path: str | Path) -> tuple[int, float]:
    """How many verdicts of a file judging was timed for, and the seconds that they took in all, with loading.

    A file may hold more: a run that was killed does not say what its verdicts took. A file beside which nothing of the
    kind is kept has no timed verdicts and 0.0 seconds.
    """
    try:
        took = (read_settings(Path(f"{path}.settings.json")) or {})[_TOOK]
        return int(took["verdicts"]), float(took["seconds"])
    except (DataError, KeyError, TypeError, ValueError):
        return 0, 0.0
