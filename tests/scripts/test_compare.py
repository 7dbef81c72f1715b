"""The table and the picture of a comparison, and its command line."""

import pytest

from scripts import compare

ROWS = [
    {"name": "sft", "win_rate": 0.5, "kl_per_sequence": 0.0, "score_after": -0.1},
    {"name": "best of 4", "win_rate": 0.8, "kl_per_sequence": 0.636, "score_after": 0.9},
    {"name": "ppo", "win_rate": 0.9, "kl_per_sequence": 9.0, "score_after": 1.5, "seconds": 61.4},
]


def test_the_table_leaves_out_what_nobody_has():
    assert compare.markdown(ROWS) == (
        "| | held-out score | win rate | KL | seconds |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| sft | -0.10 | 0.500 | 0.00 | - |\n"
        "| best of 4 | +0.90 | 0.800 | 0.64 | - |\n"
        "| ppo | +1.50 | 0.900 | 9.00 | 61 |\n"
    )


def test_a_line_is_smoothed_over_what_came_before():
    assert compare.smooth([1.0, 3.0, 5.0, 7.0], window=2) == [1.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize("gold", [False, True])
def test_a_picture_is_drawn_with_gold_and_without(tmp_path, gold):
    rows = [row | ({"gold_after": 0.1} if gold else {}) for row in ROWS]
    compare.draw(rows, {"ppo": ([0.0, 4.0], [0.1, 1.0])}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=tiny", "seed=1"], (["model=tiny", "seed=1"], "outputs/compare")),
        (["model=tiny", "--out", "here"], (["model=tiny"], "here")),
    ],
)
def test_overrides_are_run_first(monkeypatch, arguments, expected):
    seen = []
    monkeypatch.setattr(compare, "train", lambda *given: seen.append(given))
    monkeypatch.setattr(compare, "compare", lambda *given: seen.append(given))
    compare.main(arguments)
    (overrides, out), (folders, again) = seen
    assert (overrides, str(out)) == expected
    assert folders == [out] == [again]


def test_folders_and_overrides_do_not_mix(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare.main([str(tmp_path), "seed=1"])
    assert "name folders, or overrides, not both" in capsys.readouterr().err
