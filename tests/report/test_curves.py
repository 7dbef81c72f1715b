"""Which figures are drawn as curves, and by which words."""

from dataclasses import replace

import pytest

from hydralign.report import curves
from hydralign.report.curves import LABELS, curve_pictures
from hydralign.report.read import Curve, read_run
from tests.stages.test_metric_names import documented


@pytest.fixture
def drawn_names(monkeypatch):
    """Names of all curves that are drawn."""
    seen = []
    group = curves._group_picture
    monkeypatch.setattr(
        curves, "_group_picture", lambda *given: (seen.extend(given[1]), group(*given))[1]
    )
    return seen


def test_all_that_was_logged_is_drawn_but_for_figures_of_the_end(bare, drawn_names):
    run = replace(
        read_run(bare),
        metrics={"ppo/win_rate": 0.5, "reward/val_accuracy": 0.7},
        curves={
            "epoch": Curve([1, 2], [0.0, 0.0]),
            "ppo/win_rate": Curve([9], [0.5]),
            "reward/val_accuracy": Curve([1, 2], [0.6, 0.7]),
            "rewards/my_$rule$": Curve([1], [0.1]),
            "own/new_figure": Curve(list(range(40)), [0.5] * 40),
        },
    )
    pictures = {shown.name: shown for shown in curve_pictures(run)}
    assert set(pictures) == {"curves_reward", "curves_rewards", "curves_own"}
    assert set(drawn_names) == {"reward/val_accuracy", "rewards/my_$rule$", "own/new_figure"}
    assert all(shown.png.startswith(b"\x89PNG") for shown in pictures.values())


def test_words_are_only_for_figures_that_are_documented():
    assert set(LABELS) - documented() == set()
