"""Whole runs through `run`, as `train.py` starts them, on a model and a file made here."""

import json
import re
import shutil
from pathlib import Path

import bitsandbytes as bnb
import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from hydralign import build, config
from hydralign.artifacts import Manifest
from hydralign.data import sources
from hydralign.data_source import DataSource
from hydralign.errors import UserError
from hydralign.run import run
from hydralign.stages.pairs import HeldOutPairs
from hydralign.stages.sft import SFT

CONF = Path(__file__).parents[1] / "conf"
CHAIN = [
    "stage=rlhf",
    "data=jsonl",
    "data.template=plain",
    "data.splits={train: 0.6, validation: 0.2, test: 0.2}",
    "data.max_response_tokens=6",
    "stage.sft.steps=2",
    "stage.sft.batch_size=4",
    "stage.reward.steps=2",
    "stage.reward.batch_size=2",
    "stage.ppo.rollouts=3",
    "stage.ppo.value_warmup_rollouts=1",
    "stage.ppo.rollout_batch_size=4",
    "stage.ppo.minibatch_size=2",
    "stage.ppo.ppo_epochs=2",
]


def composed(*overrides):
    """Return the config of a command line."""
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["report=false", *overrides])


WITH_SOURCE = [path.stem for path in CONF.glob("model/*.yaml") if path.stem != "tiny"]


def test_the_models_that_start_from_others_are_all_here():
    assert len(WITH_SOURCE) == 12  # ten of the hub, two on tiny


@pytest.mark.parametrize("model", WITH_SOURCE)
def test_the_chain_runs_on_every_model_that_has_a_source_with_a_small_one_in_its_place(
    model, tiny_llama, rows, tmp_path
):
    # Their own tokenizers know other stop tokens than the stand-in's.
    stand_in = [f"model={model}", f"model.source={tiny_llama}", "model.stop_tokens=[]"]
    cfg = composed(*stand_in, f"data.path={rows}", *CHAIN)
    headline = run(cfg, tmp_path)
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert headline == figures["ppo/win_rate"]
    assert {name.split("/")[0] for name in figures} == {"sft", "reward", "ppo"}
    is_adapter = (tmp_path / "ppo/artifact/adapter_model.safetensors").is_file()
    assert is_adapter == ("lora" in model)
    assert (tmp_path / "ppo/samples.md").read_text().startswith("| prompt | before |")
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_chain_started_again_in_its_folder_does_not_redo_what_is_done(
    tiny_llama, rows, tmp_path, caplog
):
    overrides = ["model=llama7b_lora", f"model.source={tiny_llama}", f"data.path={rows}", *CHAIN]
    run(composed(*overrides), tmp_path)
    first = {s: Manifest.read(tmp_path / s / "artifact").id for s in ("sft", "reward", "ppo")}
    run(composed(*overrides, "stage.ppo.kl_coef=0.2"), tmp_path)
    again = {s: Manifest.read(tmp_path / s / "artifact").id for s in ("sft", "reward", "ppo")}
    assert (again["sft"], again["reward"]) == (first["sft"], first["reward"])
    assert again["ppo"] != first["ppo"]


SPARING = [
    "hardware.precision=bf16-mixed",
    "hardware.gradient_checkpointing=true",
    "hardware.logits_mb=0.004",
    "hardware.optimizer=adamw_8bit",
    "hardware.train_micro_batch_size=2",
]


def test_what_hardware_says_about_memory_reaches_the_networks(
    tiny_llama, rows, tmp_path, monkeypatch
):
    modules = []

    def remembering(*arguments):
        pieces = build_pieces(*arguments)
        modules.append(pieces.stage)
        return pieces

    build_pieces = build.build_pieces
    monkeypatch.setattr(build, "build_pieces", remembering)
    model = ["model=llama7b_lora", f"model.source={tiny_llama}"]
    run(composed(*model, f"data.path={rows}", *CHAIN, *SPARING), tmp_path)
    assert len(modules) == 3
    for stage in modules:
        roles = [getattr(stage, name) for name in stage.roles]
        assert {role.network.checkpoints for role in roles} == {True}
        assert {role.chunk_size for role in roles if hasattr(role, "chunk_size")} == {3}
        optimizers = stage.trainer.optimizers
        assert {type(optimizer) for optimizer in optimizers} == {bnb.optim.AdamW8bit}


@pytest.fixture(scope="module")
def chain(tiny_llama, rows, tmp_path_factory):
    """A finished chain, and the overrides that choose its model and data."""
    folder = tmp_path_factory.mktemp("chain")
    chosen = ["model=llama7b_lora", "model.quantization=none", f"model.source={tiny_llama}"]
    run(composed(*chosen, "model.dtype=float32", f"data.path={rows}", *CHAIN), folder)
    return folder, [*chosen, "model.dtype=float32", f"data.path={rows}"]


class Gradients(L.Callback):
    """Keeps what every optimizer step is given."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, stage, optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.steps.append(torch.cat([p.grad.flatten() for p in parameters]))


def gradients_under(preset, stage, chain, tmp_path):
    """The gradients of a stage's optimizer steps on the hardware of a card, but for the card."""
    folder, chosen = chain
    machine = [f"hardware={preset}", "hardware.accelerator=cpu", "hardware.precision=32-true"]
    # One generator draws for all prompts of a batch, so other batches would draw other responses.
    machine += ["hardware.generation_batch_size=16", "hardware.logits_mb=0.004"]
    groups = ["stage.rollouts=2", "stage.rollout_batch_size=8", "stage.group_size=2"]
    groups += ["stage.minibatch_size=8", "stage.epochs=1", "stage.warmup_rollouts=0"]
    sizes = {
        "sft": ["stage.steps=3", "stage.batch_size=16"],
        "reward": ["stage.steps=3", "stage.batch_size=8"],
        "ppo": ["stage.rollouts=2", "stage.rollout_batch_size=16", "stage.minibatch_size=8"]
        + ["stage.ppo_epochs=1", "stage.warmup_rollouts=0", "stage.value_warmup_rollouts=0"],
        "grpo": groups,
        "rloo": groups,
    }[stage]
    data = [override for override in CHAIN if override.startswith("data")]
    cfg = composed(f"stage={stage}", *data, *chosen, *machine, *sizes)
    made = {"policy": folder / "sft/artifact", "reward_model": folder / "reward/artifact"}
    kind, settings = build.stage_class(cfg)
    inputs = {name: made[name] for name in kind.inputs}
    source = DataSource(cfg.data)
    pieces = build.build_pieces(cfg, source, kind, settings, inputs, tmp_path / preset, "")
    kept = Gradients()
    pieces.trainer.callbacks.append(kept)
    pieces.trainer.fit(pieces.stage, pieces.data)
    return kept.steps


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "grpo", "rloo"])
def test_from_card_to_card_the_gradients_are_the_same(stage, chain, tmp_path):
    small, large = (
        gradients_under(preset, stage, chain, tmp_path) for preset in ("gpu_8gb", "gpu_24gb")
    )
    assert len(small) == len(large) >= 3
    for ours, theirs in zip(small, large, strict=True):
        assert theirs.abs().max() > 0
        assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())


def test_a_run_says_what_it_plans_and_what_it_took(chain):
    folder, _ = chain
    figures = json.loads((folder / "metrics.json").read_text())
    for stage in ("sft", "reward", "ppo"):
        plan = json.loads((folder / stage / "plan.json").read_text())
        assert figures[f"{stage}/planned_memory_gb"] == plan["peak_gb"]
        assert 0.5 < plan["peak_gb"] / figures[f"{stage}/peak_memory_gb"] < 1.5


def test_a_run_that_cannot_fit_ends_before_anything_is_loaded(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "build_roles", None)
    _, chosen = chain
    data = [override for override in CHAIN if override.startswith("data")]
    with pytest.raises(UserError, match=r"hardware\.memory_gb"):
        run(composed("stage=sft", *data, *chosen, "hardware.memory_gb=0.01"), tmp_path)
    assert not (tmp_path / "artifact").exists()


def test_a_chain_reads_its_file_once(tiny_llama, rows, tmp_path, monkeypatch):
    read = []

    def counted(file):
        read.append(file)
        return read_jsonl(file)

    read_jsonl = sources.READERS[".jsonl"]
    monkeypatch.setitem(sources.READERS, ".jsonl", counted)
    model = ["model=llama7b_lora", f"model.source={tiny_llama}"]
    run(composed(*model, f"data.path={rows}", *CHAIN), tmp_path)
    assert read == [rows]


def test_sft_watches_prompts_of_its_own_records_where_the_data_offers_no_others(
    tiny_llama, rows, tmp_path
):
    model = ["model=llama7b_lora", f"model.source={tiny_llama}", f"data.path={rows}"]
    shape = [*CHAIN[1:5], "~data.records.prompt", "stage.steps=1", "stage.batch_size=4"]
    run(composed("stage=sft", *model, *shape), tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    table = events.Tensors("rollout/samples/text_summary")[0].tensor_proto.string_val[0].decode()
    assert re.match(r"\| prompt \| response \| score \|\n.*\n\| a \w+ and \w+ \|", table)


def test_a_debug_run_goes_through_quickly_and_apart(tiny_llama, rows, tmp_path):
    model = ["model=llama7b_lora", f"model.source={tiny_llama}", f"data.path={rows}"]
    small = [
        override for override in CHAIN if not re.match(r"stage\.\w+\.(steps|rollouts)", override)
    ]
    outputs = f"outputs={tmp_path}"
    run(composed("debug=fast", *model, *small, outputs), tmp_path / "run")
    points = EventAccumulator(str(tmp_path / "run/ppo")).Reload().Scalars("reward/score")
    assert [point.step for point in points] == [1, 2, 3, 4, 5]  # of 75
    alone = ["stage=reward", *CHAIN[1:5], *model, outputs]
    with pytest.raises(UserError, match="stopped_after 5 instead of None"):
        run(composed(*alone), tmp_path / "alone")


def test_a_stage_alone_finds_the_newest_artifacts_that_fit(tiny_llama, rows, tmp_path, caplog):
    overrides = ["model=llama7b_lora", f"model.source={tiny_llama}", "data=jsonl"]
    overrides += [f"data.path={rows}"]
    overrides += [f"outputs={tmp_path}", "data.template=plain", "data.max_response_tokens=6"]
    overrides += ["data.splits={train: 0.6, validation: 0.2, test: 0.2}"]
    sft = ["stage=sft", "stage.steps=1", "stage.batch_size=4"]
    reward = ["stage=reward", "stage.steps=1", "stage.batch_size=2"]
    for name in ("old", "new"):
        run(composed(*overrides, *sft), tmp_path / name)
    caplog.set_level("INFO")
    run(composed(*overrides, *reward), tmp_path / "reward")
    assert f"stage.policy: took {tmp_path / 'new/artifact'}" in caplog.text
    newest = Manifest.read(tmp_path / "new/artifact").id
    assert Manifest.read(tmp_path / "reward/artifact").parents == {"policy": newest}


def test_a_run_that_diverges_stops_and_keeps_what_it_came_from(tiny_llama, rows, tmp_path):
    model = ["model=llama7b_lora", f"model.source={tiny_llama}", "model.quantization=none"]
    diverging = ["stage.sft.learning_rate=1e30", "stage.sft.warmup_steps=0", "stage.sft.steps=9"]
    chosen = [*model, f"data.path={rows}", *CHAIN, *diverging]
    evidence = tmp_path / "sft" / "bad_numbers.json"
    with pytest.raises(UserError, match=f"Not a finite number: .*loss.*\n.*: {evidence}$"):
        run(composed(*chosen), tmp_path)
    examples = json.loads(evidence.read_text())["examples"]
    assert len(examples) == 4  # one step
    assert all(example["response_ids"] for example in examples)
    assert not (tmp_path / "sft" / "artifact").exists()
    run(composed(*chosen[:-3], "stage.sft.warmup_steps=0"), tmp_path)
    assert not evidence.exists()


def test_an_artifact_that_was_changed_is_no_start(chain, tmp_path):
    folder, chosen = chain
    policy = tmp_path / "policy"
    shutil.copytree(folder / "sft" / "artifact", policy)
    weights = policy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    alone = [x for x in chosen if not x.startswith("stage")]
    with pytest.raises(UserError, match=r"adapter_model.safetensors is changed: it is not what"):
        run(composed("stage=reward", f"stage.policy={policy}", *alone), tmp_path / "run")


def test_dpo_starts_from_the_sft_run_and_leaves_a_policy_to_start_from(chain, tmp_path):
    folder, chosen = chain
    shared = [x for x in CHAIN if not x.startswith("stage")]
    small = ["stage.steps=3", "stage.batch_size=2", "stage.warmup_steps=0"]
    policy = f"stage.policy={folder}/sft/artifact"
    accuracy = run(composed("stage=dpo", policy, *small, *shared, *chosen), tmp_path / "dpo")
    assert 0 <= accuracy <= 1
    manifest = Manifest.read(tmp_path / "dpo/artifact")
    assert manifest.stage == "dpo"
    assert manifest.parents == {"policy": Manifest.read(folder / "sft/artifact").id}
    again = f"stage.policy={tmp_path}/dpo/artifact"
    assert run(composed("stage=dpo", again, *small, *shared, *chosen), tmp_path / "more") >= 0


@pytest.mark.parametrize("stage", ["grpo", "rloo"])
def test_groups_start_from_the_same_runs_as_ppo(chain, tmp_path, stage):
    folder, chosen = chain
    shared = [x for x in CHAIN if not x.startswith("stage")]
    small = ["stage.rollouts=2", "stage.rollout_batch_size=2", "stage.group_size=2"]
    small += ["stage.minibatch_size=2", "stage.warmup_rollouts=0"]
    made = {"policy": folder / "sft/artifact", "reward_model": folder / "reward/artifact"}
    starts = [f"stage.{name}={path}" for name, path in made.items()]
    win_rate = run(composed(f"stage={stage}", *starts, *small, *shared, *chosen), tmp_path)
    assert 0 <= win_rate <= 1
    assert json.loads((tmp_path / "metrics.json").read_text())[f"{stage}/win_rate"] == win_rate
    manifest = Manifest.read(tmp_path / "artifact")
    assert manifest.stage == stage
    assert manifest.parents == {name: Manifest.read(path).id for name, path in made.items()}
    assert (tmp_path / "samples.md").read_text().startswith("| prompt | before |")


def test_figures_that_are_no_numbers_are_no_result(chain, tmp_path, monkeypatch):
    folder, chosen = chain
    monkeypatch.setattr(HeldOutPairs, "accuracy", lambda self: float("nan"))
    shared = [x for x in CHAIN if not x.startswith("stage")]
    small = ["stage.steps=2", "stage.batch_size=2", "stage.warmup_steps=0"]
    alone = ["stage=reward", f"stage.policy={folder}/sft/artifact", *small, *shared, *chosen]
    with pytest.raises(UserError, match=r"Figures that are no finite numbers: reward/val_accuracy"):
        run(composed(*alone), tmp_path)
    found = json.loads((tmp_path / "bad_numbers.json").read_text(), parse_constant=pytest.fail)
    assert found["reward/val_accuracy"] == "nan"
    assert not (tmp_path / "artifact").exists()


def test_steps_that_were_left_out_are_told(chain, tmp_path, monkeypatch):
    _, chosen = chain
    backward, left = SFT.manual_backward, [1]

    def poisoned(self, loss):
        left[0] -= 1
        backward(self, loss * float("nan") if left[0] == 0 else loss)

    monkeypatch.setattr(SFT, "manual_backward", poisoned)
    shared = [x for x in CHAIN if not x.startswith("stage")]
    small = ["stage.steps=3", "stage.batch_size=4", "bad_steps_to_skip=1"]
    run(composed("stage=sft", *small, *shared, *chosen), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["sft/steps_left_out"] == 1.0
