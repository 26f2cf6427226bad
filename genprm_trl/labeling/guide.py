"""Where a verifier sees the first wrong step of each solution, for a search that begins there."""

from __future__ import annotations

from array import array
from pathlib import Path

from genprm_trl.data.solutions import iter_verdicts
from genprm_trl.errors import DataError
from genprm_trl.records import Solution, Verdict
from genprm_trl.rows.digests import IdTable, text_hash

_NONE = -1


class Guide:
    """The verdicts of `genprm verify` on the solutions that are to be labelled, as guesses of their first wrong step.

    About 140 bytes a verdict are kept in memory.

    Args:
        path: The file of verdicts.

    Attributes:
        digest: A hash of all guesses, in whatever order the file holds them: what the guide decides.

    Raises:
        DataError: The file cannot be read, or a row is no verdict.
    """

    def __init__(self, path: str | Path):
        self._path = str(path)
        self._numbers, self._guesses, self._digests = IdTable(), array("q"), array("Q")
        total = 0
        for number, verdict in enumerate(iter_verdicts(path)):
            self._numbers.add(verdict.id, number)
            guess = guess_of(verdict)
            self._guesses.append(_NONE if guess is None else guess)
            self._digests.append(text_hash(verdict.solution_digest) if verdict.solution_digest else 0)
            total += text_hash(f"{verdict.id}\0{verdict.solution_digest}\0{guess}")
        self.digest = f"{total % 2**64:016x}"

    def check(self, solution: Solution) -> None:
        """Checks that there is a verdict on a solution.

        Raises:
            DataError: There is none, or it is about another text.
        """
        number = self._numbers.get(solution.id)
        if number is None:
            raise DataError(
                f"holds no verdict on '{solution.id}'; judge the same solutions with `genprm verify`", file=self._path
            )
        if self._digests[number] not in (0, text_hash(solution.digest)):
            raise DataError(
                f"holds a verdict on '{solution.id}' about another text: the solution has changed, or the file "
                "belongs to other data",
                file=self._path,
            )

    def __call__(self, solution: Solution) -> int | None:
        """The guess for a solution: see `guess_of`."""
        number = self._numbers.get(solution.id)
        return None if number is None or self._guesses[number] == _NONE else self._guesses[number]


def guess_of(verdict: Verdict) -> int | None:
    """Which step of a solution with a wrong answer is the first wrong one, if a verdict is to say.

    It is the predicted one. If all steps pass, it is the one with the lowest reward, since one of them is wrong.

    Args:
        verdict: The verdict.

    Returns:
        The step's index from 0. None if judging failed, or a step that decides has no verdict.
    """
    if verdict.has_failed or verdict.scored_prediction is None or not verdict.rewards:
        return None
    if verdict.prediction >= 0:
        return verdict.prediction
    return min(range(len(verdict.rewards)), key=verdict.rewards.__getitem__)
