"""Advantages and returns from rewards and values."""

from typing import NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """What each token was worth, beyond expectation and in all."""

    advantages: Tensor
    """(b, r) 0 outside the mask."""
    returns: Tensor
    """(b, r) advantages + values: the value model's target; 0 outside the mask."""


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, *, gamma: float, gae_lambda: float
) -> Advantages:
    """Generalised advantage estimation, Schulman et al. 2015 (arXiv 1506.02438), equation 16.

    The value after the last counted token is 0. Tokens outside the mask are stepped over.

    Args:
        rewards: (b, r).
        values: (b, r), the value before each token.
        response_mask: (b, r) bool.
        gamma: discount per token.
        gae_lambda: smoothing; 1 gives the plain return minus the value.

    Returns:
        advantages and returns, each (b, r).
    """
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        counts = response_mask[:, t]
        # delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lambda A_{t+1}
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        advantages[:, t] = torch.where(counts, advantage, torch.zeros_like(advantage))
        next_advantage = torch.where(counts, advantage, next_advantage)
        next_value = torch.where(counts, values[:, t], next_value)
    returns = torch.where(response_mask, advantages + values, torch.zeros_like(values))
    return Advantages(advantages, returns)
