"""KL divergence of policy against reference: estimates, the exact value, and its control.

Estimators k1, k2, k3: J. Schulman, "Approximating KL divergence" (2020).
"""

import math

from torch import Tensor

from hydralign.rl.logprobs import upcast


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy || reference) by the log-ratio: unbiased, of either sign.

    Enters the reward. As a loss it does nothing: its expected gradient is 0.

    Args:
        logprobs: (b, r) of tokens that the policy sampled.
        ref_logprobs: (b, r) of the same tokens under the reference.

    Returns:
        (b, r) in nats.
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy || reference) by half the squared log-ratio: biased, never negative.

    As a loss its expected gradient is that of KL(policy || reference).

    Args:
        logprobs: (b, r) of tokens that the policy sampled.
        ref_logprobs: (b, r) of the same tokens under the reference.

    Returns:
        (b, r) in nats.
    """
    return 0.5 * (logprobs - ref_logprobs).square()


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy || reference) without bias and never negative.

    As a loss its expected gradient is that of KL(reference || policy), another penalty.

    Args:
        logprobs: (b, r) of tokens that the policy sampled.
        ref_logprobs: (b, r) of the same tokens under the reference.

    Returns:
        (b, r) in nats.
    """
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(policy || reference) over the whole vocabulary.

    Args:
        logits: (..., v) such as (n, v), of the policy.
        ref_logits: (..., v) of the reference.

    Returns:
        (...) in nats.
    """
    logprobs, ref_logprobs = upcast(logits).log_softmax(-1), upcast(ref_logits).log_softmax(-1)
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


def adaptive_kl_coef(
    kl_coef: float, kl_per_sequence: float, *, target: float, horizon: float, episodes: int
) -> float:
    """Move the KL coefficient so that the KL of a whole response approaches its target.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2: the relative error is clipped to +-0.2.

    Args:
        kl_coef: scalar, the coefficient until now.
        kl_per_sequence: scalar, mean over responses of the KL summed over tokens, in nats.
        target: the KL wanted, in nats per sequence.
        horizon: episodes over which a full error changes the coefficient by a fifth.
        episodes: responses that `kl_per_sequence` was measured on.

    Returns:
        scalar, the coefficient for the next rollout.
    """
    error = min(max(kl_per_sequence / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def best_of_n_kl(n: int) -> float:
    """KL of picking the best of n: scalar, ln n - (n - 1) / n nats (Stiennon et al. 2020)."""
    return math.log(n) - (n - 1) / n
