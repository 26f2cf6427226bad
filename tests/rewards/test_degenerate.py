"""What counts as degenerate text."""

from __future__ import annotations

from functools import partial

import pytest

from genprm_trl.errors import ConfigError
from genprm_trl.rewards import degenerate_text_penalty

SOLUTION = (
    "Step 1: There are 3 boxes with 4 pens, so 3 * 4 = 12 pens.\nStep 2: He gives 5 away: 12 - 5 = 7.\n"
    "Step 3: The angle θ is not needed. The answer is 7."
)


@pytest.mark.parametrize(
    ("text", "prompt", "penalty"),
    [
        (SOLUTION, "How many pens?", 0.0),
        ("", "How many pens?", 0.0),
        ("7", "How many pens?", 0.0),
        (SOLUTION + " Wait, let me check this once more." * 30, "How many pens?", -1.0),
        ("Step 1: \u6211\u4eec\u8ba1\u7b97 3 * 4", "How many pens?", -1.0),
        ("\u7b2c\u4e00\u6b65: 3 * 4 = 12", "\u6709\u591a\u5c11\u652f\u7b14?", 0.0),
        ("2\u207f", "?", 0.0),  # the exponent n
        ("5 \u00b5m", "?", 0.0),  # the micro sign
        ("\u210f\u03c9", "?", 0.0),  # Planck's constant
        ("\u2126\u212a\u212b\u2102\u2132", "?", 0.0),  # ohm, kelvin, angstrom, the complex numbers, Finv
        ("2^\u2135 = \u2136", "?", 0.0),  # the cardinals aleph and beth
        ("f\u02b9 = \U0001d465\U0001d7cb A\u1d40", "?", 0.0),  # a prime, italic x, bold chi, a transpose
        ("\u05d0\u05d1\u05d2", "?", -1.0),  # Hebrew
        ("\u0445\u02b0", "?", -1.0),  # Cyrillic
        ("So \ufffd\ufffd\ufffd it \ufffd is", "How many pens?", -1.0),
    ],
)
def test_what_is_degenerate(text, prompt, penalty):
    assert degenerate_text_penalty([text], [prompt]) == [penalty]
    chat = [{"role": "assistant", "content": text}]
    assert degenerate_text_penalty([chat], [[{"role": "user", "content": prompt}]]) == [penalty]


def test_completions_that_run_on_to_the_bound():
    logged: dict[str, float] = {}
    bounded = partial(degenerate_text_penalty, max_tokens=3, log_metric=logged.__setitem__)
    assert bounded(["a", "b"], completion_ids=[[1, 2], [1, 2, 3]]) == [0.0, -1.0]
    assert logged == {"degenerate/repeated": 0.0, "degenerate/too_long": 0.5, "degenerate/garbled": 0.0}
    with pytest.raises(ConfigError, match="completion_ids"):
        bounded(["a"])
    with pytest.raises(ConfigError, match="most_repeated"):
        degenerate_text_penalty(["a"], most_repeated=2)
