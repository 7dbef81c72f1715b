"""What stages write for the report: rows of held-out data."""

import pytest
import torch

from hydralign.data.collate import collate_comparisons
from hydralign.data.examples import ComparisonExample, Pair
from hydralign.outcomes import EVALUATION, read_outcomes, try_to_write_outcomes, write_outcomes
from hydralign.stages.pairs import PairRows


def test_pairs_of_several_batches_are_told_apart_and_ties_left_out():
    first = ComparisonExample([1], [[5], [6, 7], [8]], [Pair(1, 0, 1.0, 2.0), Pair(0, 2, 0.5, 0.0)])
    second = ComparisonExample([1, 4], [[9, 9, 9], [3]], [Pair(0, 1, 1.0)])
    rows = PairRows("points")
    rows.add(
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]),
        collate_comparisons([first, second], [first, second], pad_id=0),
    )
    rows.add(torch.tensor([7.0, 6.0]), collate_comparisons([second], [second], pad_id=0))
    found = rows.outcomes(0.5)
    assert (found.unit, found.log_odds) == ("points", 0.5)
    assert found.scores == [1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 6.0]
    assert found.lengths == [1, 2, 1, 3, 1, 3, 1]
    assert (found.preferred, found.other) == ([1, 3, 5], [0, 4, 6])
    assert found.prompts == [0, 1, 1]  # the second comparison again: the same prompt
    assert found.gaps == [2.0, None, None]


def test_what_is_written_is_read_back(tmp_path, pairs, policy):
    for outcomes in (pairs, policy):
        write_outcomes(tmp_path, outcomes)
        found = read_outcomes(tmp_path)
        assert type(found) is type(outcomes)
    assert found.after == policy.after
    assert found.shown[0].prompt == "a <b>film</b>"
    assert [tuple(token) for token in found.shown[0].after] == policy.shown[0].after


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"preferred": []}', '{"before": 1}', "null"])
def test_a_damaged_file_is_told(tmp_path, text):
    (tmp_path / EVALUATION).write_text(text)
    with pytest.raises(ValueError, match=r".+"):
        read_outcomes(tmp_path)


def test_what_cannot_be_found_or_written_is_a_warning(tmp_path, pairs, caplog):
    def failing():
        raise ValueError("no such token")

    try_to_write_outcomes(tmp_path, failing)
    try_to_write_outcomes(tmp_path / "gone", lambda: pairs)
    assert caplog.text.count("evaluation.json could not be written") == 2
    assert "no such token" in caplog.text
    assert list(tmp_path.iterdir()) == []
    try_to_write_outcomes(tmp_path, lambda: pairs)
    assert read_outcomes(tmp_path) == pairs


def test_pieces_of_text_are_those_of_the_tokens(make_codec_of_letters):
    codec = make_codec_of_letters()
    # c a <eos>: ids 5 3 2
    assert codec.pieces([5, 3, 2]) == ["c", "a", "<eos>"]
    assert codec.pieces([]) == []
