"""What a run logs stands in docs/metrics.md, with what it means."""

import re
from pathlib import Path

import pytest

from hydralign.callbacks.vitals import Vitals
from hydralign.stages.dpo import DPO
from hydralign.stages.grpo import GRPO
from hydralign.stages.ppo import PPO
from hydralign.stages.reward import Reward
from hydralign.stages.rloo import RLOO
from hydralign.stages.sft import SFT

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"
TRAINER_OWN = {"epoch"}


def documented():
    """Names in code marks; "`a/b_low`, `_high`" stands for a/b_low and a/b_high."""
    found, last = set(), ""
    for name in re.findall(r"`(\w+/\w+|_\w+)`", METRICS.read_text()):
        if name.startswith("_"):
            found |= {last + name, last.rpartition("_")[0] + name}
        else:
            last = name
            found.add(name)
    return found


def names(stage, memory):
    logged = {name for _, metrics in memory.logged for name in metrics}
    return (logged | set(stage.figures)) - TRAINER_OWN


@pytest.mark.parametrize(
    ("stage_class", "least"),
    [(SFT, {"policy/loss", "sft/val_nll"}), (Reward, {"reward/loss", "reward/pair_accuracy"})]
    + [(DPO, {"dpo/loss", "dpo/val_accuracy", "dpo/pair_accuracy"})]
    + [(PPO, {"kl/per_sequence", "policy/grad_norm", "ppo/win_rate"})]
    + [(GRPO, {"reward/equal_groups", "policy/grad_norm", "grpo/win_rate"})]
    + [(RLOO, {"reward/equal_groups", "policy/grad_norm", "rloo/win_rate"})],
)
def test_every_name_that_is_logged_is_documented(make_stage, make_data, fit, stage_class, least):
    stage = make_stage(stage_class)
    memory, _ = fit(stage, make_data(stage), Vitals(every=1), test=True)
    found = names(stage, memory)
    assert found >= least
    assert all(name.count("/") == 1 for name in found)
    assert METRICS.is_file(), f"{METRICS} is missing"
    assert found - documented() == set()
