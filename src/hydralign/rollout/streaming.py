"""A response as it comes, token by token, and its text as far as it is certain."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from hydralign.models.codec import Codec
from hydralign.models.roles import TextRole
from hydralign.rl.masks import position_ids
from hydralign.rollout.decoders import GrowingDecoder
from hydralign.rollout.decoding import Decoding
from hydralign.rollout.sampling import uniform_numbers


@torch.no_grad()
def stream_tokens(
    policy: TextRole,
    prompt_ids: Sequence[int],
    codec: Codec,
    decoding: Decoding,
    generator: torch.Generator,
    *,
    most: int,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[int]:
    """Write one response; the same seed gives what `sample_responses` gives for this prompt alone.

    Args:
        policy: that writes.
        prompt_ids: p tokens.
        codec: stop ids.
        decoding: chooses tokens.
        generator: source of the draws, on the policy's device.
        most: tokens.
        precision: makes the context in which the policy computes.

    Yields:
        its tokens, a stop token included.
    """
    device = generator.device
    uniform = uniform_numbers(1, most, generator, device)
    ids = torch.tensor([list(prompt_ids)], device=device)
    mask, cache = torch.ones_like(ids, dtype=torch.bool), DynamicCache()
    positions = position_ids(mask)
    with precision():
        logits = policy.next_token_logits(ids, mask, positions, cache)
    decoder = GrowingDecoder(policy, mask, positions, cache)
    for t in range(most):
        ids = decoding(logits, uniform[:, t : t + 1])
        token = int(ids)
        yield token
        if token in codec.stop_ids or t + 1 == most:
            return
        with precision():
            logits = decoder(ids)


def stream_text(tokens: Iterable[int], codec: Codec) -> Iterator[str]:
    """Return the text of tokens as they come, in pieces that add up to that of all.

    A character of several tokens is held back until it is whole.

    Args:
        tokens: of one response.
        codec: knows their texts.
    """
    ids: list[int] = []
    start = told = 0  # what was said ends at `told`; the token before it decides about a space
    for token in tokens:
        ids.append(token)
        said, whole = codec.decode_ids(ids[start:told]), codec.decode_ids(ids[start:])
        if len(whole) > len(said) and not whole.endswith("\N{REPLACEMENT CHARACTER}"):
            yield whole[len(said) :]
            start, told = told, len(ids)
    said, whole = codec.decode_ids(ids[start:told]), codec.decode_ids(ids[start:])
    if len(whole) > len(said):
        yield whole[len(said) :]
