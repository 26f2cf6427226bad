"""The file that a stage of the data recipe makes: resumable after any kill, and independent of the order of work.

    rollouts.jsonl                       the rows, in the order of the input; there once the stage is finished
    rollouts.jsonl.stage/journal.jsonl   what came of each input item, a line each, as items finish
    rollouts.jsonl.stage/partial.jsonl   what there is of items that are not finished; gone once all are
    rollouts.jsonl.stage/settings.json   what the rows were made with
    rollouts.jsonl.stage/summary.json    counts

The journal is the only truth. A line of it holds everything that came of an item (rows, what was dropped and why,
counts), so a kill leaves an item done or not done and nothing between. The output is written from it in one piece; it
can be written again, and more items can be added, as long as the journal is there.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from genprm_trl.errors import ConfigError, DataError, GenPRMError
from genprm_trl.rows.jsonl import write_json, write_jsonl
from genprm_trl.stages.resumable import ItemT, ResumableFile
from genprm_trl.stages.settings import START_ANEW, read_settings

FAILED = "failed"  # why an item was dropped on which the generator or the sandbox failed


@dataclass(slots=True)
class Outcome:
    """What came of one item.

    Attributes:
        rows: The output rows, any number of them, as JSON objects.
        dropped: Reason to number, of what was left out.
        counts: Name to amount, of what was spent or seen. Amounts add up over items.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class StageSummary:
    """Counts over all items of a finished stage, equal for equal input and settings.

    Attributes:
        items: Items that were worked on.
        rows: Rows that came of them.
        dropped: Reason to number, of what was left out.
        counts: Name to amount, of what was spent or seen.
        bad_rows: Rows of the input that could not be used.
    """

    items: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    counts: dict[str, float] = field(default_factory=dict)
    bad_rows: int = 0

    def add(self, outcome: Outcome) -> None:
        """Adds what came of an item."""
        self.items += 1
        self.rows += len(outcome.rows)
        self.dropped.update(outcome.dropped)
        for name, amount in outcome.counts.items():
            self.counts[name] = self.counts.get(name, 0) + amount

    def whole_counts(self) -> Counter[str]:
        """The counts as whole numbers; 0 for what was never counted."""
        return Counter({name: int(amount) for name, amount in self.counts.items()})

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON values, sorted by name."""
        return {
            "items": self.items,
            "rows": self.rows,
            "dropped": dict(sorted(self.dropped.items())),
            "counts": dict(sorted(self.counts.items())),
            "bad_rows": self.bad_rows,
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The summary beside a finished stage's output.

        Args:
            path: The output.

        Raises:
            DataError: There is none, or it cannot be read.
        """
        file = stage_directory(path) / "summary.json"
        try:
            row = read_settings(file) or {}
            return cls(row["items"], row["rows"], Counter(row["dropped"]), dict(row["counts"]), row["bad_rows"])
        except (KeyError, TypeError) as error:
            raise DataError(f"is not the summary of a finished stage: {error!r}", file=str(file)) from None


def stage_directory(path: str | Path) -> Path:
    """Where journal, settings and summary of an output are."""
    path = Path(path)
    return path.with_name(path.name + ".stage")


class StageFile(ResumableFile[ItemT]):
    """The output of a stage over its input, resumed where an earlier run was stopped.

    Args:
        path: The output, gzipped if it ends in `.gz`, made with its directory where missing.
        settings: What decides the rows, as JSON values.
        items: The input. It must give the same items each time it is iterated over.
        overwrite: Start again, once no other process is found to be writing.

    Raises:
        ConfigError: The output was made with other settings or by something else, or `path` is no regular file.
        DataError: The input is bad, an item's content is not what it was, or the output cannot be written.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], items: Iterable[ItemT], *, overwrite: bool = False
    ):
        self.failed: set[str] = set()
        output, directory = Path(path), stage_directory(path)
        journal = directory / "journal.jsonl"
        self.partial_path = directory / "partial.jsonl"
        if output.is_file() and not journal.exists() and not overwrite:
            raise ConfigError(f"{output} exists, and there is no {journal} to resume from; {START_ANEW}")
        super().__init__(
            journal,
            settings,
            items,
            settings_path=directory / "settings.json",
            output=output,
            what="rows",
            overwrite=overwrite,
        )

    def _is_empty(self) -> bool:
        return super()._is_empty() and not self.output.exists() and not self.partial_path.exists()

    def _remove_results(self) -> None:
        self.output.unlink(missing_ok=True)
        self.partial_path.unlink(missing_ok=True)

    def _key(self, line: Mapping[str, Any]) -> tuple[str, str]:
        if (line.get("dropped") or {}).get(FAILED):
            self.failed.add(line["id"])
        return super()._key(line)

    def retry_failed(self) -> None:
        """Takes up again what was dropped since it failed, and what the input still has."""
        unwanted = {id for id in self.failed if id in self}
        if unwanted:
            self.failed -= unwanted
            self.rewrite(lambda row: None if row["id"] in unwanted else row)

    def write(self, id: str, digest: str, outcome: Outcome) -> None:
        """Keeps what came of an item; it survives a kill from here on. Raises as `append` does."""
        counted = {"dropped": outcome.dropped, "counts": outcome.counts}
        self.append(id, {"id": id, "digest": digest, "rows": outcome.rows, **counted})

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        """What came of each item that is done, with the item's id, in the input's order."""
        for line in self.lines():
            yield line["id"], Outcome(line["rows"], line["dropped"], line["counts"])

    def finish(
        self,
        *,
        bad_rows: int = 0,
        renew: Callable[[ItemT, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> StageSummary:
        """Writes the output and the summary, each in one piece.

        Args:
            bad_rows: Rows of the input that could not be used, for the summary.
            renew: Makes the output row of an item and a row of the journal, where the row repeats fields of the item
                that may have been corrected since.

        Raises:
            GenPRMError: Some items are not done.
            DataError: The files cannot be written. The journal is still there, and so is an output of before.
        """
        self._check_place()
        if self.done < self.total:
            raise GenPRMError(f"{self.total - self.done} of {self.total} items are not done")
        summary = StageSummary(bad_rows=bad_rows)

        def rows() -> Iterator[dict[str, Any]]:
            # The input is read once more only where it is needed.
            items: Iterator[Any] = itertools.repeat(None) if renew is None else iter(self._items)
            for (_, outcome), item in zip(self.outcomes(), items, strict=False):
                summary.add(outcome)
                yield from (outcome.rows if renew is None else (renew(item, row) for row in outcome.rows))

        write_jsonl(self.output, rows(), result=True)
        write_json(self.path.with_name("summary.json"), summary.to_dict())
        self.partial_path.unlink(missing_ok=True)
        return summary

    def close(self) -> None:
        """Closes the file, and removes what was made for it if nothing was ever kept. Safe to call twice."""
        had_path = self._writer.has_path()
        super().close()
        if not had_path:
            return
        with contextlib.suppress(OSError):  # it is not empty
            self.path.parent.rmdir()
