"""A run that stops and goes on, against one that was never stopped: the same to the last bit."""

import errno
import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hydralign import build, config
from hydralign.callbacks.checkpoints import CHECKPOINT, WholeFile, read_checkpoint
from hydralign.data.loaders import TrainLoader
from hydralign.errors import UserError
from hydralign.explain import explain
from hydralign.micro_batches import MicroBatches
from hydralign.record import RECORD, newest_unfinished, read_record, write_record
from hydralign.run import run

CONF = Path(__file__).parents[1] / "conf"
SHARED = [
    *("data=jsonl", "data.template=plain", "data.max_response_tokens=6", "samples_every=2"),
    "data.splits={train: 0.6, validation: 0.2, test: 0.2}",
    *("checkpoint_minutes=0", "hardware.train_micro_batch_size=2", "report=false"),
]
STAGES = ("sft", "reward", "ppo")
CHAIN = [
    "stage=rlhf",
    *("stage.sft.steps=11", "stage.sft.batch_size=4", "stage.sft.warmup_steps=2"),
    *("stage.reward.steps=11", "stage.reward.batch_size=2", "stage.reward.warmup_steps=2"),
    *("stage.ppo.rollouts=5", "stage.ppo.value_warmup_rollouts=1", "stage.ppo.warmup_rollouts=2"),
    *("stage.ppo.rollout_batch_size=4", "stage.ppo.minibatch_size=2", "stage.ppo.ppo_epochs=2"),
    "stage.ppo.target_kl_per_sequence=0.01",
]
GROUPS = ["rollouts=5", "rollout_batch_size=2", "group_size=2", "minibatch_size=2"]
OF_THE_MACHINE = ("seconds", "memory_gb", "_per_second")


class Killed(Exception):
    pass


def composed(*overrides):
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*SHARED, *overrides])


def kind_of(kind, tiny_llama, rows):
    base = ["model=llama7b_lora", f"model.source={tiny_llama}", "model.quantization=none"]
    narrow = {"lora": ["model.dtype=float32"], "own": ["model.dtype=float32", "model.lora=null"]}
    return [*base, *narrow[kind], f"data.path={rows}", *CHAIN]


def weights(folder):
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("artifact/*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def figures(folder):
    found = json.loads((folder / "metrics.json").read_text())
    return {k: v for k, v in found.items() if not k.endswith(OF_THE_MACHINE)}


def logged(folder):
    """Everything that TensorBoard shows, step by step."""
    found = {}
    for stage in STAGES:
        events = EventAccumulator(str(folder / stage), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.endswith(OF_THE_MACHINE):
                # Sorted: files of the same second are not read in the order in which they began.
                found[stage, tag] = sorted(
                    (event.step, event.value) for event in events.Scalars(tag)
                )
        for tag in events.Tags()["tensors"]:
            told = events.Tensors(tag)
            found[stage, tag] = sorted((e.step, e.tensor_proto.string_val[0]) for e in told)
    return found


@pytest.fixture(scope="module", params=["lora", "own"])
def uninterrupted(request, tiny_llama, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    chosen = kind_of(request.param, tiny_llama, rows)
    run(composed(*chosen), folder)
    return folder, chosen


def stop_at(monkeypatch, stops):
    """Raise after some checkpoints and before some others, counted over all attempts."""
    saves = []

    def counted(self, checkpoint, path, storage_options=None):
        saves.append(path)
        if -len(saves) in stops:
            raise Killed  # the step since the last checkpoint is lost
        save(self, checkpoint, path)
        if len(saves) in stops:
            raise Killed

    save = WholeFile.save_checkpoint
    monkeypatch.setattr(WholeFile, "save_checkpoint", counted)
    return saves


def stopped(monkeypatch, stops, folder, *chosen):
    """Run until it is stopped."""
    with monkeypatch.context() as patch:
        stop_at(patch, stops)
        with pytest.raises(Killed):
            run(composed(*chosen), folder)


@pytest.mark.parametrize(
    "stops",
    [
        # 10 checkpoints in sft and in reward, 4 in ppo, and one more for each that was lost.
        (1, 9, 13, 19, 21, 23),
        (-2, -3, 5, -13, 16, -18, -19, 26, 27, -29),
    ],
)
def test_a_chain_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    uninterrupted, stops, tmp_path, monkeypatch
):
    folder, chosen = uninterrupted
    saves = stop_at(monkeypatch, stops)
    attempts = 0
    while True:
        attempts += 1
        try:
            run(composed(*chosen), tmp_path)
        except Killed:
            torch.manual_seed(attempts)  # whatever another process would start with
        else:
            break
    assert attempts == len(stops) + 1
    assert len(saves) == 24 + sum(stop < 0 for stop in stops)
    ours, theirs = weights(tmp_path), weights(folder)
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 30
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert figures(tmp_path) == figures(folder)
    found, expected = logged(tmp_path), logged(folder)
    assert [
        (tag, found.get(tag), told) for tag, told in expected.items() if found[tag] != told
    ] == []
    assert found.keys() == expected.keys()
    assert len(expected) > 35
    assert [path.name for path in tmp_path.rglob("*") if "ckpt" in path.name] == []


def test_a_checkpoint_holds_what_trains_and_no_code(uninterrupted, tmp_path, monkeypatch):
    folder, chosen = uninterrupted
    stopped(monkeypatch, (22,), tmp_path, *chosen)
    checkpoint = read_checkpoint(tmp_path / "ppo" / CHECKPOINT)  # with weights_only
    assert checkpoint["stage"].keys() == {
        *("kl_coef", "rollout_step", "generator", "shuffle", "alarms")
    }
    assert checkpoint["stage"]["rollout_step"] == 2
    assert checkpoint["stage"]["alarms"]["rollouts"] == 2
    assert checkpoint["context"] == {"sizes": [(2, 2), (128, 128), (128, 128)], "skipped": 0}
    adapters = "model.lora=null" not in chosen
    assert adapters == all(
        "lora" in n or n.endswith("head.weight") for n in checkpoint["state_dict"]
    )
    assert not [n for n in checkpoint["state_dict"] if ".reference." in n or ".reward_model." in n]
    assert checkpoint["random"]["cuda"] == []


def test_a_run_with_other_settings_is_told_what_changed(uninterrupted, tmp_path, monkeypatch):
    _, chosen = uninterrupted
    stopped(monkeypatch, (2,), tmp_path, *chosen)
    changed = [*chosen, "stage.sft.learning_rate=0.5", "seed=3"]
    with pytest.raises(
        UserError, match=r"Changed: seed was 0, is 3, stage.sft.learning_rate was .* 0.5"
    ):
        run(composed(*changed), tmp_path)
    stopped(monkeypatch, (1,), tmp_path, *changed, "resume_anyway=true")
    assert read_record(tmp_path / "sft")["settings"]["seed"] == 3


def test_a_finished_chain_leaves_neither_handlers_nor_networks(
    uninterrupted, tmp_path, monkeypatch
):
    _, chosen = uninterrupted
    stages = []

    def remembering(*arguments):
        pieces = build_pieces(*arguments)
        stages.append(weakref.ref(pieces.stage))
        return pieces

    build_pieces = build.build_pieces
    monkeypatch.setattr(build, "build_pieces", remembering)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(composed(*chosen), tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert [stage() for stage in stages] == [None] * 3


def test_the_folder_of_a_run_at_work_is_left_alone(uninterrupted, tmp_path):
    _, chosen = uninterrupted
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        write_record(tmp_path, composed(*chosen), {}, unfinished=True)
        said = json.loads((tmp_path / RECORD).read_text())
        (tmp_path / RECORD).write_text(json.dumps(said | {"process": other.pid}))
        with pytest.raises(UserError, match=rf"at work \(process {other.pid}\)"):
            run(composed(*chosen), tmp_path)
        with pytest.raises(UserError, match="resume=auto: no run"):
            newest_unfinished(tmp_path, composed(*chosen))
    finally:
        other.kill()
        other.wait()
    assert newest_unfinished(tmp_path, composed(*chosen)) == tmp_path


def test_a_damaged_checkpoint_is_refused(uninterrupted, tmp_path, monkeypatch):
    _, chosen = uninterrupted
    stopped(monkeypatch, (1,), tmp_path, *chosen)
    path = tmp_path / "sft" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is no checkpoint that can be read.*Delete it"):
        run(composed(*chosen), tmp_path)


def test_a_disk_that_fills_up_stops_the_run_and_costs_nothing(uninterrupted, tmp_path, monkeypatch):
    folder, chosen = uninterrupted
    save, saves = torch.save, []

    def filling_up(checkpoint, file):
        saves.append(file)
        if len(saves) == 15:  # the fifth of the second stage
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(checkpoint, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", filling_up)
        with pytest.raises(OSError, match="No space left") as full:
            run(composed(*chosen), tmp_path)
    assert "the disk is full. Free some space" in explain(full.value)
    assert [path.name for path in tmp_path.rglob("*.ckpt*")] == [CHECKPOINT]
    assert read_checkpoint(tmp_path / "reward" / CHECKPOINT)["global_step"] == 4
    run(composed(*chosen), tmp_path)
    assert figures(tmp_path) == figures(folder)


def test_what_was_halved_stays_so_after_a_stop(uninterrupted, tmp_path, monkeypatch):
    folder, chosen = uninterrupted
    with monkeypatch.context() as patch:
        attempt = MicroBatches.run

        def short_of_memory(self, function, most=None):
            if self.setting.endswith("train_micro_batch_size") and self.size > 1:
                self._halve(self.size, "CUDA out of memory")
            return attempt(self, function, most)

        patch.setattr(MicroBatches, "run", short_of_memory)
        stopped(monkeypatch, (3,), tmp_path, *chosen)
    assert read_checkpoint(tmp_path / "sft" / CHECKPOINT)["context"]["sizes"][0] == (2, 1)
    run(composed(*chosen), tmp_path)
    for stage, size in (("sft", 1), ("reward", 3), ("ppo", 2)):  # rows; a comparison has three
        fitting = read_record(tmp_path / stage)["fitting"]
        assert f"hardware.train_micro_batch_size={size}" in fitting
    for name, value in figures(folder).items():
        if name.startswith("sft"):
            assert figures(tmp_path)[name] == pytest.approx(value, rel=1e-4), name


def test_a_run_goes_on_with_the_data_that_it_began_with(uninterrupted, tmp_path, monkeypatch):
    _, chosen = uninterrupted
    stopped(monkeypatch, (1,), tmp_path, *chosen)
    record = tmp_path / "sft" / RECORD
    said = json.loads(record.read_text())
    assert len(said["data"]) == 64
    record.write_text(json.dumps(said | {"data": "0" * 64}))  # as if the hub had other rows now
    with pytest.raises(UserError, match="Changed: the examples that its data set gives"):
        run(composed(*chosen), tmp_path)


@pytest.mark.parametrize("stage", ["dpo", "grpo", "rloo"])
def test_other_stages_go_on_too(uninterrupted, tmp_path, monkeypatch, stage):
    folder, chosen = uninterrupted
    groups = [*GROUPS, "warmup_rollouts=1", f"reward_model={folder}/reward/artifact"]
    sizes = ["steps=5", "batch_size=2", "warmup_steps=1"] if stage == "dpo" else groups
    alone = [x for x in chosen if not x.startswith("stage")] + [f"stage={stage}"]
    alone += [f"stage.{each}" for each in (f"policy={folder}/sft/artifact", *sizes)]
    run(composed(*alone), tmp_path / "whole")
    stopped(monkeypatch, (2,), tmp_path / "cut", *alone)
    run(composed(*alone), tmp_path / "cut")
    torch.testing.assert_close(*(weights(tmp_path / x) for x in ("cut", "whole")), rtol=0, atol=0)
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


def test_what_was_built_before_a_stop_is_no_training(rows, tiny_llama, tmp_path, monkeypatch):
    alone = [x for x in kind_of("lora", tiny_llama, rows) if not x.startswith("stage")]
    alone += ["stage=sft", "stage.steps=3", "stage.batch_size=4", "stage.warmup_steps=1"]
    stopped(monkeypatch, (1,), tmp_path, *alone)
    checkpoint = torch.load(tmp_path / CHECKPOINT)
    assert 0 < checkpoint["built"] < checkpoint["seconds"]
    torch.save({**checkpoint, "built": 1000.0, "seconds": 1500.0}, tmp_path / CHECKPOINT)
    run(composed(*alone), tmp_path)
    seconds = read_record(tmp_path)["seconds"]
    assert 1000 < seconds["build"] < 1200
    assert 500 < seconds["train"] < 700
    assert figures(tmp_path).keys() >= {"sft/val_nll"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_saves_first(
    uninterrupted, tmp_path, monkeypatch, number, capsys
):
    folder, chosen = uninterrupted
    handed_out = TrainLoader.__iter__

    def interrupting(self):
        for index, batch in enumerate(handed_out(self)):
            if index == 2:  # within the third step
                os.kill(os.getpid(), number)
            yield batch

    later = ["checkpoint_minutes=60"]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoader, "__iter__", interrupting)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(composed(*chosen, *later), tmp_path)
    assert "Stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    checkpoint = read_checkpoint(tmp_path / "sft" / CHECKPOINT)
    assert checkpoint["global_step"] == 3
    run(composed(*chosen, *later), tmp_path)
    assert figures(tmp_path) == figures(folder)


def test_the_newest_unfinished_run_with_the_same_settings_is_found(
    uninterrupted, tmp_path, monkeypatch
):
    _, chosen = uninterrupted
    stop_at(monkeypatch, (1, 2, 3))
    for name in ("older", "newer", "other"):
        other = ["seed=1"] if name == "other" else []
        with pytest.raises(Killed):
            run(composed(*chosen, *other), tmp_path / name)
        (tmp_path / name / RECORD).touch()
    found = newest_unfinished(tmp_path, composed(*chosen, "hardware.logits_mb=1"))
    assert found == tmp_path / "newer"
    run(composed(*chosen), tmp_path / "newer")
    assert newest_unfinished(tmp_path, composed(*chosen)) == tmp_path / "older"
    with pytest.raises(UserError, match=r"resume=auto: no run under"):
        newest_unfinished(tmp_path, composed(*chosen, "seed=5"))
