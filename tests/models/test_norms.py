import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from hydralign.models.norms import keep_norm_inputs_narrow_

PLAIN = [LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm]


def holder(norm, dtype=torch.float32):
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 9))
    return nn.ModuleDict({"norm": norm}).to(dtype)


def narrowed(model):
    keep_norm_inputs_narrow_(model)
    return model


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_values_to_the_last_bit_and_the_same_gradients(kind, dtype):
    theirs, ours = holder(kind(9, eps=0.1), dtype), narrowed(holder(kind(9, eps=0.1), dtype))
    assert type(ours["norm"]) is not kind
    x = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    upstream = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = []
    for model in (theirs, ours):
        leaf = x.clone().requires_grad_()
        y = model["norm"](leaf)
        y.backward(upstream)
        found.append((y.detach(), leaf.grad, model["norm"].weight.grad))
    assert torch.equal(found[0][0], found[1][0])
    # One rounding of bf16 is 0.4 %; sums come in another order.
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    assert_close(found[1][1:], found[0][1:], **close)


def test_half_as_much_is_kept():
    kept = []
    for model in (holder(LlamaRMSNorm(9)), narrowed(holder(LlamaRMSNorm(9)))):
        model.to(torch.bfloat16).requires_grad_(False)
        sizes = {}

        def keep(x, sizes=sizes):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        x = torch.randn(50, 9).bfloat16().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model["norm"](x)
        kept.append(sum(sizes.values()))
    assert kept == [50 * 9 * 4 + 50 * 4 + 9 * 2, 50 * 9 * 2 + 50 * 4 + 9 * 2]


@pytest.mark.parametrize("norm", [GemmaRMSNorm(9), nn.LayerNorm(9)])
def test_norms_that_compute_something_else_stay(norm):
    model = holder(norm)
    keep_norm_inputs_narrow_(model)
    assert model["norm"] is norm


def test_names_and_weights_stay():
    model = holder(LlamaRMSNorm(9))
    weight = model["norm"].weight
    keep_norm_inputs_narrow_(model)
    assert list(model.state_dict()) == ["norm.weight"]
    assert model["norm"].weight is weight
