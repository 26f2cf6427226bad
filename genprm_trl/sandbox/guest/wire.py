"""The messages between host and sandbox, in one place for both sides.

Host and zygote share a control socket: one length-prefixed JSON each way at the start, then fixed-size commands. Host
and worker share a second channel: a request for each block, a result for each request. A result must carry its
request's nonce, fresh random bytes for each block, so what a program plants in the channel cannot pass for a later
block's result.
"""

from __future__ import annotations

import struct

FRAME = struct.Struct("<I")  # length of the JSON that follows
# What (SPAWN, KILL, REST or WAKE), session key; SPAWN carries two descriptors: channel, status.
COMMAND = struct.Struct("<cQ")
EXIT = struct.Struct("<idB")  # wait status, CPU seconds used, one of the causes below
REQUEST = struct.Struct("<16sd?I")  # nonce, soft time-out in seconds, as published?, length of the UTF-8 code to come
RESULT = struct.Struct("<16sBdI")  # nonce, index into STATUSES, seconds, length of the UTF-8 text that follows

SPAWN, KILL, REST, WAKE = b"S", b"K", b"R", b"W"
READY = b"R"  # a worker's first byte: every protection is up
FAILED = b"F"  # or this, and the reason as text: it could not be set up
STATUSES = ("ok", "error", "timeout", "memory", "killed")  # killed: the harness failed, the text says how
OUT_OF_MEMORY = 1  # killed for its memory
FROM_OUTSIDE = 2  # killed, and neither by the program nor by the zygote
OVER_DISK = 3  # killed for its files
TIMEOUT_TEXT = "Code execute time out: Code execution timed out"
SPAWN_FAILED = 0x7FFF  # a wait status no process can have: the worker could not be forked
