from functools import partial

import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.masks import (
    last_token_index,
    masked_mean,
    masked_sum,
    masked_var,
    position_ids,
    response_mask_from_stops,
    whiten,
)

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-7, atol=1e-12)
NAN, INF = float("nan"), float("inf")
# three rows of five, with 2, 0 and 3 kept tokens; all that is not kept is garbage
MASK = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 1, 0]], dtype=torch.bool)
X = [[1.0, 3.0, NAN, INF, 9.0], [NAN, -INF, 5.0, 6.0, 7.0], [2.0, NAN, 4.0, 10.0, -INF]]


def test_position_ids_do_not_count_left_or_right_padding():
    attention_mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]).bool()
    expected = [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 1, 2, 2]]
    assert position_ids(attention_mask).tolist() == expected
    assert position_ids(attention_mask).dtype == torch.long


def test_response_mask_keeps_through_the_first_stop_token():
    # torchtune's vectors: [13, 30, 2] stops exactly at the length limit and IS finished
    ids = torch.tensor([[869, 30, 869], [13, 2, 20], [13, 2, 2], [13, 30, 2], [13, 30, 5]])
    mask, finished = response_mask_from_stops(ids, torch.tensor([2, 869]))
    assert mask.tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, False],
        [True, True, True],
        [True, True, True],
    ]
    assert finished.tolist() == [True, True, True, True, False]
    assert mask.dtype == finished.dtype == torch.bool


def test_response_mask_without_stop_ids_keeps_everything_unfinished():
    ids = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(0))
    mask, finished = response_mask_from_stops(ids, torch.empty(0, dtype=torch.long))
    assert mask.shape == (3, 5)
    assert mask.all()
    assert not finished.any()


def test_last_token_index_is_the_last_counted_token_even_after_a_gap():
    assert last_token_index(MASK).tolist() == [1, -1, 3]
    assert last_token_index(torch.ones(2, 5, dtype=torch.bool)).tolist() == [4, 4]


def test_masked_sum_and_mean_ignore_garbage_along_each_dim():
    x = f64(X)
    close(masked_sum(x, MASK), f64(20.0))  # 1 + 3 + 2 + 4 + 10
    close(masked_sum(x, MASK, dim=1), f64([4.0, 0.0, 16.0]))
    close(masked_sum(x, MASK, dim=0), f64([3.0, 3.0, 4.0, 10.0, 0.0]))
    close(masked_mean(x, MASK), f64(4.0))  # 20 / 5, not the mean of the row means
    close(masked_mean(x, MASK, dim=-1), f64([2.0, 0.0, 16 / 3]))
    close(masked_mean(x, MASK, dim=0), f64([1.5, 3.0, 4.0, 10.0, 0.0]))


def test_masked_mean_of_nothing_is_zero():
    close(masked_mean(f64([NAN, INF]), torch.tensor([False, False])), f64(0.0))


def test_masked_var_is_biased_and_ignores_garbage():
    # kept 1, 3, 2, 4, 10: mean 4, squares 9 + 1 + 4 + 0 + 36 = 50, over 5
    close(masked_var(f64(X), MASK), f64(10.0))
    close(masked_var(f64([7.0, NAN]), torch.tensor([True, False])), f64(0.0))


@pytest.mark.parametrize("reduce", [masked_sum, masked_mean, masked_var])
def test_masked_reductions_send_no_gradient_to_garbage(reduce):
    x = f64(X).requires_grad_()
    reduce(x, MASK).backward()
    kept = f64([1.0, 3.0, 2.0, 4.0, 10.0])
    # d sum = 1; d mean = 1/5; d var = 2 (x - mean) / 5
    by_hand = {masked_sum: kept * 0 + 1, masked_mean: kept * 0 + 0.2, masked_var: (kept - 4) * 0.4}
    close(x.grad[MASK], by_hand[reduce])
    assert (x.grad[~MASK] == 0).all()


ALL = torch.ones(4, dtype=torch.bool)


def test_whiten_uses_the_biased_variance():
    x = f64([1.0, 2.0, 3.0, 4.0])
    expected = f64([-1.34164078, -0.44721359, 0.44721359, 1.34164078])
    assert_close(whiten(x, ALL), expected, rtol=1e-7, atol=1e-8)
    mean_kept = f64([1.15835922, 2.05278641, 2.94721359, 3.84164078])
    assert_close(whiten(x, ALL, shift_mean=False), mean_kept, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("garbage", [100.0, NAN, INF])
def test_whiten_ignores_the_masked_token_and_writes_zero_there(garbage):
    mask = torch.tensor([True, True, True, False])
    x = f64([1.0, 2.0, 3.0, garbage])
    expected = f64([-1.22474486, 0.0, 1.22474486, 0.0])
    assert_close(whiten(x, mask), expected, rtol=1e-7, atol=1e-8)
    # mean 2 put back on the kept tokens only
    expected = f64([0.77525514, 2.0, 3.22474486, 0.0])
    assert_close(whiten(x, mask, shift_mean=False), expected, rtol=1e-7, atol=1e-8)


def test_whiten_adds_eps_inside_the_square_root():
    # variance 1.25 + eps .75 = 2
    half, three_halves = 0.5 / 2**0.5, 1.5 / 2**0.5
    expected = f64([-three_halves, -half, half, three_halves])
    close(whiten(f64([1.0, 2.0, 3.0, 4.0]), ALL, eps=0.75), expected)


def test_whiten_is_over_the_whole_batch_not_per_row():
    x, mask = f64([[1.0, 2.0], [3.0, NAN]]), torch.tensor([[True, True], [True, False]])
    expected = f64([[-1.22474486, 0.0], [1.22474486, 0.0]])
    assert_close(whiten(x, mask), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_whiten_without_variance_is_finite_zero(kept):
    mask = torch.arange(4) < kept
    assert whiten(f64([3.0, 3.0, 3.0, 3.0]), mask).tolist() == [0.0, 0.0, 0.0, 0.0]
