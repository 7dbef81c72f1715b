import pytest
import torch
from torch.testing import assert_close

from hydralign.stages.bootstrap import bootstrap_interval


def tensors(*groups):
    return [torch.tensor(group, dtype=torch.float32) for group in groups]


def test_equal_values_leave_no_doubt():
    assert bootstrap_interval(tensors([0.25, 0.25], [0.25], [0.25] * 5), seed=0) == (0.25, 0.25)


def test_one_group_can_only_be_drawn_again():
    low, high = bootstrap_interval(tensors([0.0, 1.0, 1.0]), seed=0)
    assert_close((low, high), (2 / 3, 2 / 3), rtol=1e-12, atol=0)


def test_equal_groups_leave_no_doubt_however_much_varies_within():
    # Were single values drawn instead of groups, the mean would vary by .1 and more.
    assert bootstrap_interval(tensors(*[[0.0, 1.0]] * 12), seed=0) == (0.5, 0.5)


def test_means_are_over_values_not_over_groups():
    # Of two groups, a quarter of the draws are twice the first, half are both: 3 / 4, not 1 / 2.
    low, high = bootstrap_interval(tensors([1.0, 1.0, 1.0], [0.0]), seed=0, level=0.4)
    assert (low, high) == (0.75, 0.75)
    assert bootstrap_interval(tensors([1.0, 1.0, 1.0], [0.0]), seed=0, level=0.9) == (0.0, 1.0)


def test_ends_are_the_quantiles_of_a_known_distribution():
    """The mean of 100 draws from half zeros, half ones is binomial: .5 with deviation .05."""
    groups = tensors(*[[0.0]] * 50, *[[1.0]] * 50)
    low, high = bootstrap_interval(groups, seed=0, resamples=20000)
    # Binomial(100, .5): the 2.5 % quantile is 40, the 97.5 % quantile 60.
    assert_close((low, high), (0.40, 0.60), rtol=0, atol=0.0101)
    low, high = bootstrap_interval(groups, seed=0, resamples=20000, level=0.5)
    assert_close((low, high), (0.47, 0.53), rtol=0, atol=0.0101)


def test_kin_values_widen_the_interval():
    values = [float(i % 2) for i in range(40)]
    single = bootstrap_interval(tensors(*[[value] for value in values]), seed=0)
    kin = bootstrap_interval(tensors(*[[value] * 4 for value in values[:10]]), seed=0)
    # A quarter as many independent groups: twice the width.
    assert_close(kin[1] - kin[0], 2 * (single[1] - single[0]), rtol=0, atol=0.06)


def test_seeds_decide_the_draws():
    groups = tensors(*[[0.1 * i**2] for i in range(9)])
    first, again, other = (bootstrap_interval(groups, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    state = torch.get_rng_state()
    bootstrap_interval(groups, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("level", "least", "most"), [(0.95, 0.90, 0.98), (0.8, 0.72, 0.85)])
def test_it_covers_the_truth_about_as_often_as_it_says(level, least, most):
    """Prompts whose pairs share a bias: the truth is 0, in 300 repeated samples of 30 prompts."""
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(300):
        bias = torch.randn(30, generator=generator)
        groups = [b + torch.randn(1 + i % 5, generator=generator) for i, b in enumerate(bias)]
        low, high = bootstrap_interval(groups, seed=seed, resamples=300, level=level)
        hits += low <= 0 <= high
    assert least <= hits / 300 <= most
