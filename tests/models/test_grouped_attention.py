import types

import pytest
import torch
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import eager_attention_forward

from hydralign.errors import UserError
from hydralign.models.grouped_attention import grouped_attention


def inputs(dtype, heads, key_heads, queries=5, tokens=7):
    generator = torch.Generator().manual_seed(0)

    def drawn(heads, length):
        x = torch.randn(2, length, heads, 4, generator=generator, dtype=torch.float64)
        return x.to(dtype).transpose(1, 2).requires_grad_()

    mask = torch.rand(2, 1, queries, tokens, generator=generator) < 0.3
    mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(mask, torch.finfo(dtype).min)
    return drawn(heads, queries), drawn(key_heads, tokens), drawn(key_heads, tokens), mask


def eager(query, key, value, mask, scaling):
    layer = types.SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1])
    layer.training = False
    return eager_attention_forward(layer, query, key, value, mask, scaling)[0]


@pytest.mark.parametrize(("heads", "key_heads"), [(6, 3), (6, 1), (3, 3)])
@pytest.mark.parametrize("queries", [5, 1])
def test_grouped_attention_is_eager_attention(heads, key_heads, queries):
    *tensors, mask = inputs(torch.float32, heads, key_heads, queries)
    ours, weights = grouped_attention(None, *tensors, mask, scaling=0.3)
    theirs = eager(*tensors, mask, 0.3)
    assert weights is None
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    found, expected = (torch.autograd.grad(y, tensors, upstream) for y in (ours, theirs))
    assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_its_gradient_is_that_of_the_formula():
    query, key, value, mask = inputs(torch.float64, 4, 2)

    def attend(query, key, value):
        return grouped_attention(None, query, key, value, mask)[0]

    assert torch.autograd.gradcheck(attend, (query, key, value))


def test_no_mask_and_no_scale_are_the_plain_softmax():
    query, key, value, _ = inputs(torch.float64, 2, 2)
    ours = grouped_attention(None, query, key, value, None)[0]
    weights = (query @ key.mT / 2).softmax(-1)  # heads of size 4
    assert_close(ours, (weights @ value).transpose(1, 2), rtol=1e-9, atol=1e-12)


def test_it_keeps_narrow_tensors_and_copies_no_key():
    query, key, value, mask = inputs(torch.bfloat16, 6, 2)
    kept = {}

    def keep(x):
        kept[x.data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        grouped_attention(None, query, key, value, mask)
    assert {x.dtype for x in kept.values()} == {torch.bfloat16}
    assert sum(x.numel() for x in kept.values()) == query.numel() + 2 * key.numel() + 2 * 6 * 5 * 7


@pytest.mark.parametrize("of_value", [torch.bfloat16, torch.float32])  # the latter with a KV cache
def test_autocast_with_a_row_that_sees_nothing_and_a_backward_pass_outside_it(of_value):
    query, key, value, mask = inputs(torch.float32, 6, 2)
    mask[0, 0, 2] = torch.finfo(torch.float32).min  # a padded position
    tensors = (query, key, value)
    upstream = torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):  # where queries come out wide
        ours = grouped_attention(None, query, key, value.to(of_value), mask)[0]
        theirs = eager(query, key, value.to(of_value), mask, 0.5)
    found, expected = (torch.autograd.grad(y.float(), tensors, upstream) for y in (ours, theirs))
    assert torch.isfinite(ours).all()
    assert_close(ours.float(), theirs.float(), rtol=2e-2, atol=2e-2)  # bf16: 8 bits
    assert_close(found, expected, rtol=5e-2, atol=5e-2)


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match=r"grouped knows no softcap.*eager"):
        grouped_attention(None, *inputs(torch.float32, 2, 2), softcap=30.0)
