"""Log-probabilities and entropy of tokens under logits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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
    apply: Any = _TokenLogprobs.apply
    result: Tensor = apply(logits, ids, temperature)
    return result


class _TokenLogprobs(torch.autograd.Function):
    """Its gradient by the logits is one-hot minus probabilities, made of these in their place.

    That of a gather and a log-softmax is first a matrix of zeros, then another matrix.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        probs = upcast(logits, temperature).softmax(dim=-1)
        ctx.save_for_backward(probs, ids)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        own = upcast(logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1), temperature)
        # From the likeliest token's on: a small probability itself has underflowed.
        return own - upcast(logits.amax(-1), temperature) + probs.amax(-1).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        probs, ids = ctx.saved_tensors
        scale = (upstream[0] / ctx.temperature).unsqueeze(-1)
        # A second backward pass would find its probabilities gone, and torch raises there.
        of_logits = probs.mul_(-scale).scatter_add_(-1, ids.unsqueeze(-1), scale)
        return of_logits.to(ctx.dtype), None, None


def token_logprobs_and_entropy(
    logits: Tensor, ids: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each id, and entropy of the distribution that it is drawn from.

    Args:
        logits: (..., v) such as (n, v), of any float type.
        ids: (...) the tokens to look up.
        temperature: what sampling divided the logits by.

    Returns:
        (...) log-probabilities as `token_logprobs` gives them, and (...) entropies, in nats.
    """
    wide = upcast(logits, temperature)
    probs = wide.softmax(dim=-1)
    ahead = wide - wide.amax(-1, keepdim=True)
    likeliest = probs.amax(-1).log()
    own = ahead.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return own + likeliest, -((probs * ahead).sum(-1) + likeliest)


OfTokens = Callable[[Tensor, Tensor], Tensor]
"""Makes something of hidden states (m, d) and the m tokens that follow; its result has m rows."""


def in_chunks(function: OfTokens, states: Tensor, ids: Tensor, size: int | None) -> Tensor:
    """Apply a function to a few rows at a time, so that its logits never stand in memory at once.

    What it computes on the way is not kept for the backward pass but computed anew.

    Args:
        function: what to apply.
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


def with_row_gradients(function: OfTokens, states: Tensor, ids: Tensor, size: int | None) -> Tensor:
    """Apply a function as `in_chunks` does, but compute nothing twice.

    A token's log-prob depends on one state alone. So its gradient by that state, a row, is made at
    once while the logits are there, and the backward pass only scales it.

    Args:
        function: what to apply. No row of its result (m,) depends on another row of its states,
            and nothing that it reads besides gets a gradient.
        states: (n, d) hidden states.
        ids: (n,) tokens.
        size: rows at a time; None takes all at once.

    Returns:
        (n,) what the function returns for all rows.
    """
    apply: Any = _WithRowGradients.apply
    result: Tensor = apply(function, states, ids, size or max(len(states), 1))
    return result


class _WithRowGradients(torch.autograd.Function):
    """Results with the gradient of each by its own row of the states, made at once."""

    @staticmethod
    def forward(ctx: Any, function: OfTokens, states: Tensor, ids: Tensor, size: int) -> Tensor:
        results, gradients = [], []
        for some, those in zip(torch.split(states, size), torch.split(ids, size), strict=True):
            with torch.enable_grad():
                leaf = some.detach().requires_grad_()
                result = function(leaf, those)
                gradients.append(torch.autograd.grad(result.sum(), leaf)[0])
            results.append(result.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(results)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        scaled = gradients * upstream[0].unsqueeze(-1)
        return None, scaled.to(gradients.dtype), None, None
