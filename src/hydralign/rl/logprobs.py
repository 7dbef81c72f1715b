"""Log-probabilities and entropy of tokens under logits."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


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


def in_chunks(
    function: Callable[[Tensor, Tensor], Tensor], states: Tensor, ids: Tensor, size: int | None
) -> Tensor:
    """Apply a function to a few rows at a time, so that its logits never stand in memory at once.

    What it computes on the way is not kept for the backward pass but computed anew.

    Args:
        function: of states (m, d) and ids (m,); its result has m rows.
        states: (n, d) hidden states.
        ids: (n,) tokens.
        size: rows at a time; None takes all at once. One piece alone is not computed twice.

    Returns:
        (n, ...) what the function returns for all rows.
    """
    if size is None or len(states) <= size:
        return function(states, ids)
    pieces = zip(torch.split(states, size), torch.split(ids, size), strict=True)
    once_more = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([once_more(function, s, i) for s, i in pieces])
