"""What a session may use."""

from __future__ import annotations

from dataclasses import dataclass, fields

from genprm_trl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one session. Times in seconds, sizes in bytes.

    Attributes:
        timeout: Wall time of a block. Then it is interrupted, and its names are kept (GenPRM's published 5 s).
        grace: Further time of a block that cannot be interrupted, before its session's process is killed.
        cpu: Processor time of a process, over all blocks.
        memory: Address space of a process, in addition to that of the imported libraries. Also what all processes of a
            session hold together.
        output: Largest output of a block that is kept whole; a longer one is cut in the middle.
        disk: Size of the private temporary directory, and the largest file.
        file_size: The largest file, standard output included.
        open_files: Descriptors a process may have.
        processes: Processes and threads at once.
        total_memory: What all sessions of the sandbox hold together. Default: half of the memory that is free when it
            starts.

    Raises:
        ConfigError: A limit is not positive, or `open_files` is too small for the sandbox itself.
    """

    timeout: float = 5.0
    grace: float = 2.0
    cpu: int = 300
    memory: int = 1 << 30
    output: int = 16 << 10
    disk: int = 64 << 20
    file_size: int = 64 << 20
    open_files: int = 64
    processes: int = 32
    total_memory: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None and value <= 0:
                raise ConfigError(f"Limit '{field.name}' must be positive, not {value}.")
        if self.open_files < 16:
            raise ConfigError(f"Limit 'open_files' must be at least 16, not {self.open_files}.")
