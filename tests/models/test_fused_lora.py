from copy import deepcopy

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from hydralign.models.fused_lora import FusedLinear, fuse_

N_IN, N_OUT, RANK = 7, 5, 3


def peft_layer(bias=False, dtype=torch.float64):
    """A frozen base with an adapter that changes something, as PEFT has it."""
    torch.manual_seed(0)
    base = nn.Linear(N_IN, N_OUT, bias=bias, dtype=dtype).requires_grad_(False)
    layer = Linear(base, "one", config=LoraConfig(r=RANK, lora_alpha=4), r=RANK, lora_alpha=4)
    for half in (layer.lora_A["one"], layer.lora_B["one"]):
        nn.init.normal_(half.weight)
    return layer


def fused(layer):
    layer = deepcopy(layer)
    fuse_(layer)
    assert type(layer) is FusedLinear
    return layer


def outcome(layer, x):
    """What a layer gives, and the gradients of x and of its adapter."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = [layer.lora_A["one"].weight, layer.lora_B["one"].weight]
    upstream = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), torch.autograd.grad(y, [x, *weights], upstream)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(2, 4), (6,), (2, 3, 2)])
def test_it_computes_what_peft_computes(bias, shape):
    layer = peft_layer(bias).double()
    x = torch.randn(*shape, N_IN, dtype=torch.float64)
    assert_close(outcome(fused(layer), x), outcome(layer, x), rtol=1e-12, atol=1e-12)


def test_gradients_that_nobody_asks_for_are_not_made():
    layer = fused(peft_layer().double())
    x = torch.randn(2, 4, N_IN, dtype=torch.float64)
    with FlopCounterMode(display=False) as products:  # as the first layer: x has no gradient
        layer(x).sum().backward()
    # Forwards base and `down` (what is added in place is not counted), backwards `up` and the two
    # gradients of the adapter; no product with the base again.
    products_of_a_row = N_IN * N_OUT + RANK * N_IN + RANK * N_OUT + RANK * (N_IN + N_OUT)
    assert products.get_total_flops() == 2 * 8 * products_of_a_row
    assert layer.lora_A["one"].weight.grad.abs().min() > 0
    layer.requires_grad_(False)
    x.requires_grad_()
    layer(x).sum().backward()
    merged = layer.base_layer.weight + layer.scaling["one"] * (
        layer.lora_B["one"].weight @ layer.lora_A["one"].weight
    )
    assert_close(x.grad, merged.sum(0).expand_as(x), rtol=1e-12, atol=1e-12)


def test_on_a_narrow_base_it_is_as_exact_as_peft_under_autocast():
    layer = peft_layer(dtype=torch.bfloat16)
    layer.lora_A.float(), layer.lora_B.float()
    x = torch.randn(64, N_IN).bfloat16()
    exact, right = outcome(deepcopy(layer).double(), x.double())
    ours, gradients = outcome(fused(layer), x)
    layer.cast_input_dtype_enabled = False
    with torch.autocast("cpu", torch.bfloat16):
        theirs, their_gradients = outcome(layer, x)
    assert ours.dtype == torch.bfloat16
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    found, other = (ours, *gradients), (theirs, *their_gradients)
    for ours, theirs, truth in zip(found, other, (exact, *right), strict=True):
        assert (ours - truth).norm() < 1.2 * (theirs - truth).norm()
        assert (ours - truth).norm() < 1e-2 * truth.norm()


def test_under_autocast_a_wide_base_is_multiplied_narrow():
    layer = peft_layer(dtype=torch.float32)
    x = torch.randn(4, N_IN)
    with torch.autocast("cpu", torch.bfloat16):
        y, gradients = outcome(fused(layer), x)
    assert y.dtype == torch.bfloat16
    expected, right = outcome(layer, x)
    assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)  # bf16: 8 bits
    assert_close(gradients, right, rtol=5e-2, atol=5e-2)


def test_a_layer_without_its_adapter_is_its_base():
    layer = fused(peft_layer().double())
    x = torch.randn(3, N_IN, dtype=torch.float64)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_what_has_no_plain_matrix_stays_as_it_is():
    class Packed(nn.Linear):
        pass

    layer = peft_layer()
    layer.base_layer.__class__ = Packed
    fuse_(layer)
    assert type(layer) is Linear
