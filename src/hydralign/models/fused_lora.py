"""A frozen linear layer and its adapter in one: two thin products on top of the wide one."""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def fuse_(layer: nn.Module) -> None:
    """Let a layer of PEFT compute the same in fewer steps, if its base is a plain matrix.

    Args:
        layer: changed in place.
    """
    if type(layer) is Linear and type(layer.base_layer) is nn.Linear:
        layer.__class__ = FusedLinear


class FusedLinear(Linear):
    """PEFT's own scales the adapter's wide output, and adds it up: twice all of it, three times."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map x (..., n_in) to (..., n_out)."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        base: Any = self.base_layer
        fused: Tensor = _Fused.apply(x, base.weight, base.bias, down, up, self.scaling[name])
        return fused


class _Fused(torch.autograd.Function):
    """x (..., n_in), base (n_out, n_in), bias (n_out,), down (k, n_in) and up (n_out, k).

    Adapters are kept in fp32 and multiplied in the precision of the base's product, as autocast
    does it: the wide product takes twice the time, and what it is added to is rounded all the same.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        result = F.linear(x, base, bias)
        inputs = x.to(result.dtype).reshape(-1, x.shape[-1])
        down, up = down.to(result.dtype), up.to(result.dtype)
        low = inputs @ down.T
        result.view(-1, result.shape[-1]).addmm_(low, up.T, alpha=scaling)
        ctx.save_for_backward(inputs, low, base, down, up)
        ctx.shape, ctx.dtype, ctx.scaling = x.shape, x.dtype, scaling
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs, low, base, down, up = ctx.saved_tensors
        gradient = upstream[0].reshape(-1, upstream[0].shape[-1])
        of_low = (gradient @ up).mul_(ctx.scaling)
        of_x = of_down = of_up = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ base.to(gradient.dtype)
            of_x = of_x.addmm_(of_low, down).view(ctx.shape).to(ctx.dtype)
        if ctx.needs_input_grad[3]:
            of_down = of_low.T @ inputs
        if ctx.needs_input_grad[4]:
            of_up = (low.T @ gradient).T * ctx.scaling  # tall times thin would be slower
        return of_x, None, None, of_down, of_up, None
