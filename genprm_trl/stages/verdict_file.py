"""A file of verdicts that a run which was stopped can take up, and that never mixes what does not belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.errors import ConfigError, DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.jsonl import JsonlWriter, encode_line, iter_written_rows, replacing
from genprm_trl.stages.settings import check_settings


class VerdictFile:
    """Verdicts of one verifier over one set of solutions, appended as they finish.

    While it is open no other process writes to it. Beside it stands `NAME.settings.json` with the settings that the
    verdicts were made with; a file made with others is refused, and so is one whose verdicts are about other texts
    under the same ids.

    Args:
        path: The JSON Lines file, made with its directory where missing.
        settings: What decides verdicts, as JSON values.
        solutions: All that are to be judged.
        overwrite: Start anew, once no other process is found to be writing.
        retry_errors: Take out the verdicts with a judgement that failed (status `error`), so that their solutions
            remain to be judged.

    Attributes:
        remaining: The solutions that have no verdict yet, in order.

    Raises:
        ConfigError: The file was made with other settings, or `path` is a directory.
        DataError: It cannot be written, is being written by another process, or holds verdicts of other texts.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        solutions: Sequence[Solution],
        *,
        overwrite: bool = False,
        retry_errors: bool = False,
    ):
        self.path = Path(path)
        if self.path.is_dir():
            raise ConfigError(f"{self.path} is a directory; name a file")
        if self.path.exists() and not self.path.is_file():
            raise ConfigError(f"{self.path} is not a regular file, so a run that was stopped could not go on from it")
        # The lock comes first: whatever is read from here on stays as it is.
        self._writer = JsonlWriter(self.path, overwrite=overwrite)
        try:
            made = self.path if self.path.stat().st_size else None
            check_settings(self.settings_path, settings, made=made, what="verdicts")
            self._by_id = {solution.id: solution for solution in solutions}
            if retry_errors:
                self._take_out_failed()
            done = {verdict.id for verdict in self.verdicts()}
            self.remaining = [solution for solution in solutions if solution.id not in done]
        except BaseException:
            self.close()
            raise

    @property
    def settings_path(self) -> Path:
        return self.path.with_name(self.path.name + ".settings.json")

    def _take_out_failed(self) -> None:
        failed = {verdict.id for verdict in self.verdicts() if verdict.has_failed}
        if not failed:
            return
        with replacing(self.path) as file:
            for _, row in iter_written_rows(self.path):
                if row.get("id") not in failed:
                    file.write(encode_line(row))
        # The lock is on the file that was replaced.
        before, self._writer = self._writer, JsonlWriter(self.path)
        before.close()

    def verdicts(self) -> Iterator[Verdict]:
        """The finished verdicts of the solutions at hand, one at a time.

        Raises:
            DataError: One is about another text than the solution of its id.
        """
        for verdict in iter_verdicts(self.path):
            solution = self._by_id.get(verdict.id)
            if solution is None:  # beyond a --limit that was larger before
                continue
            if verdict.solution_digest not in ("", solution.digest):
                raise DataError(
                    f"holds a verdict of '{verdict.id}' about another text: the solution has changed, or the file "
                    "belongs to other data; choose another --output, or --overwrite",
                    file=str(self.path),
                )
            yield verdict

    def write(self, verdict: Verdict) -> None:
        """Appends a verdict; it survives a kill from here on."""
        self._writer.write(verdict)

    def close(self) -> None:
        """Closes the file, and removes it if nothing was ever written to it. Safe to call twice."""
        empty = self.path.exists() and not self.path.stat().st_size
        if empty:
            self.path.unlink()
            self.settings_path.unlink(missing_ok=True)
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
