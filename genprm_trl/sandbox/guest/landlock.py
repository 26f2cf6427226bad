"""Landlock: file access by allow-list, without privileges or namespaces (Linux 5.13; containers allow it).

Where the root is hidden this is a second wall; where namespaces are refused it is the one that keeps a program from
files, from /proc, from other processes, and, on newer kernels, from TCP and abstract sockets.

Structures and constants: Linux, include/uapi/linux/landlock.h; behaviour: Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import os
import struct

from . import linux

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHARACTER_DEVICE, _MAKE_BLOCK_DEVICE = 1 << 6, 1 << 11
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # interface version -> how many rights it knows: the lowest bits
_TCP, _SCOPES = 0b11, 0b11  # binding and connecting; abstract sockets and signals
_VERSION_FLAG, _PATH_BENEATH = 1, 1


def version() -> int:
    """The kernel's version of the interface. Raises OSError where there is none."""
    return linux.syscall("landlock_create_ruleset", None, 0, _VERSION_FLAG)


def restrict(readable: tuple[str, ...], devices: tuple[str, ...], own: str) -> None:
    """Takes everything from the calling process but the paths named. Needs no_new_privs.

    Args:
        readable: Files and directories that may be read, with what is below them.
        devices: Device files that may be read and written.
        own: The directory in which anything but devices may be made.

    Raises:
        OSError: The kernel has no Landlock, or one of the paths cannot be opened.
    """
    known = version()
    handled = (1 << max(rights for since, rights in _FILE_RIGHTS.items() if since <= known)) - 1
    attributes = struct.pack("<QQQ", handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    ruleset = linux.syscall("landlock_create_ruleset", attributes, size, 0)
    anything = handled & ~(_MAKE_CHARACTER_DEVICE | _MAKE_BLOCK_DEVICE)
    grants = [(path, _READ) for path in readable]
    grants += [(path, _READ_FILE | _WRITE_FILE) for path in devices]
    try:
        for path, rights in [*grants, (own, anything)]:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("<Qi", rights & handled, descriptor)
                linux.syscall("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
            finally:
                os.close(descriptor)
        linux.syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
