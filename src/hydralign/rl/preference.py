"""Losses on preferences: which of two or more responses is better."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_loss(
    score_first: Tensor,
    score_second: Tensor,
    *,
    target: Tensor | float = 1.0,
    margin: Tensor | float = 0.0,
) -> Tensor:
    """Bradley-Terry loss: -log sigmoid of the score difference.

    Ouyang et al. 2022 (arXiv 2203.02155), equation 1.

    Args:
        score_first: (pairs,) scores of the responses named first.
        score_second: (pairs,) scores of the others.
        target: probability that the first is preferred: 1, or 0.5 for a tie.
        margin: by how much the first should at least win.

    Returns:
        (pairs,).
    """
    difference = score_first - score_second - margin
    return target * F.softplus(-difference) + (1 - target) * F.softplus(difference)


def centering_penalty(score_first: Tensor, score_second: Tensor) -> Tensor:
    """Squared sum of both scores, (pairs,): holds the free constant at 0 (arXiv 2312.09244)."""
    return (score_first + score_second).square()


def pairwise_accuracy(score_first: Tensor, score_second: Tensor, target: Tensor) -> Tensor:
    """1 where the preferred response scores higher, one half on equal scores.

    Args:
        score_first: (pairs,).
        score_second: (pairs,).
        target: (pairs,) 1 where the first is preferred, 0 where the second is.

    Returns:
        (pairs,).
    """
    won = (torch.sign(score_first - score_second) + 1) / 2
    return target * won + (1 - target) * (1 - won)


def best_of_k_loss(scores: Tensor, best: Tensor | int) -> Tensor:
    """Scalar cross-entropy of picking the best of k: scores (k,), index of the best."""
    return -scores.log_softmax(-1)[..., best]


def plackett_luce_loss(scores: Tensor) -> Tensor:
    """Scalar negative log-likelihood of a ranking, scores (k,) given best first."""
    remaining = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (remaining - scores).sum(-1)


def dpo_margin(
    chosen_logprobs: Tensor, rejected_logprobs: Tensor, ref_chosen: Tensor, ref_rejected: Tensor
) -> Tensor:
    """How much more than the reference the policy prefers the chosen response.

    Args:
        chosen_logprobs: (pairs,) summed over the response, under the policy.
        rejected_logprobs: (pairs,) likewise.
        ref_chosen: (pairs,) under the reference.
        ref_rejected: (pairs,) likewise.

    Returns:
        (pairs,) in nats.
    """
    return (chosen_logprobs - ref_chosen) - (rejected_logprobs - ref_rejected)


def dpo_loss(
    margin: Tensor, *, beta: float, kind: str = "sigmoid", label_smoothing: float = 0.0
) -> Tensor:
    """Direct preference optimisation, Rafailov et al. 2023 (arXiv 2305.18290), and its relatives.

    Args:
        margin: (pairs,) from `dpo_margin`.
        beta: temperature of the implicit reward; for "ipo" the regularisation tau.
        kind: "sigmoid", "ipo" (arXiv 2310.12036), "hinge" (arXiv 2305.10425) or
            "robust" (arXiv 2403.00409).
        label_smoothing: share of labels taken to be wrong; used by "sigmoid" and "robust".

    Returns:
        (pairs,).

    Raises:
        KeyError: if the kind is unknown.
    """
    right, wrong = F.softplus(-beta * margin), F.softplus(beta * margin)
    losses = {
        "sigmoid": (1 - label_smoothing) * right + label_smoothing * wrong,
        "robust": ((1 - label_smoothing) * right - label_smoothing * wrong)
        / (1 - 2 * label_smoothing),
        "ipo": (margin - 1 / (2 * beta)).square(),
        "hinge": F.relu(1 - beta * margin),
    }
    return losses[kind]
