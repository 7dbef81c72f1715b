"""Sampling responses from exactly the distribution that is scored afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from hydralign.data.collate import PromptBatch
from hydralign.errors import BadNumbers
from hydralign.micro_batches import MicroBatches
from hydralign.models.codec import Codec
from hydralign.models.roles import TextRole
from hydralign.ranks import Ranks
from hydralign.rl.masks import position_ids, response_mask_from_stops
from hydralign.rl.sequences import Sequences
from hydralign.rollout.decoders import make_decoder

T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn: the whole distribution, at one temperature, no token left out."""

    temperature: float
    max_response_tokens: int
    micro_batches: MicroBatches
    """Prompts in one forward pass."""
    ranks: Ranks = Ranks()
    """The processes that share the prompts."""
    group_size: int = 1
    """Responses to each prompt, which stand in line."""


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
    answers: tuple[str | None, ...]
    """What the data set says is right, for each of the b prompts."""


Scorer = Callable[[Responses], Tensor]
"""Gives each of b responses a score: (b,), higher is better."""


TokenChoice = Callable[[Tensor, Tensor], Tensor]
"""Makes (b, 1) tokens of logits (b, v) and uniform numbers (b, 1)."""


@torch.no_grad()
def sample_responses(
    policy: TextRole,
    prompts: PromptBatch,
    codec: Codec,
    sampling: Sampling,
    generator: torch.Generator,
    choose: TokenChoice | None = None,
) -> Responses:
    """Draw a group of g responses for each prompt; every process of the run must call it.

    Args:
        policy: what to sample from.
        prompts: b prompts.
        codec: stop and pad ids.
        sampling: temperature, length limit, group size and memory.
        generator: source of the draws.
        choose: takes a token otherwise, where a policy is used; what trains knows no other way
            than the whole distribution at the sampling's temperature.

    Returns:
        b * g responses, the group of the first prompt first.
    """
    g, r = sampling.group_size, sampling.max_response_tokens
    b = len(prompts) * g
    # Drawn before anything is sampled: a row does not depend on when its batch mates finish.
    uniform = uniform_numbers(b, r, generator, prompts.prompt_ids.device)

    choose = choose or _from_all(sampling.temperature)

    def sample(rows: Tensor) -> Tensor:
        shared, places = (rows // g).unique_consecutive(return_inverse=True)
        ids, mask = prompts.prompt_ids[shared], prompts.attention_mask[shared]
        try:
            return _sample(policy, ids, mask, places, uniform[rows], codec, choose)
        except BadNumbers as error:
            error.evidence = {"prompts": [prompts.prompts[row] for row in shared.tolist()]}
            raise

    response_ids = sampling.ranks.spread(lambda rows: sampling.micro_batches.over(rows, sample), b)
    stop_ids = torch.tensor(codec.stop_ids, device=response_ids.device)
    response_mask, finished = response_mask_from_stops(response_ids, stop_ids)
    said = response_ids.where(response_mask, codec.pad_id)
    sequences = Sequences(
        torch.cat([prompts.prompt_ids.repeat_interleave(g, dim=0), said], dim=1),
        torch.cat([prompts.attention_mask.repeat_interleave(g, dim=0), response_mask], dim=1),
        response_mask,
    )
    texts = tuple(codec.decode(sequences))
    asked, answers = _repeated(prompts.prompts, g), _repeated(prompts.answers, g)
    return Responses(sequences, finished, asked, texts, answers)


def _sample(
    policy: TextRole,
    prompt_ids: Tensor,
    attention_mask: Tensor,
    places: Tensor,
    uniform: Tensor,
    codec: Codec,
    choose: TokenChoice,
) -> Tensor:
    """Return (b, r) sampled tokens, made of (b, r) uniform numbers, b of them a response each.

    A prompt is read once, however many of the (b,) places it stands in. What follows a stop token
    is left to the caller.
    """
    stop_ids = torch.tensor(codec.stop_ids, device=prompt_ids.device)
    response_ids = torch.full(uniform.shape, codec.stop_id, device=prompt_ids.device)
    rows = torch.arange(len(places), device=prompt_ids.device)
    going = torch.ones_like(rows, dtype=torch.bool)
    positions, cache = position_ids(attention_mask), DynamicCache()
    logits = policy.next_token_logits(prompt_ids, attention_mask, positions, cache)
    if len(places) > len(prompt_ids):
        cache.batch_select_indices(places.to(prompt_ids.device))
        logits, positions, attention_mask = (x[places] for x in (logits, positions, attention_mask))
    decoder = make_decoder(policy, attention_mask, positions, cache, room=uniform.shape[1] - 1)
    for t in range(uniform.shape[1]):
        ids = choose(logits, uniform[rows, t].unsqueeze(-1))
        response_ids[rows, t] = ids.squeeze(-1)
        going &= ~torch.isin(ids.squeeze(-1), stop_ids)
        left = int(going.sum())
        if left == 0 or t + 1 == uniform.shape[1]:
            break
        if left <= decoder.leave_below * len(going):
            decoder.keep(going)
            rows, ids, going = (x[going] for x in (rows, ids, going))
        logits = decoder(ids)
    decoder.close()
    return response_ids


def _from_all(temperature: float) -> TokenChoice:
    return lambda logits, uniform: draw_tokens((logits.float() / temperature).softmax(-1), uniform)


def _repeated(values: tuple[T, ...], times: int) -> tuple[T, ...]:
    return tuple(value for value in values for _ in range(times))


def uniform_numbers(b: int, r: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return (b, r) numbers from [0, 1): one for each token that may be drawn."""
    # fp32 would lose the rare tokens, but Apple's GPUs have nothing better.
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.rand(b, r, dtype=dtype, device=device, generator=generator)


def draw_tokens(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token for each row by inverting its cumulative distribution.

    One uniform number per row, where `torch.multinomial` draws one per token of the vocabulary.

    Args:
        probs: (b, v).
        uniform: (b, 1) from [0, 1), in the precision that the sum is to have.

    Returns:
        (b, 1) ids; a token of probability 0 is never drawn.

    Raises:
        BadNumbers: if they are no numbers, which is how a policy that has diverged shows.
    """
    cumulative = probs.cumsum(-1, dtype=uniform.dtype)
    total = cumulative[:, -1:]
    if not torch.isfinite(total).all():
        raise BadNumbers(
            "The policy's logits are no longer finite numbers: training has diverged. Begin anew "
            "in another folder with a lower learning rate or max_grad_norm.",
            {},
        )
    return torch.searchsorted(cumulative, uniform * total, right=True)
