import dataclasses

import pytest
import torch

from hydralign.rl.sequences import Sequences, pad_sequences

PROMPTS = [[5], [6, 7, 8], [0, 9]]
RESPONSES = [[1, 0, 2], [0], [3, 4, 5, 6, 0]]  # the pad id 0 is also an ordinary token of the text


@pytest.fixture
def sequences() -> Sequences:
    return pad_sequences(PROMPTS, RESPONSES, pad_id=0)


def test_pad_sequences_pads_prompts_left_and_responses_right(sequences):
    assert sequences.sequence_ids.tolist() == [
        [0, 0, 5, 1, 0, 2, 0, 0],
        [6, 7, 8, 0, 0, 0, 0, 0],
        [0, 0, 9, 3, 4, 5, 6, 0],
    ]
    assert sequences.sequence_ids.dtype == torch.long


def test_pad_sequences_uses_the_pad_id_given():
    padded = pad_sequences(PROMPTS, RESPONSES, pad_id=99).sequence_ids
    assert padded.tolist() == [
        [99, 99, 5, 1, 0, 2, 99, 99],
        [6, 7, 8, 0, 99, 99, 99, 99],
        [99, 0, 9, 3, 4, 5, 6, 0],
    ]


def test_masks_come_from_lengths_so_the_pad_id_may_be_a_token(sequences):
    assert sequences.attention_mask.int().tolist() == [
        [0, 0, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 1, 1, 1],
    ]
    expected = [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert sequences.response_mask.int().tolist() == expected
    assert sequences.attention_mask.dtype == sequences.response_mask.dtype == torch.bool


def test_no_token_is_lost_or_added(sequences):
    pairs = zip(sequences.sequence_ids, sequences.attention_mask, strict=True)
    kept = [ids[mask].tolist() for ids, mask in pairs]
    assert kept == [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]


def test_views_of_the_response(sequences):
    assert sequences.prompt_length == 3
    expected = [[1, 0, 2, 0, 0], [0, 0, 0, 0, 0], [3, 4, 5, 6, 0]]
    assert sequences.response_ids.tolist() == expected
    assert sequences.last_token_index.tolist() == [2, 0, 4]
    assert len(sequences) == 3


def test_positions_start_at_the_first_real_token(sequences):
    assert sequences.position_ids.tolist() == [
        [0, 0, 0, 1, 2, 3, 3, 3],
        [0, 1, 2, 3, 3, 3, 3, 3],
        [0, 0, 1, 2, 3, 4, 5, 6],
    ]


def test_an_empty_response_counts_no_token():
    sequences = pad_sequences([[1, 2], [3]], [[], [4, 5]], pad_id=0)
    assert sequences.response_mask.tolist() == [[False, False], [True, True]]
    assert sequences.last_token_index.tolist() == [-1, 1]


def test_select_takes_rows_of_every_field_in_the_order_asked(sequences):
    some = sequences.select(torch.tensor([2, 0]))
    assert len(some) == 2
    assert some.prompt_length == 3
    assert some.sequence_ids.tolist() == [[0, 0, 9, 3, 4, 5, 6, 0], [0, 0, 5, 1, 0, 2, 0, 0]]
    expected = [[0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]]
    assert some.attention_mask.int().tolist() == expected
    assert some.response_mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_to_moves_every_field(sequences):
    moved = sequences.to(torch.device("meta"))
    assert {f.name for f in dataclasses.fields(moved)} == {
        "sequence_ids",
        "attention_mask",
        "response_mask",
    }
    assert all(getattr(moved, f.name).is_meta for f in dataclasses.fields(moved))
    assert not sequences.sequence_ids.is_meta


def test_sequences_are_frozen(sequences):
    with pytest.raises(dataclasses.FrozenInstanceError):
        sequences.sequence_ids = torch.zeros(3, 8)
