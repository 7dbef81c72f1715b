"""Attention for a CPU: `hardware.attention=grouped`.

The kernel of PyTorch takes up to five times as long in the backward pass there. The plain formula
copies keys for all the heads that share them, and keeps every weight in fp32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hydralign.errors import UserError


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, called as transformers does.

    Shapes: b batch, h heads, k key heads (a divisor of h), q queries, t tokens, e head size.

    Args:
        module: the layer, of no use here.
        query: (b, h, q, e)
        key: (b, k, t, e)
        value: (b, k, t, e)
        attention_mask: (b or 1, 1, q, t), added to the scores; None adds nothing.
        scaling: of the scores; e ** -0.5 if None.
        other: what only some networks want.

    Returns:
        (b, q, h, e), and None in the place of the weights.

    Raises:
        UserError: if the network wants its scores changed in another way.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if other.get(name) is not None:
            raise UserError(
                f"hardware.attention=grouped knows no {name}, which this model asks for. "
                "Use hardware.attention=eager."
            )
    b, h, q, e = query.shape
    narrow = value.dtype
    if torch.is_autocast_enabled(value.device.type):  # not everything comes in as narrow as that
        narrow = torch.get_autocast_dtype(value.device.type)
    query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
    if attention_mask is not None:
        attention_mask = attention_mask.clamp(min=torch.finfo(narrow).min).to(narrow)
    # Heads that share a key head stand in line, as if they were more queries.
    lined_up = query.reshape(b, key.shape[1], -1, e) * (scaling or e**-0.5)
    attended: Tensor = _Attention.apply(lined_up, key, value, attention_mask)
    return attended.view(b, h, q, -1).transpose(1, 2).contiguous(), None


class _Attention(torch.autograd.Function):
    """Query (b, k, g q, e), key and value (b, k, t, e), mask (b, 1, q, t): to (b, k, g q, e)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        scores = query @ key.mT
        if mask is not None:
            b, k, lines, t = scores.shape
            scores.view(b, k, -1, mask.shape[-2], t).add_(mask.unsqueeze(2))
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=wide).to(value.dtype)
        ctx.save_for_backward(query, key, value, weights)
        return weights @ value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weights = ctx.saved_tensors
        of_output = upstream[0].contiguous()
        of_weights = of_output @ value.mT
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        return of_scores @ key, of_scores.mT @ query, weights.mT @ of_output, None
