"""The frozen base in 8 or 4 bits, by bitsandbytes.

Dettmers et al. 2022, LLM.int8() (arXiv 2208.07339); 2023, QLoRA (arXiv 2305.14314).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hydralign.errors import UserError

QUANTIZED = ("Linear4bit", "Linear8bitLt")
"""Names of bitsandbytes' layers, which may not be importable."""


@dataclass(frozen=True)
class Quantization:
    """How the linear layers of a frozen base are stored; the LM head and the rest stay as is."""

    kind: str
    """`int8` with a scale per row, or `nf4`: 4-bit NormalFloat in blocks of 64."""
    compute_dtype: torch.dtype
    """What products are computed in."""
    double: bool = True
    """nf4 only: the blocks' scales are quantised once more, which saves 0.37 bits a weight."""

    def for_loading(self) -> BitsAndBytesConfig:
        """Return transformers' own form, for weights that are quantised while they are loaded."""
        return BitsAndBytesConfig(
            load_in_8bit=self.kind == "int8",
            load_in_4bit=self.kind == "nf4",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=self.compute_dtype,
            bnb_4bit_use_double_quant=self.double,
        )


def quantize_(model: PreTrainedModel, quantization: Quantization, device: str = "cpu") -> None:
    """Quantise the linear layers of a network that is in memory already.

    Args:
        model: changed in place; its LM head stays as it is.
        quantization: how.
        device: where the quantised layers go.
    """
    for name, layer in quantizable(model):
        model.set_submodule(name, quantized_layer(layer, quantization, device))
    mark_quantized_(model, quantization)


def quantizable(model: PreTrainedModel) -> list[tuple[str, nn.Linear | Conv1D]]:
    """Return the layers of a network that are quantised, by name: linear ones but its LM head."""
    head = model.get_output_embeddings()
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head
    ]


def mark_quantized_(model: PreTrainedModel, quantization: Quantization) -> None:
    """Let PEFT know that a network's layers are quantised, as `from_pretrained` does."""
    for kind, flag in (("nf4", "is_loaded_in_4bit"), ("int8", "is_loaded_in_8bit")):
        setattr(model, flag, quantization.kind == kind)


def quantized_layer(
    layer: nn.Linear | Conv1D, quantization: Quantization, device: str = "cpu"
) -> nn.Module:
    """Return a quantised layer in place of a linear one.

    Args:
        layer: with its weights.
        quantization: how it is stored.
        device: where it goes.
    """
    import bitsandbytes as bnb

    weight = layer.weight.detach()
    weight = weight.T.contiguous() if isinstance(layer, Conv1D) else weight
    (n_out, n_in), has_bias = weight.shape, layer.bias is not None
    new: Any
    with torch.device("meta"):
        if quantization.kind == "int8":
            new = bnb.nn.Linear8bitLt(n_in, n_out, has_bias, has_fp16_weights=False)
            weight = weight.cpu()  # from there alone it is quantised on its way
            parameter: Any = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            new = bnb.nn.Linear4bit(n_in, n_out, has_bias, quantization.compute_dtype)
            parameter = bnb.nn.Params4bit(
                weight,
                requires_grad=False,
                compress_statistics=quantization.double,
                quant_type="nf4",
                module=new,
            )
    new.weight = parameter.to(device)  # this is what quantises
    if has_bias:
        new.bias = nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
    return new


def guard_quantized_(model: nn.Module) -> int:
    """Make the quantised layers of a network plain functions of their input, and count them.

    - 8 bits: bitsandbytes would round the inputs too, looking for outliers in all rows of a batch,
      and only in some modes and on some devices. A row must not depend on its batch mates, nor the
      old policy differ from the new one, so only the weights are rounded here.
    - 4 bits: it repacks weights for some CPUs on the first pass in evaluation mode; after that a
      layer passes no gradient to its input, and its output has moved by half a percent.

    Args:
        model: changed in place.

    Returns:
        how many quantised layers there are.
    """
    layers: list[Any] = [m for m in model.modules() if type(m).__name__ in QUANTIZED]
    for layer in layers:
        if type(layer).__name__ == "Linear4bit":
            layer.support_avx512bf16_for_cpu = False
        else:
            scale = layer.weight.SCB.float().unsqueeze(1) / 127
            layer.register_buffer("scale", scale, persistent=False)
            layer.forward = partial(_int8_product, layer)
    return len(layers)


def _int8_product(layer: Any, x: Tensor) -> Tensor:
    product: Tensor = Int8Product.apply(x, layer.weight.data, layer.scale)
    return product if layer.bias is None else product + layer.bias.to(product.dtype)


class Int8Product(torch.autograd.Function):
    """x (..., n_in) times a weight (n_out, n_in) of 8 bits with a scale per row, (n_out, 1).

    The weight stands in full only while it is used, in the backward pass once more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Return (..., n_out)."""
        ctx.save_for_backward(weight, scale)
        return x @ (weight * scale).to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        weight, scale = ctx.saved_tensors
        return gradients[0] @ (weight * scale).to(gradients[0].dtype), None, None


def check_quantized(model: nn.Module, name: str, quantization: Quantization | None) -> None:
    """Guard the quantised layers, and check that there are some where they are wanted.

    Raises:
        UserError: if no layer of the network was quantised, or some are that should not be.
    """
    found = guard_quantized_(model)
    if quantization is not None and not found:
        raise UserError(
            f"model.quantization={quantization.kind}: none of the layers of {name} could be "
            "quantised (no linear layers besides its LM head). Use model.quantization=none."
        )
    if quantization is None and found:
        raise UserError(
            f"{name} is quantised already ({found} layers). Take the full weights that it was made "
            "of as model.source, and let model.quantization do the rest."
        )
