"""Plans against bytes counted by hand, and against networks that are really there."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from hydralign.models.adapters import LoraShape
from hydralign.models.assembly import RoleSpec, adapter_roles, suit_machine
from hydralign.models.loading import BaseModel, config_of
from hydralign.models.quantization import Quantization
from hydralign.planning import plan as planning
from hydralign.planning.dry_run import Phase, Workload
from hydralign.planning.fake_roles import FakeBase
from hydralign.planning.plan import MemoryPlan, plan_memory
from hydralign.stages.ppo import PPO
from hydralign.stages.reward import Reward
from hydralign.stages.sft import SFT

D, FF, LAYERS, HEADS, KV_HEADS, VOCAB, RANK = 64, 96, 6, 4, 2, 1000, 8
LLAMA = {"model_type": "llama", "hidden_size": D, "intermediate_size": FF, "vocab_size": VOCAB}
LLAMA |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
LLAMA |= {"num_key_value_heads": KV_HEADS}
KV = D // HEADS * KV_HEADS  # what keys and values take of a token
LINEAR = LAYERS * (2 * D * D + 2 * D * KV + 3 * D * FF)
REST = 2 * VOCAB * D + (2 * LAYERS + 1) * D  # embeddings, LM head, norms
INS_AND_OUTS = LAYERS * (2 * (D + D) + 2 * (D + KV) + 3 * (D + FF))
ADAPTER = RANK * INS_AND_OUTS
SHAPE = LoraShape(RANK, 16)
WORK = Workload(
    prompt_tokens=20,
    response_tokens=12,
    sampled_tokens=12,
    rows_per_example=1,
    train_rows=4,
    score_rows=6,
    generation_rows=5,
    accumulates=True,
    mixed=False,
    checkpoints=False,
    logits_mb=None,
    attention=None,
    broken_below=0,
    optimizer="adamw",
)
"""With numbers that hide no mistake behind a product that happens to be equal."""


def base(dtype=torch.float32, kind=None):
    quantization = Quantization(kind, dtype) if kind else None
    return FakeBase(config_of(LLAMA), dtype, quantization)


def plan_of(stage=PPO, work=WORK, shape=SHAPE, **of_base):
    return plan_memory(base(**of_base), shape, stage.roles, work)


def phase(plan, name):
    return next(phase for phase in plan.phases if phase.name == name)


def test_the_phases_of_ppo():
    names = [phase.name for phase in plan_of().phases]
    assert names == [
        "sample: read the prompts",
        "sample: write the last tokens",
        "score: value_model",
        "score: policy",
        "train: policy",
        "train: value_model",
    ]
    assert [p.name for p in plan_of(SFT).phases if p.kind == "train"] == ["train: policy"]
    assert [p.name for p in plan_of(Reward).phases if p.kind == "train"] == ["train: reward_model"]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_weights_adapters_and_averages_by_hand(dtype, size):
    heads = 2 * D  # of value model and reward model
    frequencies = 2 * D // HEADS // 2 * 4  # rotary embeddings keep them twice, in fp32
    for found in plan_of(dtype=dtype).phases:
        assert found.bytes["weights"] == (LINEAR + REST) * size + frequencies
        normalisation = 2 * 2 * 4
        trained, frozen = 2 * 4 * ADAPTER, 2 * size * ADAPTER
        assert found.bytes["adapters"] == trained + frozen + 4 * heads + normalisation
        assert found.bytes["optimizer"] == 8 * (2 * ADAPTER + D)


def test_full_fine_tuning_owns_a_network_for_each_role():
    trained = LINEAR + REST
    found = phase(plan_of(shape=None), "train: policy").bytes
    assert found["weights"] == pytest.approx(4 * 4 * trained, rel=1e-3)  # 4 roles, 4 bytes
    assert found["optimizer"] == pytest.approx(8 * 2 * trained, rel=1e-3)
    assert found["gradients"] == 4 * trained


def test_the_cache_holds_keys_and_values_of_all_tokens_but_the_last():
    tokens = WORK.generation_rows * (WORK.prompt_tokens + WORK.sampled_tokens)
    found = phase(plan_of(), "sample: write the last tokens").bytes["KV cache"]
    layer = 2 * KV * 4 * tokens
    # The layers take the last token in one after the other; keys just made have no name yet.
    assert (LAYERS - 1) * layer <= found <= LAYERS * layer


def test_gradients_of_the_micro_batch_before_are_there_all_the_time():
    assert phase(plan_of(), "train: policy").bytes["gradients"] == 4 * ADAPTER
    assert phase(plan_of(), "train: value_model").bytes["gradients"] == 4 * (ADAPTER + D)
    alone = phase(plan_of(work=replace(WORK, accumulates=False)), "train: policy")
    assert alone.bytes["gradients"] < 4 * ADAPTER


@pytest.mark.parametrize(
    ("kind", "mixed", "checkpoints"),
    [(None, False, False), (None, True, False), ("nf4", True, True), ("int8", False, True)],
)
def test_two_and_three_layers_tell_what_six_take(monkeypatch, kind, mixed, checkpoints):
    work = replace(WORK, mixed=mixed, checkpoints=checkpoints, logits_mb=0.064)
    told = plan_of(work=work, dtype=torch.bfloat16, kind=kind)
    monkeypatch.setattr(planning, "FEW_LAYERS", (LAYERS + 1,))
    counted = plan_of(work=work, dtype=torch.bfloat16, kind=kind)
    for a, b in zip(told.phases, counted.phases, strict=True):
        assert a.name == b.name
        assert a.total == pytest.approx(b.total, rel=1e-3)


def test_the_same_where_all_weights_train_and_gradients_come_last(monkeypatch):
    work = replace(WORK, accumulates=False, checkpoints=True)
    told = plan_of(SFT, work=work, shape=None)
    monkeypatch.setattr(planning, "FEW_LAYERS", (LAYERS + 1,))
    counted = plan_of(SFT, work=work, shape=None)
    for a, b in zip(told.phases, counted.phases, strict=True):
        assert a.total == pytest.approx(b.total, rel=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_weights_take_what_those_of_bitsandbytes_take(kind):
    bits = Quantization(kind, torch.float32)
    model = BaseModel(None, LLAMA, torch.float32, bits).load(VOCAB, seed=0)
    size = sum(p.untyped_storage().nbytes() for p in model.parameters())
    for module in model.modules():
        if kind == "nf4" and hasattr(module, "quant_state"):
            state = module.quant_state
            size += state.absmax.numel() + 4 * state.state2.absmax.numel()
        elif hasattr(module, "scale"):
            size += 2 * module.scale.untyped_storage().nbytes()  # theirs and ours
    found = phase(plan_of(kind=kind), "train: policy").bytes["weights"]
    assert found == pytest.approx(size, rel=2e-3)


def test_checkpointing_keeps_one_input_for_each_layer():
    work = replace(WORK, logits_mb=0)
    kept = {
        checkpoints: phase(
            plan_of(work=replace(work, checkpoints=checkpoints)), "train: policy"
        ).bytes["activations"]
        for checkpoints in (False, True)
    }
    hidden = WORK.train_rows * (WORK.prompt_tokens + WORK.response_tokens) * D * 4
    assert LAYERS * hidden < kept[True] < kept[False] / 2


def test_chunks_bound_the_logits():
    tokens = WORK.score_rows * WORK.response_tokens
    whole = phase(plan_of(), "score: policy").bytes["logits"]
    assert whole >= 2 * tokens * VOCAB * 4
    cut = phase(plan_of(work=replace(WORK, logits_mb=0.012)), "score: policy").bytes["logits"]
    assert cut <= whole * 3 / tokens


def test_the_mix_computes_in_two_bytes():
    wide, mixed = (
        phase(plan_of(work=replace(WORK, mixed=mixed, logits_mb=0)), "train: policy").bytes[
            "activations"
        ]
        for mixed in (False, True)
    )
    assert 0.5 < mixed / wide < 0.9  # norms and the residual stream stay wide


@pytest.mark.parametrize("name", ["policy", "value_model", "reward_model"])
@pytest.mark.parametrize("attention", [None, "grouped"])
def test_a_plan_of_the_real_passes_is_what_they_take(attention, name):
    """The same passes on tensors that are really there, counted by the allocator's own hooks."""
    specs = {name: RoleSpec(trained=True, scalar=name != "policy", new_head=True)}
    base_model = BaseModel(None, LLAMA, torch.float32)
    roles = adapter_roles(base_model, SHAPE, specs, {}, vocab_size=VOCAB, seed=0)
    suit_machine(roles, checkpoints=False, logits_mb=WORK.logits_mb, attention=attention)
    role, sequences = roles[name], WORK.sequences(WORK.train_rows)
    told = {"policy": "forward", "value_model": "values", "reward_model": "scores"}
    said = getattr(role, told[name])
    said(sequences).sum().backward()  # the gradients are there from now on
    highest = highest_level(lambda: said(sequences).sum().backward())
    work = replace(WORK, attention=attention)
    found = phase(plan_memory(base(), SHAPE, specs, work), f"train: {name}").bytes
    assert found["activations"] + found["logits"] == pytest.approx(highest, rel=0.005)


def highest_level(passes):
    with torch.profiler.profile(profile_memory=True) as profile:
        passes()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        highest = max(highest, level)
    return highest


def test_what_fits_and_what_is_shown():
    small, large = Counter(weights=10**9), Counter({"weights": 10**9, "KV cache": 7 * 10**9})
    plan = MemoryPlan((Phase("score: policy", small), Phase("sample: read the prompts", large)))
    assert plan.summary() == "8.00 GB (sample: read the prompts)"
    # 8 GiB are 8.59 GB, of which 0.7 are left alone.
    assert not plan.fits(8)
    assert plan.fits(12)
    assert plan.table() == [
        ["phase", "weights", "KV cache", "GB in all"],
        ["score: policy", "1.00", "0.00", "1.00"],
        ["sample: read the prompts", "1.00", "7.00", "8.00"],
    ]
    assert MemoryPlan.from_json(plan.as_json()) == plan
    assert plan.plus("process", 10**9).peak_gb == 9


def test_shapes_in_the_models_are_those_of_the_published_weights():
    """Parameters as the model cards count them."""
    counts = {"llama7b": 6_738_415_616, "smollm2_135m": 134_515_008, "gpt2": 124_439_808}
    counts |= {"mistral7b_lora": 7_248_023_552, "llama3.1_8b_lora": 8_030_261_248}
    counts |= {"qwen2.5_7b_lora": 7_615_616_512, "qwen2.5_0.5b_lora": 494_032_768}
    counts |= {"llama3.2_1b_lora": 1_235_814_400}
    for name, count in counts.items():
        config = config_of(OmegaConf.load(f"conf/model/{name}.yaml").architecture)
        with torch.device("meta"):
            model = FakeBase(config, torch.bfloat16).load(0, 0)
        assert sum(p.numel() for p in model.parameters()) == count, name
