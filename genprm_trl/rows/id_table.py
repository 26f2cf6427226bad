"""A table from texts to numbers for as many texts as a data set has rows.

What is done of a stage, and which ids a file has had so far, must be known of every row, so it is the one thing that
grows with the data. A dict of strings takes some 200 bytes an entry. Here a text stands in flat arrays as a hash of 64
bits: 16 bytes an entry, and no more than 54 with the free places.
"""

from __future__ import annotations

import hashlib
from array import array

_FREE = 0


def text_hash(text: str) -> int:
    """A hash of a text in 64 bits, the same in every process; never 0."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class TextTable:
    """A map from texts to whole numbers of 64 bits, without a way to list the texts or to remove one.

    Two different texts are taken for one with a probability of n² / 2⁶⁵ for n of them: 3e-8 for a million.

    Examples:
        >>> table = TextTable()
        >>> table["one"] = 1
        >>> table.get("one"), table.get("two"), len(table)
        (1, None, 1)
    """

    def __init__(self) -> None:
        self._hashes, self._values = _arrays(16)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self.get(text) is not None

    def get(self, text: str) -> int | None:
        """The number of a text; None if there is none."""
        place = _place(self._hashes, text_hash(text))
        return self._values[place] if self._hashes[place] != _FREE else None

    def __setitem__(self, text: str, value: int) -> None:
        key = text_hash(text)
        place = _place(self._hashes, key)
        if self._hashes[place] == _FREE:
            if 5 * (self._size + 1) > 3 * len(self._hashes):
                self._grow()
                place = _place(self._hashes, key)
            self._size += 1
        self._hashes[place], self._values[place] = key, value

    def _grow(self) -> None:
        hashes, values = _arrays(2 * len(self._hashes))
        for key, value in zip(self._hashes, self._values, strict=True):
            if key != _FREE:
                place = _place(hashes, key)
                hashes[place], values[place] = key, value
        self._hashes, self._values = hashes, values


def _arrays(size: int) -> tuple[array[int], array[int]]:
    return array("Q", bytes(8 * size)), array("q", bytes(8 * size))


def _place(hashes: array[int], key: int) -> int:
    """Where a hash stands, or the free place where it belongs (linear probing; the size is a power of two)."""
    mask = len(hashes) - 1
    place = key & mask
    while hashes[place] not in (_FREE, key):
        place = (place + 1) & mask
    return place
