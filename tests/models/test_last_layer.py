"""In the last layer only tokens that are read go through the MLP, and nothing else changes."""

from contextlib import nullcontext

import pytest
import torch
from torch.testing import assert_close

from hydralign.models import roles as roles_module
from hydralign.models.assembly import RoleSpec
from hydralign.models.attention import set_attention
from hydralign.models.last_layer import skipping_unread

SPECS = {
    "policy": RoleSpec("policy", trained=True),
    "reward_model": RoleSpec("reward_model", trained=True, scalar=True),
}


@pytest.fixture(params=["own-llama", "lora-llama", "own-gpt2", "lora-gpt2"])
def roles(request, make_toys):
    made = make_toys(*request.param.split("-")).roles(SPECS)
    for role in made.values():
        set_attention(role.network.language_model, "grouped")
    return made


def layers_of(role):
    base = role.network.language_model.base_model
    return base.h if hasattr(base, "h") else base.layers


def gradients(role, function, sequences):
    """What a role says, and the gradients of an uneven sum of it."""
    said = function(sequences)
    (said * torch.arange(1, said.numel() + 1).view(said.shape)).sum().backward()
    found = [said.detach()]
    for parameter in role.trained_parameters():
        if parameter.grad is not None:  # an LM head that is not used has none
            found.append(parameter.grad)
            parameter.grad = None
    assert len(found) > 2
    return found


@pytest.mark.parametrize("name", ["forward", "values", "scores"])
def test_what_roles_say_and_its_gradients_are_those_of_whole_passes(
    name, roles, sequences, monkeypatch
):
    role = roles["policy" if name == "forward" else "reward_model"]
    skipped = gradients(role, getattr(role, name), sequences)
    monkeypatch.setattr(roles_module, "skipping_unread", lambda *_: nullcontext())
    for ours, whole in zip(skipped, gradients(role, getattr(role, name), sequences), strict=True):
        assert_close(ours, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["forward", "values", "scores"])
def test_the_last_mlp_sees_each_token_that_is_read_and_no_other(name, roles, sequences):
    role, seen = roles["policy" if name == "forward" else "reward_model"], []
    first, *_, last = layers_of(role)
    for layer in (first, last):
        inner = layer.mlp.down_proj if hasattr(layer.mlp, "down_proj") else layer.mlp.c_proj
        inner.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[-2]))
    getattr(role, name)(sequences)
    counted = len(sequences) if name == "scores" else int(sequences.response_mask.sum())
    assert seen == [int(sequences.attention_mask.sum()), counted]


def test_checkpointed_passes_are_whole(roles, sequences):
    """They are computed once more when nobody remembers what is read."""
    role = roles["reward_model"]
    plain = gradients(role, role.scores, sequences)
    role.network.checkpoint_activations()
    for ours, whole in zip(gradients(role, role.scores, sequences), plain, strict=True):
        assert_close(ours, whole, rtol=1e-5, atol=1e-5)


def test_afterwards_the_mlp_is_as_before_even_after_an_error(roles):
    model = roles["policy"].network.language_model
    mlp = layers_of(roles["policy"])[-1].mlp
    x = torch.ones(1, 3, model.config.hidden_size)
    before = mlp(x)
    with pytest.raises((IndexError, RuntimeError)), skipping_unread(model, torch.tensor([5])):
        mlp(x)
    assert torch.equal(mlp(x), before)
