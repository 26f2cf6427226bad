"""Removing what a program left, however it arranged it."""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import count


def remove_tree(path: str) -> None:
    """Removes a directory and everything in it; what cannot be removed stays, without an error.

    `shutil.rmtree` recurses (up to Python 3.12) and needs a descriptor a level, so nesting stops it. Here nothing is
    nested for long: directories are moved up to the top one before they are looked into. Links are never followed.
    """
    with contextlib.suppress(OSError):
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            numbers = count()
            before: set[str] = set()
            while (names := _clear(top, top, numbers)) and names != before:  # the same again: they cannot be removed
                for name in names:
                    with contextlib.suppress(OSError):
                        _remove_directory(name, top, numbers)
                before = names
        finally:
            os.close(top)
        os.rmdir(path)  # noqa: PTH106


def _remove_directory(name: str, top: int, numbers: count[int]) -> None:
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        _clear(directory, top, numbers)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)


def _clear(directory: int, top: int, numbers: count[int]) -> set[str]:
    """Empties a directory: files go, directories move to the top. Returns those that were there already."""
    names = set()
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            if not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                os.unlink(name, dir_fd=directory)
                continue
            os.chmod(name, 0o700, dir_fd=directory)  # to move it, or to look into it, may have been forbidden
            if directory == top:
                names.add(name)
                continue
            while _exists(free := f".{next(numbers)}", top):
                pass
            os.rename(name, free, src_dir_fd=directory, dst_dir_fd=top)
    return names


def _exists(name: str, directory: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
