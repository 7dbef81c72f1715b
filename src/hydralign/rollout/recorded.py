"""A step of decoding that is recorded once on a GPU and replayed at every place.

Launching a step's kernels one by one takes several times as long there as they do.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from hydralign.errors import is_out_of_memory, no_memory
from hydralign.models.attention import has_changing_rope
from hydralign.models.packed_attention import PACKED
from hydralign.models.roles import TextRole

log = logging.getLogger(__name__)

WARM_UP = 2
"""Steps before one is recorded: libraries set themselves up in the first."""


class FixedDecoder:
    """Everything has its place in memory, and keeps it: b rows with t = p + room columns."""

    leave_below = 0.0  # a step reads all weights, however many rows there are

    def __init__(
        self,
        policy: TextRole,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: DynamicCache,
        room: int,
    ) -> None:
        """Make room; `make_decoder` says what comes in."""
        self.policy, self.cache = policy, cache
        b, p = attention_mask.shape
        self.place = torch.tensor([p], device=attention_mask.device)
        layers: list[Any] = cache.layers
        for index, layer in enumerate(layers):
            layers[index] = _FixedLayer(layer, room, self.place)
        self.ids = torch.zeros(b, 1, dtype=torch.long, device=attention_mask.device)
        self.positions = position_ids[:, -1:].clone()
        self.mask = F.pad(attention_mask, (0, room))[:, None, None]  # (b, 1, 1, t)
        self.run: Callable[[], Tensor] = self.run_policy

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the logits (b, v) of what follows (b, 1) new tokens, until the next call."""
        self.ids.copy_(ids)
        self.positions += 1
        self.mask.index_fill_(-1, self.place, True)
        logits = self.run()
        self.place += 1
        return logits

    def run_policy(self) -> Tensor:
        """Run the policy on what stands in memory; done twice at one place, it gives the same."""
        return self.policy.next_token_logits(self.ids, self.mask, self.positions, self.cache)

    def keep(self, going: Tensor) -> None:
        """Refuse: `leave_below` says that no row leaves."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing: the cache ends with it."""


class RecordedDecoder(FixedDecoder):
    """Replays the kernels of one step, in which nothing depends on how many came before."""

    def __init__(self, *read: Any) -> None:
        """Make room and record; takes about as long as three steps."""
        super().__init__(*read)
        self.graph = torch.cuda.CUDAGraph()
        try:
            self.logits = self._record()
        except RuntimeError as error:
            self._fall_back(error)

    def _record(self) -> Tensor:
        before, aside = torch.cuda.current_stream(), _stream_aside()
        aside.wait_stream(before)
        with torch.cuda.stream(aside), _casting_anew():
            for _ in range(WARM_UP):
                self.run_policy()
        before.wait_stream(aside)
        try:
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"), _casting_anew():
                logits = self.run_policy()
        finally:
            torch.cuda.set_stream(before)  # where the end of a recording fails, nobody else does
        self.run = self._replay
        return logits

    def _fall_back(self, error: RuntimeError) -> None:
        """Run each step anew, unless what failed is memory.

        Raises:
            RuntimeError: that of memory, which the end of a recording hides behind its own.
        """
        for said in (error, error.__context__):
            if said is not None and is_out_of_memory(said):
                raise said
        self.policy.records_decoding = False
        log.warning(
            "This model's sampling cannot be recorded (%s); it goes on without. "
            "hardware.record_decoding=false leaves out the attempt.",
            no_memory(error),
        )

    def _replay(self) -> Tensor:
        self.graph.replay()
        return self.logits

    def close(self) -> None:
        """Give back the memory of the recording, which is of use to nothing else."""
        self.graph.reset()
        self.__dict__.pop("logits", None)
        torch.cuda.empty_cache()


@cache
def _stream_aside() -> torch.cuda.Stream:
    """Return the one that steps before a recording run on: libraries keep memory for each."""
    return torch.cuda.Stream()


class _FixedLayer(DynamicLayer):
    """One layer's keys and values (b, k, t, e); new ones are written where they belong."""

    def __init__(self, layer: Any, room: int, place: Tensor) -> None:
        super().__init__()
        keys, values = (F.pad(x, (0, 0, 0, room)) for x in (layer.keys, layer.values))
        self.whole = self.keys, self.values = keys, values
        self.is_initialized, self.place = True, place

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values (b, k, 1, e), and return those of all places."""
        keys, values = self.whole
        keys.index_copy_(2, self.place, key_states.to(keys.dtype))
        values.index_copy_(2, self.place, value_states.to(values.dtype))
        return keys, values


def can_be_recorded(policy: TextRole, cache: DynamicCache, length: int) -> bool:
    """Say whether a step is the same kernels at each place: plain attention over all of them."""
    if not getattr(policy, "records_decoding", False):
        return False
    layers: list[Any] = cache.layers
    config = policy.network.language_model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or length
    return (
        all(type(layer) is DynamicLayer for layer in layers)
        and all(layer.keys.is_cuda for layer in layers)
        and config._attn_implementation in ("sdpa", PACKED["sdpa"])
        and window >= length
        and not has_changing_rope(config)
    )


@contextmanager
def _casting_anew() -> Iterator[None]:
    """Let autocast keep no narrow copies of weights: they end before the recording does."""
    dtype, on = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=on, cache_enabled=False):
        yield
