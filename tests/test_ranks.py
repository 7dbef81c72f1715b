"""Two processes on a CPU (gloo) against one: the same figures, the same weights."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM

from hydralign.callbacks.checkpoints import CHECKPOINT
from hydralign.micro_batches import MicroBatches
from hydralign.models.tiny_tokenizer import trained_tokenizer
from hydralign.ranks import Ranks
from hydralign.rl.sequences import pad_sequences

ROOT = Path(__file__).parents[1]
RUN = [
    *("stage=rlhf", "data=jsonl", "data.template=plain", "hardware=cpu"),
    "data.splits={train: 0.6, validation: 0.2, test: 0.2}",
    *("data.max_response_tokens=7", "samples_every=2"),
    *("stage.sft.steps=12", "stage.sft.batch_size=6", "stage.sft.warmup_steps=0"),
    *("stage.reward.steps=12", "stage.reward.batch_size=4", "stage.reward.warmup_steps=0"),
    *("stage.ppo.rollouts=4", "stage.ppo.value_warmup_rollouts=1", "stage.ppo.warmup_rollouts=0"),
    *("stage.ppo.rollout_batch_size=12", "stage.ppo.minibatch_size=6", "stage.ppo.ppo_epochs=2"),
    *("hardware.train_micro_batch_size=1", "model.stop_tokens=[]"),
]


OWN = ["model=tiny", "model.vocab_size=300", "model.architecture.num_hidden_layers=2"]
OWN += ["model.architecture.hidden_size=16"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory, rows):
    """A random Llama of a few thousand parameters with its tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    shape = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    trained_tokenizer([rows.read_text()], 300, folder / "cache").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows for all three stages, of uneven length."""
    words = ("good", "bad", "finely made", "dull", "warm and long", "cold", "long", "short")
    lines = [
        {
            "prompt": f"a {first} and {second}",
            "response": f" {second} film{' indeed' * (len(first) % 3)}",
            "responses": [f" {first} film", f" {second} end", " so"][: 2 + len(second) % 2],
            "ranks": [1, 2, 2][: 2 + len(second) % 2],
        }
        for first in words
        for second in words
    ]
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def start(rows, folder, *overrides):
    command = [sys.executable, "train.py", *RUN, f"data.path={rows}", f"hydra.run.dir={folder}"]
    return subprocess.Popen(
        [*command, *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("adapters", [False, True])
def test_two_processes_do_what_one_does(rows, llama, tmp_path, adapters):
    model = OWN
    if adapters:
        model = ["model=smollm2_135m_lora", f"model.source={llama}", "model.dtype=float32"]
    found = []
    for devices in (1, 2):
        folder = tmp_path / f"{devices}"
        said = finished(start(rows, folder, f"hardware.devices={devices}", *model))
        assert said.count("== ppo") == 1  # one speaks
        assert (folder / "train.log").read_text().count("== ppo") == 1
        assert len(list(folder.rglob("artifact/manifest.json"))) == 3
        assert said.count("Report: ") == len(list(folder.rglob("report.html"))) == 4
        found.append((folder, json.loads((folder / "metrics.json").read_text())))
    (alone, figures), (together, same) = found
    told = {n for n in figures if not n.endswith(("seconds", "_gb"))}
    assert len(told) >= 25
    # Sums come in another order; Adam divides small gradients by themselves.
    for name in told:
        assert same[name] == pytest.approx(figures[name], rel=1e-3, abs=1e-4), name
    for stage in ("sft", "reward", "ppo"):
        compare_scalars(alone / stage, together / stage)
        name = "adapter_model.safetensors" if adapters else "model.safetensors"
        weights = (load_file(f / stage / "artifact" / name) for f in (alone, together))
        assert_close(*weights, rtol=1e-3, atol=1e-4)


def finished(run):
    """What a run has said."""
    said, _ = run.communicate(timeout=280)
    assert run.returncode == 0, said[-3000:]
    return said


def test_two_processes_that_are_killed_go_on_as_if_nothing_had_been(rows, tmp_path):
    given = ["hardware.devices=2", "checkpoint_minutes=0", *OWN]
    finished(start(rows, tmp_path / "whole", *given))
    run = start(rows, tmp_path / "cut", *given)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "reward" / CHECKPOINT).is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for process in [*psutil.Process(run.pid).children(), run]:
        process.kill()
    run.communicate(timeout=60)
    assert "Going on from" in finished(start(rows, tmp_path / "cut", *given))
    whole, cut = (json.loads((tmp_path / f / "metrics.json").read_text()) for f in ("whole", "cut"))
    assert {n for n in whole if whole[n] != cut[n] and not n.endswith(("seconds", "_gb"))} == set()
    for stage in ("sft", "reward", "ppo"):
        files = (tmp_path / f / stage / "artifact/model.safetensors" for f in ("whole", "cut"))
        assert len({file.read_bytes() for file in files}) == 1, stage


def read_scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("perf/")]
    return {t: [(e.step, e.value) for e in events.Scalars(t)] for t in tags}


def compare_scalars(alone, together):
    logs = [read_scalars(folder) for folder in (alone, together)]
    assert logs[0].keys() == logs[1].keys()
    assert len(logs[0]) >= 7
    for tag, values in logs[0].items():
        steps, numbers = zip(*values, strict=True)
        same_steps, same_numbers = zip(*logs[1][tag], strict=True)
        assert same_steps == steps, tag
        assert same_numbers == pytest.approx(numbers, rel=2e-3, abs=1e-4), tag


@pytest.mark.parametrize("killed", ["first", "second"])
def test_the_death_of_one_ends_the_other_with_a_message(rows, tmp_path, killed):
    run = start(rows, tmp_path, "hardware.devices=2", "stage.sft.steps=100000", *OWN)
    first = psutil.Process(run.pid)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("events.out.tfevents.*")) or not first.children():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    second = first.children()[0]
    while not read_scalars(tmp_path / "sft"):
        assert time.monotonic() < deadline
        time.sleep(1)
    (first if killed == "first" else second).kill()
    said, _ = run.communicate(timeout=60)  # until both have closed their output
    assert run.returncode != 0
    assert "Another process of this run has ended, so this one stops too." in said


def in_two(function, folder):
    """Run a function in two connected processes, which meet in a folder; return both results."""
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    meeting = f"file://{folder}/meeting"
    processes = [
        context.Process(target=_connected, args=(i, meeting, function, results)) for i in (0, 1)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    return found[0], found[1]


def _connected(index, meeting, function, results):
    dist.init_process_group("gloo", init_method=meeting, rank=index, world_size=2)
    results.put((index, function(Ranks(index, 2))))
    dist.barrier()
    dist.destroy_process_group()


def exchange(ranks):
    """Try everything on uneven sizes."""
    seen = []

    def squares(rows):
        seen.append(rows.tolist())
        return torch.stack([rows.float() ** 2, -rows.float()], dim=1)

    spread = {n: ranks.spread(squares, n).tolist() for n in (1, 2, 5)}
    sequences = pad_sequences([[1], [2, 3], [4]], [[5], [6], [7, 8]], 0)
    last = ranks.map(lambda s: s.sequence_ids[:, -2], sequences, MicroBatches(1)).tolist()
    mine = [torch.tensor([1.0, 2.0]) * (ranks.index + 1), torch.tensor(10.0)]
    ranks.sum_([mine[0], None, mine[1]])
    parts = ranks.gather({"index": ranks.index})
    share = ranks.share(torch.arange(5)).tolist()
    return spread, last, [x.tolist() for x in mine], parts, share, seen


def test_what_two_processes_exchange(tmp_path):
    first, second = in_two(exchange, tmp_path)
    for spread, last, summed, parts, _, _ in (first, second):
        assert spread == {n: [[i * i, -i] for i in range(n)] for n in (1, 2, 5)}
        assert last == [5, 6, 7]
        assert summed == [[3.0, 6.0], 20.0]
        assert parts == [{"index": 0}, {"index": 1}]
    assert (first[4], second[4]) == ([0, 2, 4], [1, 3])
    assert (first[5], second[5]) == ([[0], [0], [0, 2, 4]], [[0], [1], [1, 3, 4]])


def test_one_process_needs_nobody():
    alone = Ranks.here(1)
    assert (alone, alone.first) == (Ranks(0, 1), True)
    assert alone.spread(lambda rows: rows * 2, 3).tolist() == [0, 2, 4]
    assert alone.gather("x") == ["x"]
    gradient = torch.tensor([1.0])
    alone.sum_([gradient, None])
    assert gradient.tolist() == [1.0]


def test_the_environment_says_which_process_this_is(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Ranks.here(2) == Ranks(1, 2)
    assert not Ranks.here(2).first
    assert Ranks.here(1) == Ranks(0, 1)  # left over from another run
