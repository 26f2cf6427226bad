"""A stage whose work is quick and ends in another order each time, as a program for tests to kill."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from genprm_trl.stages.file import Outcome
from genprm_trl.stages.partial import Partial
from genprm_trl.stages.run import Worker, in_this_process, run_stage
from tests.helpers.kills import die_at


@dataclass(frozen=True)
class Number:
    value: int

    @property
    def id(self) -> str:
        return f"n{self.value}"

    @property
    def digest(self) -> str:
        return hashlib.blake2b(str(self.value).encode(), digest_size=8).hexdigest()


class Numbers:
    """The first `n` numbers, made again each time, so that none of them is kept."""

    def __init__(self, n: int):
        self.n = n

    def __iter__(self) -> Iterator[Number]:
        return map(Number, range(self.n))


async def work(opened: None, number: Number, partial: Partial) -> Outcome:
    for _ in range(random.randrange(4)):
        await asyncio.sleep(0)
    copies = number.value % 4
    return Outcome(
        rows=[{"id": f"{number.id}-{copy}", "text": f"é{number.value}" * 80} for copy in range(copies)],
        dropped={} if copies else {"multiple of four": 1},
        counts={"sum": number.value, "halves": number.value / 2},
    )


worker = Worker(contextlib.nullcontext, work)


def main(output: str, n: str, die: str = "0", torn: str = "") -> None:
    random.seed()
    if int(die):
        die_at(int(die), torn=torn == "torn")
    summary = run_stage(worker, Numbers(int(n)), output, {"n": 4}, execute=in_this_process(8), progress=False)
    print(summary.to_dict())
    # Not `ru_maxrss`: a child's begins at its parent's, which is pytest with everything imported.
    print("rss", re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    assert Path(output).exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
