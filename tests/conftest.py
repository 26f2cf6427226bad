"""Settings that hold for every test; made before any of them imports torch."""

import gc
import logging
import os
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from hypothesis import settings

# OpenMP threads that spin at barriers starve each other where cores are few or shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A loaded machine is no fault of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# --doctest-modules imports every file that it is not told to leave, and these are programs that break things.
collect_ignore = ["hostile/programs"]

_LOGGERS = (None, "genprm_trl", "genprm_trl.sandbox", "py.warnings")
_LEVELS = {logger: logger.level for logger in map(logging.getLogger, _LOGGERS)}


def pytest_collection_finish() -> None:
    """What was imported stays to the end. Trainers collect garbage often, and would look through all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command sets levels for the whole process: no test is to see those of another."""
    yield
    for logger, level in _LEVELS.items():
        logger.setLevel(level)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are on no Hub are not looked for on the network, which takes minutes where there is none."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the day that chat templates see as today: `day("2026-12-01")`."""

    def set_day(iso: str) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return datetime.fromisoformat(iso)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)

    return set_day
