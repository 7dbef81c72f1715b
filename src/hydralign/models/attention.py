"""How a network computes attention, and whether its rows can be packed."""

from transformers import PreTrainedConfig, PreTrainedModel

from hydralign.errors import UserError
from hydralign.models.packed_attention import PACKED

MEETING = frozenset(("full_attention", "sliding_attention", "chunked_attention"))
"""Layers that are told by a mask alone which tokens meet."""

CHANGING_ROPE = ("dynamic", "longrope")
"""Position embeddings that depend on the longest row of a pass."""

NEVER_PACKED = ("doge", "hy_v4", "llama4_text", "nemotron")
"""Networks that make masks or positions of their own, or do not tell their attention of rows."""


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
