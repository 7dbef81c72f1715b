from functools import partial

import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.rewards import normalise_scores, penalise_missing_stop, per_token_rewards

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-9, atol=1e-12)
NAN, INF = float("nan"), float("inf")


def test_rewards_are_minus_the_kl_and_the_score_on_the_last_token():
    kl = f64([[-1.0, -2.0, -3.0]]) - f64([[-1.5, -1.8, -3.2]])  # logprobs - ref_logprobs
    mask = torch.ones(1, 3, dtype=torch.bool)
    close(per_token_rewards(f64([2.0]), kl, mask, 0.1), f64([[-0.05, 0.02, 1.98]]))


def test_the_score_lands_on_each_rows_own_last_counted_token():
    kl = f64([[1.0, 2.0, NAN, INF, 5.0], [1.0, 1.0, 1.0, 1.0, 1.0], [-4.0, NAN, NAN, NAN, NAN]])
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    rewards = per_token_rewards(f64([10.0, 20.0, 30.0]), kl, mask, 0.5)
    expected = [[-0.5, 9.0, 0, 0, 0], [-0.5, -0.5, -0.5, -0.5, 19.5], [32.0, 0, 0, 0, 0]]
    close(rewards, f64(expected))


def test_tokens_skipped_inside_a_response_get_no_reward():
    mask = torch.tensor([[True, False, True, False]])
    rewards = per_token_rewards(f64([1.0]), f64([[1.0, NAN, 1.0, NAN]]), mask, 0.1)
    close(rewards, f64([[-0.1, 0.0, 0.9, 0.0]]))


def test_a_response_without_counted_tokens_gets_no_reward_at_all():
    mask = torch.tensor([[False, False, False], [True, True, False]])
    rewards = per_token_rewards(f64([5.0, 7.0]), torch.zeros(2, 3).double(), mask, 0.1)
    close(rewards, f64([[0.0, 0.0, 0.0], [0.0, 7.0, 0.0]]))  # index -1 must not wrap around


def test_the_rewards_of_a_row_sum_to_the_penalised_score():
    generator = torch.Generator().manual_seed(0)
    kl = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [1], [3]])
    rewards = per_token_rewards(f64([1.0, -2.0, 0.0]), kl, mask, 0.05)
    for row, score, length in zip(range(3), (1.0, -2.0, 0.0), (5, 1, 3), strict=True):
        total = score - 0.05 * sum(kl[row, :length].tolist())
        assert rewards[row].sum().item() == pytest.approx(total, rel=1e-9)


def test_missing_stop_subtracts_the_penalty_where_not_finished():
    finished = torch.tensor([True, False, False])
    scores = penalise_missing_stop(f64([1.0, 1.0, -2.5]), finished, 1.5)
    close(scores, f64([1.0, -0.5, -4.0]))


def test_normalise_scores_by_hand():
    # gain 1 / std, bias -mean / std: (5 - 1) / 2 = 5 * .5 - .5
    close(normalise_scores(f64([5.0, 1.0, -3.0]), mean=1.0, std=2.0), f64([2.0, 0.0, -2.0]))


def test_normalised_reference_scores_have_mean_zero_and_std_one():
    scores = 4 + 3 * torch.randn(257, generator=torch.Generator().manual_seed(0)).double()
    array = scores.numpy()
    normal = normalise_scores(scores, mean=float(array.mean()), std=float(array.std())).numpy()
    assert abs(normal.mean()) < 1e-6
    assert normal.std() == pytest.approx(1.0, rel=1e-6)
