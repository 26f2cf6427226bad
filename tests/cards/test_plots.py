"""Pictures where matplotlib is installed, and what happens where it is not."""

from __future__ import annotations

import sys

import pytest

from genprm_trl.cards.plots import Curve, can_plot, plot_bars, plot_over_training, plot_score_by_n, require_plots
from genprm_trl.errors import MissingExtraError


def test_pictures_are_drawn(tmp_path):
    assert can_plot()
    require_plots()
    curves = {"one": Curve({1: 10.0, 2: 20.0}, {1: (5.0, 15.0)}), "other": Curve({1: 3.0}, {})}
    drawn = [
        plot_score_by_n(tmp_path / "curves.png", curves, {"level": 50.0}),
        plot_over_training(tmp_path / "panels.png", {"left": curves, "right": curves}, title="both"),
        plot_bars(tmp_path / "upright.png", ["a", "b"], [1, 2]),
        plot_bars(tmp_path / "lying.png", ["a", "b"], [1, 2], horizontal=True),
    ]
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_equal_numbers_make_equal_pictures(tmp_path):
    one, two = (plot_bars(tmp_path / f"{name}.png", ["a", "b"], [1, 2]).read_bytes() for name in "ab")
    assert one == two


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not can_plot()
    assert "pip install 'genprm-trl[plots]'" in caplog.text
    for draw in (
        require_plots,
        lambda: plot_bars(tmp_path / "bars.png", ["a"], [1]),
        lambda: plot_score_by_n(tmp_path / "curves.png", {}),
        lambda: plot_over_training(tmp_path / "panels.png", {"left": {}}),
    ):
        with pytest.raises(MissingExtraError, match=r"genprm-trl\[plots\]"):
            draw()
    assert list(tmp_path.iterdir()) == []
