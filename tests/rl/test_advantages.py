from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from hydralign.rl.advantages import gae

f64 = partial(torch.tensor, dtype=torch.float64)
close = partial(assert_close, rtol=1e-9, atol=1e-12)
NAN, INF = float("nan"), float("inf")
REWARDS, VALUES = f64([[0.0, 0.0, 0.0, 1.0]]), f64([[0.5, 0.4, 0.3, 0.2]])
ONES = torch.ones(1, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("gamma", "gae_lambda", "expected"),
    [
        (1.0, 0.95, [0.40065, 0.527, 0.66, 0.8]),
        (0.9, 0.8, [0.0027904, 0.19832, 0.456, 0.8]),
        (1.0, 1.0, [0.5, 0.6, 0.7, 0.8]),
        (1.0, 0.0, [-0.1, -0.1, -0.1, 0.8]),
    ],
)
def test_advantages_of_four_tokens(gamma, gae_lambda, expected):
    result = gae(REWARDS, VALUES, ONES, gamma=gamma, gae_lambda=gae_lambda)
    close(result.advantages, f64([expected]))
    close(result.returns, f64([expected]) + VALUES)


def test_returns_are_advantages_plus_values():
    result = gae(REWARDS, VALUES, ONES, gamma=1.0, gae_lambda=0.95)
    close(result.returns, f64([[0.90065, 0.927, 0.96, 1.0]]))


@pytest.mark.parametrize(("reward", "value"), [(9.0, 7.0), (0.0, 0.0), (NAN, NAN), (INF, -INF)])
def test_padding_after_the_last_token_changes_nothing(reward, value):
    rewards, values = f64([[-0.05, 0.02, 1.98, reward]]), f64([[0.5, 0.4, 0.3, value]])
    mask = torch.tensor([[True, True, True, False]])
    result = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    close(result.advantages, f64([[1.2902, 1.516, 1.68, 0.0]]))
    close(result.returns, f64([[1.7902, 1.916, 1.98, 0.0]]))


def test_tokens_skipped_inside_a_response_carry_value_and_advantage():
    # tool tokens at 0, 2 and 4: what is left is the four tokens of the first test
    rewards = f64([[NAN, 0.0, INF, 0.0, 3.0, 0.0, 1.0, NAN]])
    values = f64([[8.0, 0.5, NAN, 0.4, -INF, 0.3, 0.2, 9.0]])
    mask = torch.tensor([[0, 1, 0, 1, 0, 1, 1, 0]]).bool()
    result = gae(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    close(result.advantages[mask], f64([0.0027904, 0.19832, 0.456, 0.8]))
    close(result.returns[mask], f64([0.5027904, 0.59832, 0.756, 1.0]))
    assert (result.advantages[~mask] == 0).all()
    assert (result.returns[~mask] == 0).all()


def discounted_sum_of_td_errors(rewards, values, gamma, gae_lambda):
    """The definition, equation 16 of 1506.02438, as one matrix product: no recursion."""
    td_errors = rewards + gamma * np.append(values[1:], 0.0) - values
    steps = np.arange(len(rewards))
    lag = steps[None, :] - steps[:, None]
    return np.where(lag >= 0, (gamma * gae_lambda) ** np.clip(lag, 0, None), 0.0) @ td_errors


@pytest.mark.parametrize(
    ("gamma", "gae_lambda"), [(1.0, 0.95), (0.97, 0.9), (1.0, 1.0), (0.0, 0.5)]
)
def test_random_batch_of_uneven_gappy_responses_agrees_with_the_definition(gamma, gae_lambda):
    generator = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]]).bool()
    garbage = torch.where(mask, 0.0, NAN).double()
    result = gae(rewards + garbage, values + garbage, mask, gamma=gamma, gae_lambda=gae_lambda)
    for row in range(3):
        kept = mask[row].numpy()
        r, v = rewards[row].numpy()[kept], values[row].numpy()[kept]
        expected = torch.from_numpy(discounted_sum_of_td_errors(r, v, gamma, gae_lambda))
        close(result.advantages[row, mask[row]], expected)
        close(result.returns[row, mask[row]], expected + torch.from_numpy(v))


def test_lambda_one_gives_the_score_to_go_minus_the_value():
    rewards, values = f64([[0.1, -0.2, 0.3, 2.0, NAN]]), f64([[9.0, 8.0, 7.0, 6.0, NAN]])
    mask = torch.tensor([[1, 1, 1, 1, 0]]).bool()
    returns = gae(rewards, values, mask, gamma=1.0, gae_lambda=1.0).returns
    close(returns, f64([[2.2, 2.1, 2.3, 2.0, 0.0]]))  # the values cancel


def test_a_row_without_counted_tokens_is_zero_and_disturbs_no_other():
    rewards, values = REWARDS.repeat(2, 1), VALUES.repeat(2, 1)
    mask = torch.cat([~ONES, ONES])
    result = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
    close(result.advantages, f64([[0.0] * 4, [0.40065, 0.527, 0.66, 0.8]]))
    close(result.returns, f64([[0.0] * 4, [0.90065, 0.927, 0.96, 1.0]]))
