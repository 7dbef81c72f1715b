"""scripts/closed_loop.py: the stand-in by hand, and its rankings through the page."""

import json

import pytest

from hydralign.data.label_database import read_rankings
from scripts.closed_loop import StandIn, page, rank, settle, table

TEXTS = (" awful and bad", " great and good", " the table", " great and good")


def test_without_noise_the_stand_in_ranks_by_sentiment_with_ties():
    assert StandIn(noise=0.0, seed=0).ranks("A film:", TEXTS) == [3, 0, 2, 0]


def test_with_noise_of_one_every_neighbour_is_swapped():
    """From the best: 1 and 3 (a tie), 2, 0, at the places 0, 0, 2, 3. The best goes to the end."""
    assert StandIn(noise=1.0, seed=0).ranks("A film:", TEXTS) == [2, 3, 0, 0]


def test_the_noise_is_as_frequent_as_was_asked_for():
    stand_in = StandIn(noise=0.15, seed=1)
    kept = sum(stand_in.ranks("", (" good", " bad")) == [0, 1] for _ in range(4000))
    assert kept / 4000 == pytest.approx(0.85, abs=0.02)  # 3.5 standard errors


def test_every_item_is_ranked_through_the_page_and_a_second_visit_finds_nothing_to_do(tmp_path):
    rows = [{"prompt": f"Film {n}:", "responses": list(TEXTS[:3])} for n in range(5)]
    samples, labels = tmp_path / "samples.jsonl", tmp_path / "labels.sqlite"
    samples.write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):
        with page(labels, samples) as address:
            assert rank(address, StandIn(noise=0.0, seed=0)) == 5
    found = [row.values for row in read_rankings(labels)]
    assert sorted(row["prompt"] for row in found) == [row["prompt"] for row in rows]
    for row in found:
        order = sorted(zip(row["ranks"], row["responses"], strict=True))
        assert [text for _, text in order] == [TEXTS[1], TEXTS[2], TEXTS[0]]


def test_the_table_leaves_out_what_there_is_not():
    found = {"rankings": 300, "ppo/gold_after": 0.51234, "ppo/win_rate": float("nan")}
    assert table(found).splitlines()[2:] == [
        "| rankings, of 4 responses each | 300 |",
        "| gold of the PPO policy | 0.512 |",
    ]


def test_a_loop_with_other_settings_is_left_alone(tmp_path):
    settle(tmp_path / "loop", {"seed": 0, "noise": 0.15})
    settle(tmp_path / "loop", {"seed": 0, "noise": 0.15})
    with pytest.raises(SystemExit, match="holds a loop with .*0.15.*--out"):
        settle(tmp_path / "loop", {"seed": 0, "noise": 0.0})
    assert json.loads((tmp_path / "loop/settings.json").read_text())["noise"] == 0.15


def test_the_page_ends_where_ranking_fails(tmp_path):
    rows = [{"prompt": "Film:", "responses": list(TEXTS[:2])}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(KeyError), page(tmp_path / "l.sqlite", tmp_path / "samples.jsonl"):
        raise KeyError("as a mistake in ranking would")
