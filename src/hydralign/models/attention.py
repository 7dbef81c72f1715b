"""How a network computes attention, of padded rows and of packed ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from hydralign.errors import UserError
from hydralign.models.grouped_attention import grouped_attention
from hydralign.rl.packing import PackedRows

PACKED = {"grouped": "grouped", "sdpa": "packed_sdpa"}
"""What the user calls a kind of attention, and the name under which packed rows find it."""

MEETING = frozenset(("full_attention", "sliding_attention", "chunked_attention"))
"""Layers that are told by a mask alone which tokens meet."""

CHANGING_ROPE = ("dynamic", "longrope")
"""Position embeddings that depend on the longest row of a pass."""

NEVER_PACKED = ("doge", "hy_v4", "llama4_text", "nemotron")
"""Networks that make masks or positions of their own, or do not tell their attention of rows."""

_packing = ContextVar("packing", default=False)


def set_attention(model: PreTrainedModel, name: str | None) -> None:
    """Choose how a network computes attention.

    Args:
        model: changed in place.
        name: `grouped`, or one of transformers' own; None leaves it to transformers.

    Raises:
        UserError: if it cannot be computed like that.
    """
    name = name or str(model.config._attn_implementation)
    wanted = PACKED.get(name, name) if can_be_packed(model) else name
    if model.config._attn_implementation == wanted:
        return
    chosen: str | None = None
    try:
        model.set_attn_implementation(wanted)
        chosen = model.config._attn_implementation
        reason = "this model has it in its own way."
    except (ValueError, ImportError) as error:
        reason = str(error)
    if chosen != wanted:
        raise UserError(
            f"hardware.attention={name} cannot be used: {reason} "
            "Use hardware.attention=sdpa or eager, or null for what suits the model."
        )


def can_be_packed(model: PreTrainedModel) -> bool:
    """Say whether the tokens of a row meet in a network's attention alone, as a mask tells them.

    Args:
        model: of any family.
    """
    config = model.config
    return (
        model._supports_attention_backend
        and not model._is_stateful
        and not config.sub_configs  # beside text it may look at pictures
        and config.model_type not in NEVER_PACKED
        and MEETING.issuperset(getattr(config, "layer_types", None) or ())
        and not has_changing_rope(config)
    )


def has_changing_rope(config: PreTrainedConfig) -> bool:
    """Say whether the embedding of a position depends on how long a row is."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    return any(kind in str(rope) for kind in CHANGING_ROPE)


def takes_packed_rows(model: PreTrainedModel) -> bool:
    """Say whether a network can be packed, and its attention is ours.

    Args:
        model: of any family.
    """
    return model.config._attn_implementation in PACKED.values() and can_be_packed(model)


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
