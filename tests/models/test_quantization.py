"""The base in 8 and 4 bits: what is stored, what is computed, and that gradients pass."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from hydralign.errors import UserError
from hydralign.models import quantization
from hydralign.models.loading import BaseModel
from hydralign.models.quantization import Quantization, check_quantized, guard_quantized_, quantize_

# Dettmers et al. 2023 (arXiv 2305.14314), appendix E.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
NF4 += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
NF4 += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
NF4 += [0.7229568362236023, 1.0]
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = ["nf4", "int8"]


def base(kind, dtype=torch.float32, source=None):
    return BaseModel(source, LLAMA, dtype, Quantization(kind, dtype))


def layers(model):
    return {n: m for n, m in model.named_modules() if type(m).__name__.startswith("Linear")}


@pytest.mark.parametrize(("kind", "bits"), [("nf4", torch.uint8), ("int8", torch.int8)])
def test_linear_layers_are_quantised_and_nothing_else(kind, bits):
    model = base(kind, torch.bfloat16).load(vocab_size=47, seed=0)
    found = {n: m.weight.dtype for n, m in layers(model).items()}
    assert found.pop("lm_head") == torch.bfloat16
    assert len(found) == 14  # seven in each of two blocks
    assert set(found.values()) == {bits}
    rest = {p.dtype for n, p in model.named_parameters() if "proj" not in n}
    assert rest == {torch.bfloat16}


def test_nf4_rounds_to_the_nearest_of_the_papers_values_in_blocks_of_64():
    layer = nn.Linear(64, 3, bias=False)
    weight = layer.weight.detach().clone()
    new = quantization.quantized_layer(layer, Quantization("nf4", torch.float32, double=False))
    scale = weight.abs().amax(dim=1, keepdim=True)  # a row is a block
    table = torch.tensor(NF4)
    nearest = table[(weight / scale).unsqueeze(-1).sub(table).abs().argmin(-1)] * scale
    assert_close(new(torch.eye(64)).T, nearest, rtol=1e-6, atol=1e-7)
    assert new.weight.numel() == 64 * 3 / 2  # bytes


def test_an_8_bit_layer_is_its_rounded_weight_forwards_and_backwards():
    layer = nn.Linear(64, 3)
    weight = quantization.quantized_layer(layer, Quantization("int8", torch.float32))
    model = nn.Sequential(weight)
    assert guard_quantized_(model) == 1
    scale = layer.weight.detach().half().float().abs().amax(dim=1, keepdim=True) / 127
    rounded = weight.weight.detach().float() * scale
    x = 100 * torch.randn(5, 64, generator=torch.Generator().manual_seed(0))  # with outliers
    x.requires_grad_()
    outputs = model(x)
    assert_close(outputs, x @ rounded.T + layer.bias, rtol=1e-5, atol=1e-4)
    assert_close(torch.autograd.grad(outputs[:, 1].sum(), x)[0], rounded[1].expand(5, -1))
    with torch.no_grad():
        assert_close(model.eval()(x[2:3]), outputs[2:3], rtol=1e-6, atol=1e-5)  # without its mates


def test_int8_rounds_to_127ths_of_the_largest_weight_of_a_row():
    layer = nn.Linear(64, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.half().float())  # it goes through fp16
    weight = layer.weight.detach().clone()
    new = quantization.quantized_layer(layer, Quantization("int8", torch.float32))
    scale = weight.abs().amax(dim=1, keepdim=True)
    assert_close(new.weight.float(), (weight * 127 / scale).round(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_quantised_in_memory_is_the_one_quantised_on_loading(kind, tmp_path):
    BaseModel(None, LLAMA, torch.float32).load(vocab_size=47, seed=0).save_pretrained(tmp_path)
    ids = torch.tensor([[1, 5, 9, 30]])
    with torch.no_grad():
        here = base(kind).load(vocab_size=47, seed=0)(ids).logits
        loaded = base(kind, source=str(tmp_path)).load(vocab_size=47, seed=0)(ids).logits
        full = BaseModel(str(tmp_path), None, torch.float32).load(47, 0)(ids).logits
    assert torch.equal(here, loaded)
    assert 1e-4 < (here - full).norm() / full.norm() < 0.3  # it is another network, but a near one


def test_a_pass_in_evaluation_mode_leaves_the_layers_differentiable():
    model = base("nf4").load(vocab_size=47, seed=0)
    ids, positions = torch.tensor([[1, 5, 9, 30]]), torch.arange(4).unsqueeze(0)
    states = model.get_input_embeddings()(ids).detach().requires_grad_()
    outputs = []
    for training in (True, False, True):
        model.train(training)
        with torch.set_grad_enabled(training):
            outputs.append(model(inputs_embeds=states, position_ids=positions).logits)
    assert torch.equal(outputs[0], outputs[1])
    (gradient,) = torch.autograd.grad(outputs[2].sum(), states)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_of_gpt2_are_quantised_too(kind):
    torch.manual_seed(0)
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 47}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=2)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[1, 5, 9, 30]])
    with torch.no_grad():
        before = model(ids).logits
        quantize_(model, Quantization(kind, torch.float32))
        assert guard_quantized_(model) == 8  # four in each of two blocks
        after = model(ids).logits
    assert (after - before).norm() / before.norm() < {"int8": 0.02, "nf4": 0.2}[kind]


def test_a_source_that_is_quantised_already_is_refused():
    model = base("nf4").load(vocab_size=47, seed=0)
    with pytest.raises(UserError, match=r"mine is quantised already \(14 layers\)"):
        check_quantized(model, "mine", None)


def test_a_network_without_layers_to_quantise_is_refused():
    with pytest.raises(
        UserError, match=r"model.quantization=nf4: none of the layers of mine could"
    ):
        check_quantized(nn.Embedding(3, 5), "mine", Quantization("nf4", torch.float32))
