"""Attention to packed rows: one line of tokens comes in, and each row sees itself alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from hydralign.errors import UserError
from hydralign.models.grouped_attention import grouped_attention
from hydralign.rl.packing import PackedRows

PACKED = {"grouped": "grouped", "sdpa": "packed_sdpa"}
"""What the user calls a kind of attention, and the name under which packed rows find it."""

_packing = ContextVar("packing", default=False)


@contextmanager
def packing() -> Iterator[None]:
    """Let a network see one line of packed rows; its mask says only how long the longest is."""
    token = _packing.set(True)
    try:
        yield
    finally:
        _packing.reset(token)


Attention = Callable[..., tuple[Tensor, Tensor | None]]
MaskMaker = Callable[..., Tensor | None]


def _attention_of_packed(attend: Attention) -> Attention:
    """Let attention look at packed rows, too: group by group, laid out as rows.

    Args:
        attend: called as transformers does: query (b, h, q, e), key and value (b, k, t, e), result
            (b, q, h, e). Packed, what comes in is (1, h, n, e), and what is returned (1, n, h, e).
    """

    def attend_packed(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        packed_rows: PackedRows | None = None,
        **other: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if packed_rows is None:
            _check_not_packing(module)
            return attend(module, query, key, value, attention_mask, **other)
        spread = (packed_rows.spread(x[0].transpose(0, 1)) for x in (query, key, value))
        attended = []
        for rows in zip(*spread, strict=True):
            w = rows[0].shape[1]
            mask = None if attention_mask is None else attention_mask[..., :w, :w]
            heads_first = [x.transpose(1, 2) for x in rows]
            attended.append(attend(module, *heads_first, mask, **other)[0])
        return packed_rows.pack(attended).unsqueeze(0), None

    return attend_packed


def _check_not_packing(module: nn.Module) -> None:
    """Raise rather than let tokens of one row see those of another."""
    if _packing.get():
        raise UserError(
            f"{type(module).__name__} is not told by its network how rows are packed. "
            "Use hardware.attention=eager, which pads them."
        )


def _mask_of_packed(make_mask: MaskMaker) -> MaskMaker:
    """Make the mask of the longest row alone, where rows are packed: the others' are its corners.

    Args:
        make_mask: called as transformers does, for padded rows.
    """

    def make(*, q_length: int, kv_length: int, attention_mask: Tensor | None, **other: Any) -> Any:
        if _packing.get():  # a mask as wide as the longest row came in: kv_length
            q_length, attention_mask = kv_length, None
        lengths = {"q_length": q_length, "kv_length": kv_length}
        return make_mask(**lengths, attention_mask=attention_mask, **other)

    return make


for _name, _attend, _make_mask in (
    (PACKED["grouped"], grouped_attention, eager_mask),
    (PACKED["sdpa"], sdpa_attention_forward, sdpa_mask),
):
    AttentionInterface.register(_name, _attention_of_packed(_attend))
    AttentionMaskInterface.register(_name, _mask_of_packed(_make_mask))
