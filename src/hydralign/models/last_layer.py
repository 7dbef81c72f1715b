"""The last layer's MLP, where only some tokens' states are wanted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def skipping_unread(model: PreTrainedModel, read: Tensor) -> Iterator[None]:
    """Leave tokens whose states nobody reads out of the MLP of a network's last layer.

    After the last attention no token sees another. Within this context the states of unread tokens
    are anything. Where the MLP is called with more than its tokens, nothing is left out.

    Args:
        model: whose layers compute each of them once: no activations are checkpointed.
        read: (m,) which of the tokens of the line (1, n, d), none of them twice.
    """
    mlp = last_mlp(model)
    if mlp is None:
        yield
        return
    shapes: list[torch.Size] = []

    def leave_out(_: nn.Module, inputs: tuple[Any, ...]) -> Tensor | None:
        if len(inputs) != 1:
            return None
        shapes.append(inputs[0].shape)
        line: Tensor = inputs[0]
        return line.index_select(1, read)

    def put_back(_: nn.Module, __: Any, result: Tensor) -> Tensor:
        return result.new_zeros(shapes.pop()).index_copy_(1, read, result) if shapes else result

    hooks = mlp.register_forward_pre_hook(leave_out), mlp.register_forward_hook(put_back)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def last_mlp(model: PreTrainedModel) -> nn.Module | None:
    """Find the MLP of the last layer; None where layers have none that goes by this name."""
    count = model.config.num_hidden_layers
    for layers in model.base_model.children():
        if isinstance(layers, nn.ModuleList) and len(layers) == count:
            return getattr(layers[-1], "mlp", None)
    return None
