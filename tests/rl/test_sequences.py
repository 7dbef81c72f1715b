import dataclasses
import random
from itertools import combinations, pairwise

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


def grouped(lengths, pass_cost):
    """Rows and columns of each group of some (prompt, response) lengths."""
    ids = [([1] * p, [2] * r) for p, r in lengths]
    batch = pad_sequences([p for p, _ in ids], [r for _, r in ids], pad_id=0)
    groups = batch.length_groups(pass_cost)
    return [(rows.tolist(), columns.tolist()) for rows, columns in groups]


def test_rows_are_parted_where_that_saves_more_padding_than_a_pass_costs():
    # By hand: together 4 rows x 11 = 44; in two groups 2 x 4 + 2 x 11 = 30.
    lengths = [(2, 9), (3, 1), (1, 8), (1, 2)]
    short = [[2, 3, 4, 5], [0, 1, 2, 3]]  # prompts end at column 3 of 12
    long = [[*range(2, 12), 0], list(range(1, 12))]  # a row that ends early: the padding in front
    assert grouped(lengths, 13) == [([3, 1], short), ([2, 0], long)]
    ((rows, columns),) = grouped(lengths, 15)
    assert rows == [3, 1, 2, 0]
    assert columns == [
        [*range(2, 12), 0],
        list(range(11)),
        [*range(2, 12), 0],
        list(range(1, 12)),
    ]
    assert grouped([(2, 3)] * 40, 1) == [(list(range(40)), [list(range(5))] * 40)]


@pytest.mark.parametrize("pass_cost", [0, 7, 30])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_way_to_cut_is_cheaper(seed, pass_cost):
    draw = random.Random(seed)
    lengths = [(draw.randint(1, 6), draw.randint(1, 20)) for _ in range(9)]
    found = grouped(lengths, pass_cost)
    order = [row for rows, _ in found for row in rows]
    assert sorted(order) == list(range(9))
    assert [sum(lengths[row]) for row in order] == sorted(map(sum, lengths))

    def cost(rows):
        return len(rows) * max(sum(lengths[row]) for row in rows) + pass_cost

    ways = [
        [order[a:b] for a, b in pairwise([0, *cuts, 9])]
        for n in range(9)
        for cuts in combinations(range(1, 9), n)
    ]
    assert sum(cost(rows) for rows, _ in found) == min(sum(map(cost, way)) for way in ways)
