"""Names that a package exports and loads when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """The `__all__`, `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: The package's `__name__`.
        names: Module, absolute or relative to the package (`.trainer`), to the names that it defines.

    Example:
        ```python
        __all__, __getattr__, __dir__ = lazy_exports(__name__, {".trainer": ["GenPRMConfig", "GenPRMTrainer"]})
        ```
    """
    home_of = {name: module for module, exported in names.items() for name in exported}

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(home_of[name], package), name)
        setattr(sys.modules[package], name, value)  # the next use is a plain attribute
        return value

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return sorted(home_of), load, directory
