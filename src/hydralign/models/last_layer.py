"""What nothing reads is not computed: the last layer, where only some tokens' states are wanted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def read_only_at(places: Tensor, model: PreTrainedModel) -> Iterator[None]:
    """Leave unread tokens out of the MLP of a network's last layer; no token looks at them there.

    Meanwhile the states of all other tokens are anything. Of the tiny model, which has four layers,
    it takes a sixth off a pass of the reward model, which is read once in each row.

    Args:
        places: (m,) where the tokens stand that are read, in the one line (1, n, d) of all tokens.
        model: whose layers compute each of them once: no activations are checkpointed.
    """
    mlp = _last_mlp(model)
    if mlp is None:
        yield
        return
    n = 0

    def leave_out(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal n
        line, *others = inputs
        n = line.shape[1]
        return line.index_select(1, places), *others

    def put_back(_: nn.Module, __: Any, result: Tensor) -> Tensor:
        return result.new_zeros(1, n, result.shape[-1]).index_copy(1, places, result)

    hooks = mlp.register_forward_pre_hook(leave_out), mlp.register_forward_hook(put_back)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _last_mlp(model: PreTrainedModel) -> nn.Module | None:
    """Find the MLP of the last layer, where layers have one and it has its usual name."""
    count = model.config.num_hidden_layers
    for layers in model.base_model.children():
        if isinstance(layers, nn.ModuleList) and len(layers) == count:
            return getattr(layers[-1], "mlp", None)
    return None
