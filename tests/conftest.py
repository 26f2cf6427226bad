"""Settings that hold for every test; made before any of them imports torch."""

import logging
import os
from collections.abc import Iterator

import pytest

# OpenMP threads that spin at barriers starve each other where cores are few or shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# Tests that measure time or memory, or wait for other processes a limited time: `make test` runs them one by one.
SERIAL = (
    "tests/hostile/",
    "tests/sandbox/",
    "tests/service/",
    "tests/generation/test_server_generator.py",
    "tests/labeling/test_ray_executor.py",
    "tests/test_grading.py",
    "tests/test_verify_faults.py",
    "memory_does_not_grow",
    "takes_little_memory",
    "killed_and_taken_up",
    "kill_and_resume",
    "two_processes",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(part in item.nodeid for part in SERIAL):
            item.add_marker("serial")


_LEVELS = {logger: logger.level for logger in map(logging.getLogger, (None, "genprm_trl", "py.warnings"))}


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command sets levels for the whole process: no test is to see those of another."""
    yield
    for logger, level in _LEVELS.items():
        logger.setLevel(level)
