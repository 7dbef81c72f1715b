"""Going on with responses one token at a time, in two ways that give the same.

On a CPU the cache grows and rows that have finished leave. On a GPU one step is recorded and
replayed (`recorded.py`).
"""

from typing import Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from hydralign.models.roles import TextRole
from hydralign.rollout.recorded import RecordedDecoder, can_be_recorded

WORTH_RECORDING = 8
"""Steps from which on it pays."""


class Decoder(Protocol):
    """Knows b responses as far as they have come."""

    leave_below: float
    """Rows that have finished leave when no more than this share of the batch goes on."""

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the logits (b, v) of what follows (b, 1) new tokens."""

    def keep(self, going: Tensor) -> None:
        """Forget all rows but those that are True in (b,)."""

    def close(self) -> None:
        """Give back what it has taken."""


def make_decoder(
    policy: TextRole, attention_mask: Tensor, position_ids: Tensor, cache: DynamicCache, room: int
) -> Decoder:
    """Return what goes on with some prompts on their device.

    Args:
        policy: that has read them.
        attention_mask: (b, p) of the prompts, bool.
        position_ids: (b, p) of the prompts.
        cache: their keys and values; it belongs to the decoder from now on.
        room: the most tokens that follow.
    """
    read = (policy, attention_mask, position_ids, cache)
    if room >= WORTH_RECORDING and can_be_recorded(policy, cache, attention_mask.shape[1] + room):
        return RecordedDecoder(*read, room)
    return GrowingDecoder(*read)


class GrowingDecoder:
    """Keys and values are copied to a longer cache at each step."""

    leave_below = 0.75  # not at once: each time the cache is copied

    def __init__(
        self, policy: TextRole, attention_mask: Tensor, position_ids: Tensor, cache: DynamicCache
    ) -> None:
        """Take over what the prompts left; `make_decoder` says what that is."""
        self.policy, self.cache = policy, cache
        self.attention_mask, self.positions = attention_mask, position_ids[:, -1:]

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the logits (b, v) of what follows (b, 1) new tokens."""
        seen = torch.ones_like(ids, dtype=torch.bool)
        self.attention_mask = torch.cat([self.attention_mask, seen], dim=1)
        self.positions = self.positions + 1
        return self.policy.next_token_logits(ids, self.attention_mask, self.positions, self.cache)

    def keep(self, going: Tensor) -> None:
        """Forget all rows but those that are True in (b,)."""
        self.cache.batch_select_indices(going.nonzero().squeeze(-1))
        self.attention_mask, self.positions = self.attention_mask[going], self.positions[going]

    def close(self) -> None:
        """Do nothing: the cache ends with it."""
