"""Rows packed one behind the other, and spread into rows again."""

import random
from itertools import combinations, pairwise

import pytest
import torch

from hydralign.rl import packing
from hydralign.rl.packing import pack_rows
from hydralign.rl.sequences import pad_sequences


def packed(lengths, group_cost, monkeypatch):
    """Rows of some (prompt, response) lengths whose tokens say where they stand: row * 100 + place.

    Returns:
        the ids (b, t), and how they are packed.
    """
    monkeypatch.setitem(packing.GROUP_COST, "cpu", group_cost)
    rows = [list(range(100 * row, 100 * row + p + r)) for row, (p, r) in enumerate(lengths)]
    cut = [(row[:p], row[p:]) for row, (p, _) in zip(rows, lengths, strict=True)]
    batch = pad_sequences([p for p, _ in cut], [r for _, r in cut], pad_id=-1)
    return batch.sequence_ids, batch.packed


LENGTHS = [(2, 4), (1, 1), (3, 2), (1, 2)]
SHORT_FIRST = [100, 101, 300, 301, 302, *range(200, 205), *range(6)]


def test_shorter_rows_come_first_and_no_padding_is_left(monkeypatch):
    ids, rows = packed(LENGTHS, 10**6, monkeypatch)
    assert ids.flatten()[rows.tokens].tolist() == SHORT_FIRST
    assert rows.position_ids.tolist() == [place % 100 for place in SHORT_FIRST]
    assert rows.width == 6


def test_rows_are_spread_and_packed_again(monkeypatch):
    # By hand: 4 rows of 6 have 144 pairs; 2 of 3 and 2 of 6 have 18 + 72.
    ids, rows = packed(LENGTHS, 50, monkeypatch)
    assert [group.shape for group in rows.groups] == [(2, 3), (2, 6)]
    tokens = ids.flatten()[rows.tokens]
    short, long = rows.spread(tokens)
    assert short.tolist() == [[100, 101, 0], [300, 301, 302]]
    assert long.tolist() == [[200, 201, 202, 203, 204, 0], [0, 1, 2, 3, 4, 5]]
    assert torch.equal(rows.pack([short, long]), tokens)


def test_a_group_costs_as_many_pairs_as_it_says(monkeypatch):
    # 144 pairs together, 90 in two groups: one group more is worth 54.
    for cost, groups in ((53, 2), (55, 1)):
        assert len(packed(LENGTHS, cost, monkeypatch)[1].groups) == groups
    _, rows = packed([(2, 3)] * 40, 1, monkeypatch)
    assert [group.shape for group in rows.groups] == [(40, 5)]


@pytest.mark.parametrize("group_cost", [50, 10**6])
def test_gradients_go_where_values_came_from(group_cost, monkeypatch):
    _, rows = packed(LENGTHS, group_cost, monkeypatch)
    x = torch.randn(16, 2, 3, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(s.shape, dtype=torch.float64) for s in rows.spread(x)]

    def there_and_back(x):
        return rows.pack([s * w for s, w in zip(rows.spread(x), weights, strict=True)])

    assert torch.autograd.gradcheck(there_and_back, x)


def test_what_stands_in_padding_is_dropped(monkeypatch):
    _, rows = packed(LENGTHS, 10**6, monkeypatch)
    (spread,) = rows.spread(torch.ones(16))
    garbage = torch.where(spread == 1, 1.0, torch.nan).requires_grad_()
    rows.pack([garbage]).sum().backward()
    assert rows.pack([garbage]).sum() == 16
    assert torch.equal(garbage.grad, spread)


@pytest.mark.parametrize("group_cost", [0, 70, 500])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_way_to_cut_is_cheaper(seed, group_cost, monkeypatch):
    draw = random.Random(seed)
    lengths = [(draw.randint(1, 6), draw.randint(1, 20)) for _ in range(9)]
    _, rows = packed(lengths, group_cost, monkeypatch)
    found = [m * w**2 + group_cost for m, w in (group.shape for group in rows.groups)]
    order = sorted(map(sum, lengths))

    def cost(some):
        return len(some) * max(some) ** 2 + group_cost

    ways = [
        [order[a:b] for a, b in pairwise([0, *cuts, 9])]
        for n in range(9)
        for cuts in combinations(range(1, 9), n)
    ]
    assert sum(found) == min(sum(map(cost, way)) for way in ways)


def test_a_prompt_may_be_padded_in_front_and_a_response_behind():
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]).bool()
    rows = pack_rows(mask)
    assert rows.tokens.tolist() == [12, 1, 2, 3, 5, 6, 7, 8, 9]
    assert rows.position_ids.tolist() == [0, 0, 1, 2, 0, 1, 2, 3, 4]
