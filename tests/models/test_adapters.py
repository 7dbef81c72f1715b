from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.testing import assert_close

from hydralign.errors import UserError
from hydralign.models.adapters import AdapterSet, LoraShape, _NarrowLinear
from hydralign.models.assembly import RoleSpec, StartingPoint, adapter_roles
from hydralign.models.loading import load_adapter
from hydralign.models.saving import save_role
from hydralign.stages.ppo import PPO

ROLES = ["policy", "reference", "value_model", "reward_model"]
TRAINED = {"policy", "value_model"}


@pytest.fixture(params=["lora", "nf4", "int8"])
def toys(request, make_toys):
    return make_toys(request.param)


@pytest.fixture
def roles(toys):
    return toys.roles(PPO.roles)


def adapters(roles):
    return roles["policy"].network.adapters


def gradients(role):
    return [None if p.grad is None else p.grad.clone() for p in role.trained_parameters()]


def loss(roles, name, sequences):
    """Something that depends on every counted token of a role."""
    role = roles[name]
    kept = role.values(sequences) if name == "value_model" else role(sequences)
    return kept[sequences.response_mask].square().sum()


def bf16_roles(make_toys):
    toys = make_toys("lora")
    base = type(toys.base)(toys.base.source, None, torch.bfloat16)
    return adapter_roles(base, LoraShape(3, 4), PPO.roles, toys.starts, vocab_size=47, seed=0)


def as_peft_has_it(roles):
    for layer in adapters(roles).language_model.modules():
        if isinstance(layer, LoraLayer):
            layer.__class__ = Linear  # not the fused one
            layer.cast_input_dtype_enabled = True
            for half in (*layer.lora_A.values(), *layer.lora_B.values()):
                half.__class__ = nn.Linear
    return roles


@pytest.mark.parametrize("active", ROLES)
def test_after_every_switch_the_same_parameters_train(roles, active):
    adapters(roles).activate(active)
    training = {n for n in ROLES if any(p.requires_grad for p in adapters(roles).parameters_of(n))}
    frozen = {
        n for n in ROLES if any(not p.requires_grad for p in adapters(roles).parameters_of(n))
    }
    assert (training, frozen) == (TRAINED, set(ROLES) - TRAINED)
    model = adapters(roles).language_model
    assert not [n for n, p in model.named_parameters() if "lora" not in n and p.requires_grad]
    heads = {name: roles[name].head.weight.requires_grad for name in ROLES[2:]}
    assert heads == {"value_model": True, "reward_model": False}


def test_what_an_optimizer_gets_is_the_roles_own_adapter_and_head(roles):
    for name in ROLES:
        own = adapters(roles).parameters_of(name)
        assert len(own) == 28  # two matrices for each of seven layers in two blocks
        head = [roles[name].head.weight] if name == "value_model" else []
        expected = [*own, *head] if name in TRAINED else []
        got = roles[name].trained_parameters()
        assert [id(p) for p in got] == [id(p) for p in expected]
    ids = [{id(p) for p in roles[name].trained_parameters()} for name in TRAINED]
    assert not ids[0] & ids[1]


def test_four_roles_hold_one_copy_of_the_base(toys):
    plain = toys.base.load(vocab_size=47, seed=0)
    roles = toys.roles(PPO.roles)
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes()
        for role in roles.values()
        for name, parameter in role.named_parameters()
        if "lora_" not in name and "head" not in name.split(".")
    }
    assert len(storages) == len(list(plain.parameters()))
    assert sum(storages.values()) == sum(p.untyped_storage().nbytes() for p in plain.parameters())


def test_roles_that_own_their_networks_share_nothing(make_toys):
    roles = make_toys("own").roles(PPO.roles)
    storages = [
        {parameter.untyped_storage().data_ptr() for parameter in role.parameters()}
        for role in roles.values()
    ]
    assert len(set.union(*storages)) == sum(map(len, storages)) > 4 * 20


@pytest.mark.parametrize("checkpointed", [False, True])
def test_one_role_after_the_other_gives_both_their_gradients(toys, sequences, checkpointed):
    expected = {}
    for name in TRAINED:  # each in a set of roles where no switch happens at all
        alone = toys.roles(PPO.roles)
        loss(alone, name, sequences).backward()
        expected[name] = gradients(alone[name])
    roles = toys.roles(PPO.roles)
    if checkpointed:
        for role in roles.values():
            role.network.checkpoint_activations()
    for name in ("policy", "value_model"):
        loss(roles, name, sequences).backward()
    for name in TRAINED:
        got = gradients(roles[name])
        assert all(g is not None and g.abs().max() > 1e-4 for g in got)
        assert_close(got, expected[name], rtol=1e-5, atol=1e-6)
    for name in ("reference", "reward_model"):
        assert {p.grad for p in adapters(roles).parameters_of(name)} == {None}


def test_roles_keep_their_own_say_while_others_take_turns(roles, sequences):
    before = {name: loss(roles, name, sequences).item() for name in ("policy", "value_model")}
    scores = roles["reward_model"].scores(sequences)
    assert torch.equal(roles["reference"](sequences), roles["policy"](sequences))
    after = {name: loss(roles, name, sequences).item() for name in ("policy", "value_model")}
    assert after == before
    assert torch.equal(roles["reward_model"].scores(sequences), scores)


def test_adapters_and_heads_are_fp32_on_a_bf16_base(make_toys):
    roles = bf16_roles(make_toys)
    for name in TRAINED:
        assert {p.dtype for p in roles[name].trained_parameters()} == {torch.float32}
    assert adapters(roles).language_model.lm_head.weight.dtype == torch.bfloat16


def test_on_a_narrow_base_adapters_compute_narrow_and_nothing_is_kept_wide(make_toys, sequences):
    def kept_loss_and_gradients(roles):
        kept = {}

        def keep(x):
            kept[x.data_ptr()] = x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            value = loss(roles, "policy", sequences)
        value.backward()
        return sum(kept.values()), value, gradients(roles["policy"])

    ours, *got = kept_loss_and_gradients(bf16_roles(make_toys))
    theirs, *expected = kept_loss_and_gradients(as_peft_has_it(bf16_roles(make_toys)))
    assert all(gradient.dtype == torch.float32 for gradient in got[1])
    ours_flat, theirs_flat = (torch.cat([g.flatten() for g in gs]) for gs in (got[1], expected[1]))
    assert_close(got[0], expected[0], rtol=1e-2, atol=0)  # bf16 has 8 bits: 0.4 % each time
    assert (ours_flat - theirs_flat).norm() < 0.05 * theirs_flat.norm()
    assert ours < 0.85 * theirs


def test_a_frozen_adapter_is_rounded_once_and_stays_the_same_function(make_toys, sequences):
    roles = bf16_roles(make_toys)
    frozen = adapters(roles).parameters_of("reference")
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert not any(p.requires_grad for p in frozen)
    assert torch.equal(roles["reference"](sequences), roles["policy"](sequences))
    assert any((p != p.bfloat16()).any() for p in adapters(roles).parameters_of("policy"))


def test_a_narrow_product_is_that_of_the_rounded_weight():
    weight = nn.Parameter(torch.tensor([[1 + 2.0**-9, 0.5], [3.0, 4.0]]))
    x = torch.tensor([[1.0, 256.0]], dtype=torch.bfloat16)
    product = _NarrowLinear(weight)(x)
    assert product.dtype == torch.bfloat16
    assert product.tolist() == [[129.0, 1024.0]]  # not 1027
    product.sum().backward()
    assert weight.grad.dtype == torch.float32
    assert weight.grad.tolist() == [[1.0, 256.0]] * 2


def test_autocast_gives_what_it_gives_peft(make_toys, sequences):
    def gradients_of(roles):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(roles, "policy", sequences)
        value.backward()
        return [value.detach(), *gradients(roles["policy"])]

    expected = gradients_of(as_peft_has_it(bf16_roles(make_toys)))
    found = gradients_of(bf16_roles(make_toys))
    assert_close(found[0], expected[0], rtol=1e-2, atol=0)  # bf16 has 8 bits: 0.4 % each time
    ours, theirs = (torch.cat([g.flatten() for g in gs[1:]]) for gs in (found, expected))
    assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_fresh_adapters_depend_on_the_seed_and_nothing_else(make_toys):
    toys = make_toys("lora")
    specs, size = {"policy": RoleSpec(trained=True)}, {"vocab_size": 47}
    weights = []
    for seed in (1, 1, 2):
        roles = adapter_roles(toys.base, LoraShape(3, 6), specs, {}, seed=seed, **size)
        weights.append(torch.cat([p.flatten() for p in roles["policy"].trained_parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_adapter_on_the_embeddings_trains_and_comes_back_like_the_others(
    make_toys, sequences, tmp_path
):
    toys, shape = make_toys("lora"), LoraShape(3, 6, ("embed_tokens", "q_proj"))
    specs = {"policy": RoleSpec(trained=True), "reference": RoleSpec()}
    size = {"vocab_size": 47, "seed": 0}
    roles = adapter_roles(toys.base, shape, specs, {}, **size)
    trained = roles["policy"].trained_parameters()
    assert len(trained) == 6  # two matrices for the embeddings, two for each of two layers
    names = adapters(roles).language_model.named_parameters()
    (drawn,) = [p for n, p in names if n.endswith("lora_embedding_B.policy")]
    assert 0.07 < drawn.std() < 0.14  # as a linear layer of 32 inputs: 96 ** -0.5
    fresh = roles["reference"](sequences)
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.1
    roles["reference"](sequences)  # a switch away, which freezes
    moved = roles["policy"](sequences)
    moved.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-4 for p in trained)
    assert torch.equal(roles["reference"](sequences), fresh)
    assert (moved - fresh).abs().max() > 1e-2
    save_role(roles["policy"], toys.codec, tmp_path)
    start = {"policy": StartingPoint(str(tmp_path))}
    again = adapter_roles(toys.base, shape, {"policy": RoleSpec("policy")}, start, **size)
    assert torch.equal(again["policy"](sequences), moved)


def test_target_modules_that_match_nothing_are_refused(make_toys):
    language_model = make_toys("lora").base.load(vocab_size=47, seed=0)
    fresh = AdapterSet(language_model, LoraShape(3, 6, ("query", "key")))
    with pytest.raises(UserError, match=r"model\.lora\.target_modules=\('query', 'key'\)"):
        fresh.add("policy", trained=True)


@pytest.mark.parametrize(
    "shape",
    [LoraShape(4, 8), LoraShape(3, 6, ("q_proj",)), LoraShape(3, 6, ("q_proj", "embed_tokens"))],
    ids=["other rank", "fewer layers", "other layers"],
)
def test_an_adapter_of_another_shape_is_refused(make_toys, shape):
    toys = make_toys("lora")
    specs = {"policy": PPO.roles["policy"]}
    with pytest.raises(UserError, match="'policy' does not fit model.lora"):
        adapter_roles(toys.base, shape, specs, toys.starts, vocab_size=47, seed=0)


def test_an_adapter_with_more_layers_wanted_than_saved_is_refused(make_toys):
    toys = make_toys("lora")
    weights, _ = load_adapter(Path(toys.starts["policy"].folder))
    weights = {name: tensor for name, tensor in weights.items() if "down_proj" not in name}
    fresh = AdapterSet(toys.base.load(vocab_size=47, seed=0), LoraShape(3, 6))
    with pytest.raises(UserError, match="down_proj"):
        fresh.add("policy", trained=True, weights=weights)


def test_a_folder_without_an_adapter_is_refused(make_toys):
    toys = make_toys("lora")
    starts = {"policy": StartingPoint(toys.base.source)}
    specs = {"policy": PPO.roles["policy"]}
    with pytest.raises(UserError, match="holds no adapter"):
        adapter_roles(toys.base, LoraShape(3, 6), specs, starts, vocab_size=47, seed=0)
