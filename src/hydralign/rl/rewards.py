"""From a score per response to a reward per token."""

import torch
from torch import Tensor

from hydralign.rl.masks import last_token_index


def normalise_scores(scores: Tensor, *, mean: float, std: float) -> Tensor:
    """Shift and scale (b,) raw scores so that the samples measured have mean 0 and std 1."""
    return (scores - mean) / std


def penalise_missing_stop(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """Subtract a penalty from the scores of responses that never stopped.

    Args:
        scores: (b,).
        finished: (b,) bool, True where a stop token occurred.
        penalty: in units of the score, not negative.

    Returns:
        (b,).
    """
    return torch.where(finished, scores, scores - penalty)


def per_token_rewards(scores: Tensor, kl: Tensor, response_mask: Tensor, kl_coef: float) -> Tensor:
    """Charge every counted token its KL, and pay the score on the last counted token.

    Ziegler et al. 2019 (arXiv 1909.08593), equation 2. The score stands on the stop token itself,
    or on the last token where the length limit ended the response.

    Args:
        scores: (b,) of whole responses.
        kl: (b, r) per-token estimate, policy against reference.
        response_mask: (b, r) bool.
        kl_coef: weight of the KL.

    Returns:
        (b, r), 0 outside the mask.
    """
    rewards = torch.where(response_mask, -kl_coef * kl, torch.zeros_like(kl))
    is_last = (
        torch.arange(kl.shape[-1], device=kl.device) == last_token_index(response_mask)[:, None]
    )
    return torch.where(is_last, rewards + scores[:, None].to(rewards.dtype), rewards)
