"""Log-probabilities and entropy of tokens under logits."""

import torch
from torch import Tensor


def upcast(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return logits (..., v) in fp32 or better, divided by the temperature.

    A log-softmax in bf16 is off by 0.02 nats a token; of bf16 logits upcast first, by 0.005.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide if temperature == 1.0 else wide / temperature


def token_logprobs(logits: Tensor, ids: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each id, computed in fp32 or better.

    Args:
        logits: (..., v) such as (n, v), of any float type.
        ids: (...) the tokens to look up.
        temperature: what sampling divided the logits by.

    Returns:
        (...) log-probabilities in nats.
    """
    logits = upcast(logits, temperature)
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)


def token_entropy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Entropy of the distribution that the logits give at that temperature.

    Args:
        logits: (..., v) such as (n, v).
        temperature: what sampling divides the logits by.

    Returns:
        (...) entropies in nats.
    """
    logprobs = upcast(logits, temperature).log_softmax(dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)
