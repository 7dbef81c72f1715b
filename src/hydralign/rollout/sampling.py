"""Sampling responses from exactly the distribution that is scored afterwards."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from hydralign.data.collate import PromptBatch
from hydralign.errors import UserError
from hydralign.models.codec import Codec
from hydralign.models.roles import TextRole
from hydralign.rl.masks import position_ids, response_mask_from_stops
from hydralign.rl.sequences import Sequences


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: the whole distribution, at one temperature, no token left out."""

    temperature: float
    max_response_tokens: int
    batch_size: int
    """Prompts in one forward pass; a matter of memory only."""


@dataclass(frozen=True)
class Responses:
    """Sampled responses behind their prompts."""

    sequences: Sequences
    """b prompts with their responses; r is the length limit."""
    finished: Tensor
    """(b,) bool, True where a stop token occurred."""
    prompts: tuple[str, ...]
    """b prompts as text."""
    texts: tuple[str, ...]
    """b responses as text, without special tokens."""


Scorer = Callable[[Responses], Tensor]
"""Gives each of b responses a score: (b,), higher is better."""


@torch.no_grad()
def sample_responses(
    policy: TextRole,
    prompts: PromptBatch,
    codec: Codec,
    sampling: Sampling,
    generator: torch.Generator,
) -> Responses:
    """Draw one response for each prompt.

    Args:
        policy: what to sample from.
        prompts: b prompts.
        codec: stop and pad ids.
        sampling: temperature, length limit and memory.
        generator: source of the draws.
    """
    response_ids = torch.cat(
        [
            _sample(policy, ids, mask, codec, sampling, generator)
            for ids, mask in zip(
                prompts.prompt_ids.split(sampling.batch_size),
                prompts.attention_mask.split(sampling.batch_size),
                strict=True,
            )
        ]
    )
    stop_ids = torch.tensor(codec.stop_ids, device=response_ids.device)
    response_mask, finished = response_mask_from_stops(response_ids, stop_ids)
    sequences = Sequences(
        torch.cat([prompts.prompt_ids, response_ids.where(response_mask, codec.pad_id)], dim=1),
        torch.cat([prompts.attention_mask, response_mask], dim=1),
        response_mask,
    )
    texts = tuple(codec.decode(sequences))
    return Responses(sequences, finished, prompts.prompts, texts)


def _sample(
    policy: TextRole,
    ids: Tensor,
    attention_mask: Tensor,
    codec: Codec,
    sampling: Sampling,
    generator: torch.Generator,
) -> Tensor:
    """Return (b, r) sampled tokens; what follows a stop token is left to the caller."""
    b, r = len(ids), sampling.max_response_tokens
    stop_ids = torch.tensor(codec.stop_ids, device=ids.device)
    response_ids = torch.full((b, r), codec.stop_id, device=ids.device)
    finished = torch.zeros(b, dtype=torch.bool, device=ids.device)
    positions = position_ids(attention_mask)
    cache = DynamicCache()
    for t in range(r):
        logits = policy.next_token_logits(ids, attention_mask, positions, cache)
        ids = draw_tokens((logits.float() / sampling.temperature).softmax(-1), generator)
        response_ids[:, t] = ids.squeeze(-1)
        finished |= torch.isin(ids.squeeze(-1), stop_ids)
        if finished.all():
            break
        positions = positions[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, torch.ones_like(ids, dtype=torch.bool)], 1)
    return response_ids


def draw_tokens(probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one token for each row by inverting its cumulative distribution.

    One uniform number per row, where `torch.multinomial` draws one per token of the vocabulary.

    Args:
        probs: (b, v).
        generator: source of the draws, on the device of probs.

    Returns:
        (b, 1) ids; a token of probability 0 is never drawn.

    Raises:
        UserError: if they are no numbers, which is how a policy that has diverged shows.
    """
    # fp32 would lose the rare tokens, but Apple's GPUs have nothing better.
    wide = torch.float32 if probs.device.type == "mps" else torch.float64
    cumulative = probs.cumsum(-1, dtype=wide)
    total = cumulative[:, -1:]
    if not torch.isfinite(total).all():
        raise UserError(
            "The policy's logits are no longer finite numbers: training has diverged. Lower its "
            "learning rate, or max_grad_norm."
        )
    uniform = torch.rand(total.shape, dtype=total.dtype, device=probs.device, generator=generator)
    return torch.searchsorted(cumulative, uniform * total, right=True)
