"""Stages put together by hand, and a Trainer as a run has it, with a logger that remembers."""

import dataclasses
from functools import partial

import lightning as L
import pytest
from lightning.pytorch.loggers import Logger

from hydralign.data.collate import collate_comparisons, collate_demonstrations, collate_prompts
from hydralign.data.examples import (
    ComparisonExample,
    DemonstrationExample,
    Pair,
    PromptExample,
)
from hydralign.data.module import RecordDataModule
from hydralign.data.splits import Splits
from hydralign.micro_batches import MicroBatches
from hydralign.rl import packing
from hydralign.stages import online
from hydralign.stages.context import StageContext
from hydralign.stages.dpo import DPO, DPOSettings
from hydralign.stages.grpo import GRPO, GRPOSettings
from hydralign.stages.ppo import PPO, PPOSettings
from hydralign.stages.reward import Reward, RewardSettings
from hydralign.stages.rloo import RLOO, RLOOSettings
from hydralign.stages.sft import SFT, SFTSettings

EOS = 2
SUPERVISED = {"learning_rate": 1e-2, "steps": 1, "batch_size": 8, "schedule": "constant"}
SUPERVISED |= {"warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1e9}
ONLINE = {"policy": None, "reward_model": None, "rollouts": 1, "minibatch_size": 4}
ONLINE |= {"policy_learning_rate": 1e-3, "schedule": "constant", "warmup_rollouts": 0}
ONLINE |= {"temperature": 0.9, "kl_coef": 0.1, "missing_stop_penalty": 1.0, "clip_range": 0.2}
ONLINE |= {"max_grad_norm": 1e9}
GROUPS = ONLINE | {"rollout_batch_size": 4, "group_size": 2, "epochs": 2}
SETTINGS = {
    DPO: DPOSettings(**SUPERVISED, policy=None, loss="sigmoid", beta=0.5, label_smoothing=0.0),
    SFT: SFTSettings(**SUPERVISED),
    Reward: RewardSettings(**SUPERVISED, policy=None, centering_coef=0.01),
    PPO: PPOSettings(
        **ONLINE,
        rollout_batch_size=8,
        ppo_epochs=2,
        value_learning_rate=2e-3,
        value_warmup_rollouts=0,
        target_kl_per_sequence=None,
        kl_horizon=100.0,
        gamma=1.0,
        gae_lambda=0.95,
        value_clip_range=0.2,
    ),
    GRPO: GRPOSettings(
        **GROUPS,
        kl_estimator="k2",
        overlong_tokens=None,
        mask_unfinished=False,
        scale_advantages=True,
        denominator="tokens",
        clip_range_high=None,
    ),
    RLOO: RLOOSettings(**GROUPS),
}
COLLATE = {
    "demonstration": collate_demonstrations,
    "comparison": collate_comparisons,
    "prompt": collate_prompts,
}


def demonstrations(n):
    """Counting upwards from a token of the prompt: easy to learn, of uneven length."""
    return [
        DemonstrationExample([1, *[11 + i] * (i % 3)], [*range(12 + i, 14 + i + i % 4), EOS])
        for i in range(n)
    ]


def comparisons(n):
    """The more often z (28) occurs, the better; two to four responses, ties among them."""
    examples = []
    for i in range(n):
        k = 2 + i % 3
        responses = [[11 + i, *[28] * j, *[20] * (k - j), *[15] * (i % 2), EOS] for j in range(k)]
        pairs = [Pair(b, a, 1.0) for a in range(k) for b in range(a + 1, k)]
        if i % 4 == 3:
            pairs[-1] = dataclasses.replace(pairs[-1], target=0.5)
        examples.append(ComparisonExample([1, 30 + i % 5][: 1 + i % 2], responses, pairs))
    return examples


def prompts(n):
    """One to four tokens."""
    return [PromptExample([1, *range(11 + i, 11 + i + i % 4)], f"p{i}", None) for i in range(n)]


EXAMPLES = {"demonstration": demonstrations, "comparison": comparisons, "prompt": prompts}


class Memory(Logger):
    """Keeps what is logged."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.logged = []

    def log_metrics(self, metrics, step=None):
        self.logged.append((step, dict(metrics)))

    def log_hyperparams(self, *_):
        """Nothing to keep."""

    def series(self, name):
        """Values of one metric, in order."""
        return [metrics[name] for _, metrics in self.logged if name in metrics]


class Gradients(L.Callback):
    """Keeps the gradients of each optimizer step, as they stand before clipping and Adam."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, stage, optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        which = trainer.optimizers.index(getattr(optimizer, "optimizer", optimizer))
        self.steps.append((which, [None if p.grad is None else p.grad.clone() for p in parameters]))

    def of(self, which):
        """Gradients of each step of one optimizer."""
        return [gradients for index, gradients in self.steps if index == which]


@pytest.fixture
def context(make_toys):
    """The machine's limits; sampled responses have up to five tokens."""
    codec = make_toys("own").codec
    examples = prompts(6)
    side = [collate_prompts(part, part, pad_id=0) for part in (examples[:4], examples[4:])]
    return StageContext(
        codec=codec,
        training=MicroBatches(4),
        scoring=MicroBatches(3),
        generation=MicroBatches(5),
        optimizer="adamw",
        max_response_tokens=5,
        gold=None,
        side_prompts=side,
        seed=8,
    )


@pytest.fixture
def make_stage(toys, context):
    """Makes a stage with settings changed as told, from the toys' artifacts or from others."""

    def make(kind, *, micro_batch_size=4, starts=None, **changes):
        made = dataclasses.replace(toys, starts=starts or toys.starts)
        settings = dataclasses.replace(SETTINGS[kind], **changes)
        machine = dataclasses.replace(context, training=MicroBatches(micro_batch_size))
        return kind(settings, machine, **made.roles(kind.roles))

    return make


@pytest.fixture
def make_data():
    """Makes the data of a stage."""

    def make(stage, *, examples=None, n=8):
        record = stage.records[0]
        records = examples or EXAMPLES[record](n)
        collate = partial(COLLATE[record], pad_id=0)
        return RecordDataModule(
            Splits(records, EXAMPLES[record](5), EXAMPLES[record](4)),
            collate,
            make_step=collate if record == "prompt" else None,
            steps=stage.options.steps,
            batch_size=stage.options.batch_size,
            eval_batch_size=3,
            seed=6,
        )

    return make


@pytest.fixture
def fit():
    """Trains a stage; returns what it logged and its gradients."""

    def run(stage, data, *callbacks, test=False):
        memory, gradients = Memory(), Gradients()
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            val_check_interval=1.0,
            logger=memory,
            callbacks=[gradients, *callbacks],
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(stage, data)
        if test:
            trainer.test(stage, data, verbose=False)
        return memory, gradients

    return run


@pytest.fixture
def small_groups(monkeypatch):
    """A micro-batch is attended to in up to three groups of alike length."""
    monkeypatch.setitem(packing.GROUP_COST, "cpu", 5)


@pytest.fixture
def rollouts(monkeypatch):
    """The rollouts that a stage collects."""
    collected = []
    collect = online.collect_rollout

    def spy(*args, **options):
        collected.append(collect(*args, **options))
        return collected[-1]

    monkeypatch.setattr(online, "collect_rollout", spy)
    return collected
