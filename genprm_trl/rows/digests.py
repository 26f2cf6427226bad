"""Short hashes of what rows hold, and the table of ids that they make."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from genprm_trl.errors import DataError


def content_digest(content: Any) -> str:
    """A short hash of a JSON value, equal for equal values whatever the order of their fields.

    Examples:
        >>> content_digest({"seed": 0, "model": "m"}) == content_digest({"model": "m", "seed": 0})
        True
    """
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def text_hash(text: str) -> int:
    """A hash of a text in 64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class IdTable:
    """The number of each id, such as the row it stands in.

    Ids are kept as hashes, in about 110 bytes each however long they are. Two different ids are taken for one with a
    probability of n² / 2⁶⁵ for n of them: 3e-8 for a million.

    Examples:
        >>> table = IdTable()
        >>> table.add("one", 1)
        >>> table.get("one"), table.get("two"), len(table)
        (1, None, 1)
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def get(self, id: str) -> int | None:
        """The number of an id; None if there is none."""
        return self._numbers.get(text_hash(id))

    def add(self, id: str, number: int) -> None:
        """Takes in a new id.

        Raises:
            DataError: It is there already. The message calls its number a row.
        """
        key = text_hash(id)
        if key in self._numbers:
            raise DataError(f"{id!r} is the id of row {self._numbers[key]} already", field="id")
        self._numbers[key] = number
