"""Roles without weights: their shapes, types and code are real, their storage is not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydralign.models.adapters import LoraShape
from hydralign.models.assembly import RoleSpec, make_roles
from hydralign.models.heads import ScalarHead
from hydralign.models.quantization import Int8Product, Quantization, quantizable
from hydralign.models.roles import Role
from hydralign.planning.tracker import MemoryTracker


@dataclass(frozen=True)
class FakeBase:
    """A base model as `own_roles` and `adapter_roles` want it, on the meta device."""

    config: PreTrainedConfig
    dtype: torch.dtype
    quantization: Quantization | None = None

    def load(self, vocab_size: int, seed: int) -> PreTrainedModel:
        """Lay the network out; both arguments are without effect here.

        Args:
            vocab_size: the config has it.
            seed: nothing is drawn.
        """
        model = AutoModelForCausalLM.from_config(self.config, dtype=self.dtype)
        if self.quantization is not None:
            for name, layer in quantizable(model):
                model.set_submodule(name, _PackedLinear(layer, self.quantization))
        return model


def fake_roles(
    base: FakeBase, shape: LoraShape | None, specs: Mapping[str, RoleSpec]
) -> dict[str, Role]:
    """Build a stage's roles on the meta device, in a moment.

    Args:
        base: of all of them.
        shape: of their adapters; None gives each its own network.
        specs: the roles wanted, by name.
    """
    fresh = {name: replace(spec, starts_from=None) for name, spec in specs.items()}
    size: dict[str, int] = {"vocab_size": base.config.get_text_config().vocab_size, "seed": 0}
    with torch.device("meta"):
        return make_roles(base, shape, fresh, {}, **size)


def book_weights_(roles: Iterable[Role], tracker: MemoryTracker) -> None:
    """Put fake tensors in place of the parameters and buffers on the meta device.

    Args:
        roles: changed in place; what they share stays shared.
        tracker: books them as `adapters` (heads too) or `weights`. It is entered already.
    """
    made: dict[Tensor, Tensor] = {}

    def faked(old: Tensor, kind: str) -> Any:
        if old not in made:
            with tracker.making(kind):
                made[old] = torch.empty(old.shape, dtype=old.dtype)
        return made[old]

    for path, module in nn.ModuleList(roles).named_modules():
        kind = "adapters" if ".lora_" in path or isinstance(module, ScalarHead) else "weights"
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(faked(weight, kind), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = faked(buffer, kind)


class _PackedLinear(nn.Linear):
    """A quantised linear layer: takes as much memory as bitsandbytes' own, at rest and in use."""

    def __init__(self, layer: nn.Linear | Conv1D, quantization: Quantization) -> None:
        """Take the place of a layer.

        Args:
            layer: on the meta device.
            quantization: how it is stored.
        """
        nn.Module.__init__(self)
        shape = layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.T.shape
        self.out_features, self.in_features = shape
        self.quantization = quantization
        self.bias = layer.bias
        packed, scales = _storage(self.out_features, self.in_features, quantization)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scales = nn.ParameterList([nn.Parameter(s, requires_grad=False) for s in scales])

    def forward(self, x: Tensor) -> Tensor:
        """Multiply, with the weight in full for no longer than it takes."""
        if self.quantization.kind == "int8":
            product: Tensor = Int8Product.apply(x, self.weight, self.scales[0])
        else:
            full = (self.out_features, self.in_features)
            product = _Nf4Product.apply(x.to(self.quantization.compute_dtype), self.weight, full)
        return product if self.bias is None else product + self.bias.to(product.dtype)


def _storage(n_out: int, n_in: int, how: Quantization) -> tuple[Tensor, list[Tensor]]:
    if how.kind == "int8":
        weight = torch.empty(n_out, n_in, dtype=torch.int8)
        return weight, [torch.empty(n_out, 1), torch.empty(n_out, 1)]
    blocks = -(-n_out * n_in // 64)
    packed = torch.empty(-(-n_out * n_in // 2), 1, dtype=torch.uint8)
    if not how.double:
        return packed, [torch.empty(blocks)]
    return packed, [torch.empty(blocks, dtype=torch.uint8), torch.empty(-(-blocks // 256))]


class _Nf4Product(torch.autograd.Function):
    """x (..., n_in) times a weight that is unpacked to (n_out, n_in), once more backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, full: tuple[int, int]) -> Tensor:
        ctx.full, ctx.dtype = full, x.dtype
        return x @ packed.new_empty(full, dtype=x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight = gradients[0].new_empty(ctx.full, dtype=ctx.dtype)
        return gradients[0] @ weight, None, None
