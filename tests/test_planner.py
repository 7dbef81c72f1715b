"""From a config to a plan; what a run is told that has too little memory."""

import itertools
import json
import platform
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from hydralign import build, config, planner
from hydralign.build import stage_class
from hydralign.data.examples import ComparisonExample, DemonstrationExample, PromptExample
from hydralign.data.splits import Splits
from hydralign.errors import UserError
from hydralign.planner import Extent, Planner, found, possible
from tests.test_configs import CONF

TINY = ["model=tiny", "data=movie_reviews", "hardware=gpu_12gb", "model.vocab_size=500"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRALIGN_CACHE", str(tmp_path / "cache"))


def composed(*overrides):
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*TINY, *overrides])


def planner_of(*overrides, extent=None):
    cfg = composed(*overrides)
    stage, settings = stage_class(cfg)
    return Planner(cfg, stage, settings, extent or possible(cfg.data, stage.records[0]))


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        (["stage=ppo"], (2, 8, 16, True)),
        (["stage=ppo", "hardware.train_micro_batch_size=64"], (32, 8, 16, False)),
        (["stage=sft", "stage.batch_size=1"], (1, 8, 8, False)),  # 8 prompts are watched
        (["stage=grpo"], (2, 8, 16, True)),
        (["stage=rloo", "hardware.train_micro_batch_size=64"], (64, 8, 16, False)),
        (["stage=reward"], (2, 8, 16, True)),
        (["stage=reward", "hardware=gpu_8gb"], (2, 4, 4, True)),  # a pair is never parted
        (["stage=reward", "hardware.train_micro_batch_size=64"], (16, 8, 16, False)),
    ],
)
def test_rows_of_the_passes(overrides, rows):
    work = planner_of(*overrides).work
    assert (work.train_rows, work.score_rows, work.generation_rows, work.accumulates) == rows


def test_lengths_are_those_of_the_config_until_there_are_examples():
    overrides = ["data.max_comparison_tokens=77", "data.max_response_tokens=55"]
    work = planner_of("stage=reward", *overrides).work
    assert (work.response_tokens, work.sampled_tokens) == (77, 55)
    demonstrations = [DemonstrationExample([1] * 5, [2] * 3), DemonstrationExample([1], [2] * 9)]
    assert found(Splits(demonstrations, demonstrations[:1]), 1, 4) == Extent(5, 9, rows=1)
    comparison = ComparisonExample([1, 1], [[2], [2, 2, 2]], [])
    assert found(Splits([comparison], [], [comparison] * 7), 3, 4) == Extent(
        2, 3, sequences=2, rows=14
    )
    assert found(Splits([PromptExample([1, 1, 1], "x", None)]), 16, 4) == Extent(3, 4, rows=16)


def test_no_pass_has_more_rows_than_there_are():
    work = planner_of("stage=ppo", extent=Extent(3, 4, rows=5)).work
    assert (work.score_rows, work.generation_rows) == (5, 5)
    work = planner_of("stage=reward", extent=Extent(3, 4, rows=5)).work
    assert (work.score_rows, work.generation_rows) == (8, 16)  # it answers other prompts as well


@pytest.mark.parametrize(
    ("chosen", "rows"), [(["stage=ppo"], 64), (["stage=grpo"], 16 * 8), (["stage=rloo"], 32 * 4)]
)
def test_every_response_of_a_group_is_a_row(chosen, rows, tmp_path, monkeypatch):
    cfg = composed(*chosen)
    stage, settings = stage_class(cfg)
    data = SimpleNamespace(examples=Splits([PromptExample([1, 1], "x", None)]))

    def planner(cfg, stage, settings, extent):
        raise UserError(f"{extent.rows} rows")

    monkeypatch.setattr(build, "Planner", planner)
    with pytest.raises(UserError, match=f"^{rows} rows"):
        build.plan_run(cfg, stage, settings, data, tmp_path)


def test_what_hardware_says_reaches_the_dry_run():
    work = planner_of("stage=ppo").work
    assert (work.mixed, work.checkpoints, work.logits_mb) == (True, True, 64)
    assert (work.optimizer, planner_of("stage=ppo").on_gpu) == ("adamw", True)
    plain = planner_of("stage=ppo", "hardware=cpu")
    assert (plain.work.mixed, plain.work.checkpoints, plain.on_gpu) == (False, False, False)


def test_main_memory_breaks_in_pieces(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert planner_of("stage=ppo").work.broken_below == 0
    assert planner_of("stage=ppo", "hardware=cpu").work.broken_below == 32 * 2**20
    returned = planner_of("stage=ppo", "hardware=cpu", "hardware.return_freed_memory=true")
    assert returned.work.broken_below == 2**20
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert planner_of("stage=ppo", "hardware=cpu").work.broken_below == 0


def test_main_memory_holds_the_process_too():
    assert planner_of("stage=sft").plan().peak.bytes["process"] == 0
    assert planner_of("stage=sft", "hardware=cpu").plan().peak.bytes["process"] > 10**8


def test_the_first_stage_of_a_process_takes_more(monkeypatch):
    monkeypatch.setattr(planner, "resident_bytes", lambda: 7)
    monkeypatch.setattr(planner, "_planned", itertools.count())
    first, second = (planner_of("stage=sft", "hardware=cpu") for _ in range(2))
    assert first.process == first.process == 50_000_007
    assert second.process == 7


def test_a_run_that_cannot_fit_is_told_what_would_do():
    tight = planner_of("stage=ppo", "hardware.memory_gb=0.05", "hardware.generation_batch_size=512")
    plan = tight.plan()
    with pytest.raises(UserError) as told:
        tight.check_fits(plan)
    message = str(told.value)
    assert "and there are 0.1 GB for it (hardware.memory_gb)" in message
    assert "It fits with hardware.generation_batch_size=" in message
    overrides = message.partition("It fits with ")[2].partition(".\n")[0].split()
    eased = planner_of("stage=ppo", "hardware.memory_gb=0.05", *overrides)
    eased.check_fits(eased.plan())


def test_a_run_that_nothing_helps_is_told_so():
    hopeless = planner_of("stage=ppo", "hardware.memory_gb=0.001")
    with pytest.raises(UserError, match="No setting of hardware makes it fit"):
        hopeless.check_fits(hopeless.plan())


def test_remedies_go_down_step_by_step():
    big = planner_of(
        "stage=ppo", "hardware.gradient_checkpointing=false", "hardware.train_micro_batch_size=32"
    )
    peaks, settings = [], []
    for remedy, plan in big.smaller(big.plan()):
        peaks.append(plan.peak_gb)
        settings.append(remedy.settings)
    assert peaks[-1] < peaks[0] / 2
    assert all(after <= before * 1.01 for before, after in pairwise(peaks))
    assert settings[0] == {}
    last = settings[-1]
    assert (last["gradient_checkpointing"], last["optimizer"]) == (True, "paged_adamw")


def test_on_a_cpu_freed_memory_is_given_back_last_of_all(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    planner = planner_of("stage=sft", "hardware=cpu", "hardware.train_micro_batch_size=2")
    found = list(planner.smaller(planner.plan()))
    (*_, (before, kept), (last, returned)) = found
    assert "return_freed_memory" not in before.settings
    assert last.settings == before.settings | {"return_freed_memory": True}
    assert last.overrides().endswith("hardware.return_freed_memory=true")
    assert (before.work.broken_below, last.work.broken_below) == (32 * 2**20, 2**20)
    assert returned.peak_gb <= kept.peak_gb  # one row of a tiny model has no large block


def test_only_large_tensors_are_paged():
    """bitsandbytes leaves those below 100,000 numbers where they are, as most of an adapter's."""
    resident = {
        optimizer: planner_of("stage=ppo", f"hardware.optimizer={optimizer}", "model=llama7b_lora")
        .plan()
        .peak.bytes["optimizer"]
        for optimizer in ("adamw", "paged_adamw")
    }
    # Per layer: q, k, v, o and the wide ends of gate, up and down; 11,008 x 16 is paged.
    small = 16 * (8 * 4096 + 3 * 4096)
    large = 16 * 3 * 11008
    heads = 4096
    assert resident["adamw"] == 8 * (2 * 32 * (small + large) + heads)
    assert resident["paged_adamw"] == 8 * (2 * 32 * small + heads)


def test_a_mac_has_one_memory(monkeypatch):
    mac = planner_of("stage=sft", "hardware.accelerator=mps")
    assert not mac.on_gpu
    assert mac.limit_gb() > 0
    assert planner_of("stage=sft", "hardware.accelerator=gpu").limit_gb() > 0  # without CUDA


def test_main_memory_is_not_paged():
    small = planner_of("stage=sft", "hardware=cpu")
    *_, (last, _) = small.smaller(small.plan())
    assert "optimizer" not in last.settings


def test_a_dry_run_is_made_once(monkeypatch, tmp_path):
    first = planner_of("stage=sft").plan()
    assert len(list((tmp_path / "cache/plans").glob("*.json"))) == 1
    monkeypatch.setattr(planner, "plan_memory", None)
    assert planner_of("stage=sft").plan() == first
    with pytest.raises(TypeError):
        planner_of("stage=sft", extent=Extent(3, 4)).plan()


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert planner_of("stage=sft").plan().peak_gb > 0


def test_a_folder_says_itself_what_it_holds(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_size": 32, "num_attention_heads": 2})
    )
    found = planner_of("stage=sft", f"model.source={tmp_path}").base.config
    assert found.hidden_size == 32


def test_the_limit_is_what_is_free_on_the_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * 10**9, 12 * 10**9))
    assert planner_of("stage=sft").limit_gb() == pytest.approx(10 - 0.7)
