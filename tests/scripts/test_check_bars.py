"""The bars of the demo, held against metrics files written by hand."""

import json

import pytest

from scripts import check_bars

# Each figure on its bar exactly, or a little better.
GOOD = {
    "sft/unigram_nll": 5.0,
    "sft/val_nll": 3.5,
    "reward/pair_accuracy": 0.82,
    "reward/pairs": 2000,
    "ppo/win_rate": 0.9,
    "ppo/gold_before": 0.1,
    "ppo/gold_after": 0.5,
    "ppo/kl_per_sequence": 12.0,
    "ppo/eos_rate": 0.95,
    "ppo/distinct_responses": 0.99,
}


def run(folder, capsys, changes, *options):
    """Write GOOD with changes (None: left out), run the script, return its status and output."""
    metrics = {name: value for name, value in (GOOD | changes).items() if value is not None}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    status = check_bars.main([str(folder), *options])
    return status, capsys.readouterr().out


def row_of(output, figure):
    (row,) = [line for line in output.splitlines() if line.startswith(figure)]
    return row


def test_good_figures_pass(tmp_path, capsys):
    status, output = run(tmp_path, capsys, {})
    assert status == 0
    assert output.count("ok") == 8  # one row a bar
    assert "MISSED" not in output


# What each figure may fall to (bar minus margin; for KL, plus), worked out by hand.
@pytest.mark.parametrize(
    ("figure", "name", "edge", "worse"),
    [
        ("sft/unigram_nll - sft/val_nll", "sft/val_nll", 3.65, 3.66),  # 5.0 - 1.35
        ("reward/pair_accuracy", "reward/pair_accuracy", 0.81, 0.809),
        ("ppo/win_rate", "ppo/win_rate", 0.82, 0.819),
        ("ppo/gold_after - ppo/gold_before", "ppo/gold_after", 0.40, 0.399),  # 0.1 + 0.30
        ("ppo/kl_per_sequence", "ppo/kl_per_sequence", 16.0, 16.01),
        ("ppo/eos_rate", "ppo/eos_rate", 0.88, 0.879),
        ("ppo/distinct_responses", "ppo/distinct_responses", 0.88, 0.879),
    ],
)
def test_a_margin_is_allowed_and_no_more(tmp_path, capsys, figure, name, edge, worse):
    status, output = run(tmp_path, capsys, {name: edge})
    assert status == 0
    assert "within the margin" in row_of(output, figure)
    status, output = run(tmp_path, capsys, {name: worse})
    assert status == 1
    assert row_of(output, figure).endswith("MISSED")
    assert output.count("MISSED") == 1


# Bars less 0.05; for KL, more. Its own margin of 1.0 no longer counts.
@pytest.mark.parametrize(
    ("name", "edge", "worse"),
    [
        ("sft/val_nll", 3.65, 3.66),
        ("reward/pair_accuracy", 0.77, 0.769),
        ("ppo/win_rate", 0.80, 0.799),
        ("ppo/gold_after", 0.40, 0.399),
        ("ppo/kl_per_sequence", 15.05, 15.06),
        ("ppo/eos_rate", 0.85, 0.849),
        ("ppo/distinct_responses", 0.85, 0.849),
    ],
)
def test_slack_takes_the_place_of_every_margin(tmp_path, capsys, name, edge, worse):
    status, output = run(tmp_path, capsys, {name: edge}, "--slack", "0.05")
    assert (status, output.count("within the margin")) == (0, 1)
    status, output = run(tmp_path, capsys, {name: worse}, "--slack", "0.05")
    assert (status, output.count("MISSED")) == (1, 1)


def test_pairs_have_no_margin(tmp_path, capsys):
    status, output = run(tmp_path, capsys, {"reward/pairs": 1999})
    assert status == 1
    assert row_of(output, "reward/pairs").endswith("MISSED")


@pytest.mark.parametrize("value", [None, "high", True])
def test_a_figure_that_is_no_number_fails_by_name(tmp_path, capsys, value):
    status, output = run(tmp_path, capsys, {"ppo/gold_before": value})
    assert status == 1
    assert "no number 'ppo/gold_before'" in output


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_figure_that_is_not_finite_fails(tmp_path, capsys, value):
    status, output = run(tmp_path, capsys, {"ppo/kl_per_sequence": value})
    assert status == 1
    assert row_of(output, "ppo/kl_per_sequence").endswith("MISSED")


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_an_unreadable_file_is_named_with_what_to_do(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(SystemExit, match=r"metrics\.json.*make demo"):
        check_bars.main([str(tmp_path)])
