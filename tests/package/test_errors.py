"""The checks of settings: what they let pass, and what they say."""

import math
from collections.abc import Callable

import pytest

from genprm_trl.errors import (
    ConfigError,
    DataError,
    check_at_least,
    check_one_of,
    check_positive,
    check_share,
    check_text,
)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_at_least(1, n=1, limit=None, k=0), "k must be at least 1, got 0"),
        (lambda: check_at_least(0, alpha=math.nan), "alpha must be at least 0, got nan"),
        (lambda: check_at_least(1, n="8"), "n must be a number, got '8'"),
        (lambda: check_positive(beta=[1]), "beta must be a number, got [1]"),
        (lambda: check_share(threshold=None), "threshold must be a number, got None"),
        (lambda: check_text(step_separator=2), "step_separator must be a text, got 2"),
        (lambda: check_positive(timeout=0.1, patience=0), "patience must be positive, got 0"),
        (lambda: check_share(low=0, high=1, threshold=1.1), "threshold must be within [0, 1], got 1.1"),
        (lambda: check_one_of(("a", "b"), mode="a", rule="c"), "unknown rule 'c'; choose one of a, b"),
        (lambda: check_one_of((None, "a"), scale=None, other="b"), "unknown other 'b'; choose one of a"),
    ],
)
def test_a_check_names_the_first_setting_that_is_wrong(check: Callable[[], None], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check()
    assert str(caught.value) == message


def test_what_catches_the_errors_of_trl_catches_ours() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(DataError, ValueError)
