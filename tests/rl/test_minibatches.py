import contextlib

import pytest
import torch

from hydralign.rl.minibatches import iterate_minibatches, split_micro_batches


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_minibatches_visit_every_row_once_in_a_shuffled_order():
    batches = list(iterate_minibatches(12, 4, seeded()))
    assert [batch.shape for batch in batches] == [(4,)] * 3
    rows = torch.cat(batches).tolist()
    assert sorted(rows) == list(range(12))
    assert rows != list(range(12))
    assert all(batch.dtype == torch.long for batch in batches)


def test_each_epoch_is_a_fresh_permutation():
    generator = seeded()
    first, second = (torch.cat(list(iterate_minibatches(12, 4, generator))) for _ in range(2))
    assert first.tolist() != second.tolist()


def test_the_order_depends_on_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = torch.cat(list(iterate_minibatches(12, 3, seeded(7))))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = torch.cat(list(iterate_minibatches(12, 3, seeded(7))))
    other = torch.cat(list(iterate_minibatches(12, 3, seeded(8))))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_every_permutation_is_about_equally_likely():
    generator, counts = seeded(), {}
    for _ in range(600):
        order = tuple(torch.cat(list(iterate_minibatches(3, 1, generator))).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 60  # expected 100, standard deviation 9


def test_no_minibatch_is_ever_smaller_than_asked():
    batches = []
    with contextlib.suppress(ValueError):  # refusing 10 rows in fours is right too
        batches.extend(iterate_minibatches(10, 4, seeded()))
    assert all(len(batch) == 4 for batch in batches)
    assert len(set(torch.cat([torch.empty(0), *batches]).tolist())) == 4 * len(batches)


def test_the_whole_rollout_may_be_one_minibatch():
    (batch,) = iterate_minibatches(5, 5, seeded())
    assert sorted(batch.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (2, [[9, 3], [5, 7], [1]]),
        (1, [[9], [3], [5], [7], [1]]),
        (5, [[9, 3, 5, 7, 1]]),
        (8, [[9, 3, 5, 7, 1]]),
    ],
)
def test_micro_batches_keep_the_order_and_only_the_last_is_short(size, expected):
    parts = split_micro_batches(torch.tensor([9, 3, 5, 7, 1]), size)
    assert isinstance(parts, tuple)
    assert [part.tolist() for part in parts] == expected
