"""Proximal policy optimisation against a reward model, with a KL penalty per token.

One step, in order: 1 collect a rollout, 2 rewards, 3 advantages, 4 minibatches, 5 losses,
6 updates. Schulman et al. 2017 (arXiv 1707.06347), as Ziegler et al. 2019 (arXiv 1909.08593) and
Stiennon et al. 2020 (arXiv 2009.01325) apply it to language models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hydralign.batch_plan import ppo_plan
from hydralign.data.collate import PromptBatch
from hydralign.data.module import RecordDataModule
from hydralign.models.assembly import RoleSpec
from hydralign.models.roles import ScalarRole, TextRole
from hydralign.rl.advantages import gae
from hydralign.rl.experience import Experience
from hydralign.rl.kl import adaptive_kl_coef, kl_k1
from hydralign.rl.losses import policy_loss_terms, value_loss_terms
from hydralign.rl.masks import masked_sum, whiten
from hydralign.rl.minibatches import iterate_minibatches, split_micro_batches
from hydralign.rl.rewards import penalise_missing_stop, per_token_rewards
from hydralign.rollout.collect import Rollout, collect_rollout
from hydralign.rollout.stopwatch import Stopwatch
from hydralign.stages.alarms import Alarms
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.evaluation import HeadToHead, side_by_side
from hydralign.stages.guards import check_first_ratio, evidence_of, sound
from hydralign.stages.metrics import (
    perf_metrics,
    policy_metrics,
    progress_figures,
    rollout_line,
    rollout_metrics,
)
from hydralign.stages.optimizers import make_optimizer
from hydralign.stages.updates import take_step

SHOWN = 32
"""Held-out prompts whose answers before and after stand in samples.md."""


@dataclass
class PPOSettings:
    """Hyperparameters of `stage=ppo`."""

    policy: str | None
    """Artifact of `stage=sft` to start from; the newest that fits, if null."""
    reward_model: str | None
    """Artifact of `stage=reward`; the newest that fits, if null."""
    rollouts: int
    """Sampling phases in the whole run."""
    rollout_batch_size: int
    """Prompts per rollout, one response each."""
    minibatch_size: int
    """Responses per optimizer step; divides rollout_batch_size."""
    ppo_epochs: int
    """Passes over each rollout."""
    policy_learning_rate: float
    """Peak."""
    value_learning_rate: float
    """Peak."""
    schedule: str
    warmup_rollouts: int
    value_warmup_rollouts: int
    """Rollouts at the start that train the value model only."""
    temperature: float
    """Of sampling, and of every log-prob."""
    kl_coef: float
    """Weight of the KL in the reward; where adaptive, the first weight."""
    target_kl_per_sequence: float | None
    """Nats per response that an adaptive kl_coef steers to; null keeps kl_coef fixed."""
    kl_horizon: float
    """Episodes over which a full error changes the adaptive kl_coef by a fifth."""
    missing_stop_penalty: float
    """Taken off the normalised score of a response that reached the length limit."""
    gamma: float
    """Discount per token."""
    gae_lambda: float
    clip_range: float
    """How far the ratio of new to old probability may pay off, from 1."""
    value_clip_range: float | None
    """How far a value may move per rollout, in normalised score; null: any."""
    max_grad_norm: float
    """Of policy and value model, each."""

    steps = property(lambda self: self.rollouts)
    """Batches that the data module hands out."""
    batch_size = property(lambda self: self.rollout_batch_size)
    """Prompts in each."""

    def __post_init__(self) -> None:
        """Check that the batch sizes divide and that the policy gets to train."""
        if self.rollout_batch_size % self.minibatch_size:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} does not divide "
                f"rollout_batch_size={self.rollout_batch_size}"
            )
        if self.value_warmup_rollouts >= self.rollouts:
            raise ValueError(
                f"value_warmup_rollouts={self.value_warmup_rollouts} leaves the policy none of "
                f"rollouts={self.rollouts} to train on"
            )


class PPO(L.LightningModule):
    """The four roles, and one rollout per training step."""

    settings = PPOSettings
    records = ("prompt",)
    inputs = {"policy": "sft", "reward_model": "reward"}
    roles = {
        "policy": RoleSpec("policy", trained=True),
        "reference": RoleSpec("policy"),
        "value_model": RoleSpec("reward_model", trained=True, scalar=True),
        "reward_model": RoleSpec("reward_model", scalar=True),
    }
    product = "policy"
    state = ("kl_coef", "rollout_step", "generator", "shuffle", "alarms")
    headline = "ppo/win_rate"

    def __init__(
        self,
        settings: PPOSettings,
        context: StageContext,
        *,
        policy: TextRole,
        reference: TextRole,
        value_model: ScalarRole,
        reward_model: ScalarRole,
    ) -> None:
        """Put the stage together.

        Args:
            settings: hyperparameters.
            context: machine and data.
            policy: trains, from the SFT policy on.
            reference: the SFT policy, frozen.
            value_model: trains; starts as the reward model.
            reward_model: frozen.
        """
        super().__init__()
        self.automatic_optimization = False  # a rollout holds many optimizer steps
        self.options = settings
        self.context = context
        self.policy = policy
        self.reference = reference
        self.value_model = value_model
        self.scorer = context.scorer(reward_model)
        self.reward_model = reward_model
        self.sampling = context.sampling(settings.temperature)
        self.kl_coef = settings.kl_coef
        self.alarms = Alarms()
        self.rollout_step = 0
        self.figures: dict[str, float] = {}

    def batch_plan(self, data: RecordDataModule) -> str:
        """Say in words what a rollout, a minibatch and a micro-batch are."""
        return ppo_plan(
            rollouts=self.options.rollouts,
            rollout_batch_size=self.options.rollout_batch_size,
            minibatch_size=self.options.minibatch_size,
            ppo_epochs=self.options.ppo_epochs,
            micro_batch_size=self.context.training.size,
        )

    def on_fit_start(self) -> None:
        """Seed the draws of this run."""
        self.generator = torch.Generator(self.device).manual_seed(self.context.seed)
        self.shuffle = torch.Generator().manual_seed(self.context.seed)

    def training_step(self, prompts: PromptBatch, index: int) -> None:
        """Collect one rollout and learn from it."""
        clock = Stopwatch()
        rollout = collect_rollout(
            self.policy,
            self.reference,
            self.value_model,
            self.scorer,
            prompts,
            self.context.codec,
            self.sampling,
            self.generator,
            micro_batches=self.context.training,
            clock=clock,
        )
        if not sound(rollout, self.context.guard, self.policy, untrained=not self.rollout_step):
            self._next_rollout()
            return
        experience = self._judge(rollout)
        averages = Averages(self.context.ranks)
        b, minibatch_size = len(rollout.sequences), self.options.minibatch_size
        for _epoch in range(self.options.ppo_epochs):
            for rows in iterate_minibatches(b, minibatch_size, self.shuffle):
                self._update(experience, rows, averages)
        clock.lap("train")
        self._finish(rollout, experience, averages, clock.seconds)

    def _judge(self, rollout: Rollout) -> Experience:
        """Turn what the roles said into what the losses need."""
        mask = rollout.sequences.response_mask
        scores = penalise_missing_stop(
            rollout.scores, rollout.responses.finished, self.options.missing_stop_penalty
        )
        kl = kl_k1(rollout.old_logprobs, rollout.ref_logprobs)
        rewards = per_token_rewards(scores, kl, mask, self.kl_coef)
        discounts = {"gamma": self.options.gamma, "gae_lambda": self.options.gae_lambda}
        advantages, returns = gae(rewards, rollout.old_values, mask, **discounts)
        return Experience(
            rollout.sequences,
            rollout.old_logprobs,
            rollout.old_values,
            whiten(advantages, mask),  # once, over the whole rollout
            returns,
        )

    def _update(self, experience: Experience, rows: Tensor, averages: Averages) -> None:
        """Take one optimizer step on some rows, in micro-batches.

        All of the policy's passes come before the value model's: on a shared base, switching
        roles between a forward pass and its backward would lose the gradient.
        """
        minibatch = experience.select(rows)
        tokens = minibatch.sequences.response_mask.sum()
        share = self.context.ranks.share(torch.arange(len(rows)))

        def passes(backward: Callable[..., None], size: int, seen: Averages) -> None:
            for piece in split_micro_batches(share, size):
                backward(minibatch.select(piece), tokens, seen)

        (policy, value), evidence = self.optimizers(), partial(evidence_of, minibatch)  # type: ignore[attr-defined]
        step = partial(take_step, self, evidence=evidence)
        if self._policy_trains:
            first = None if averages else partial(check_first_ratio, self.policy, evidence)
            policy_passes = partial(passes, self._policy_backward)
            averages.update(step(policy, "policy", policy_passes, check=first))
        averages.update(step(value, "value", partial(passes, self._value_backward)))

    def _policy_backward(self, batch: Experience, tokens: Tensor, averages: Averages) -> None:
        mask, clip = batch.sequences.response_mask, self.options.clip_range
        logprobs = self.policy(batch.sequences, temperature=self.options.temperature)
        loss = policy_loss_terms(logprobs, batch.old_logprobs, batch.advantages, clip_range=clip)
        self.manual_backward(masked_sum(loss, mask) / tokens)
        averages.add("policy/loss", loss, mask)
        policy_metrics(averages, logprobs, batch, clip)

    def _value_backward(self, batch: Experience, tokens: Tensor, averages: Averages) -> None:
        mask, clip = batch.sequences.response_mask, self.options.value_clip_range
        values = self.value_model.values(batch.sequences)
        loss = value_loss_terms(values, batch.old_values, batch.returns, value_clip_range=clip)
        self.manual_backward(masked_sum(loss, mask) / tokens)
        averages.add("value/loss", loss, mask)

    def _finish(
        self,
        rollout: Rollout,
        experience: Experience,
        averages: Averages,
        seconds: dict[str, float],
    ) -> None:
        """Control the KL, step the schedules, count and log."""
        seen = self.reward_model.head.seen
        metrics: dict[str, float] = {
            **rollout_metrics(rollout, experience.returns, self.kl_coef, seen),
            **averages.means(),
            **perf_metrics(rollout, seconds),
        }
        if self.options.target_kl_per_sequence is not None and self._policy_trains:
            self.kl_coef = adaptive_kl_coef(
                self.kl_coef,
                metrics["kl/per_sequence"],
                target=self.options.target_kl_per_sequence,
                horizon=self.options.kl_horizon,
                episodes=len(rollout.sequences),
            )
        metrics["policy/learning_rate"] = self.lr_schedulers()[0].get_last_lr()[0]  # type: ignore[index, assignment]
        self._next_rollout()
        assert self.logger is not None
        self.logger.log_metrics(metrics, step=self.rollout_step)
        self.log_dict(progress_figures(metrics), prog_bar=True, logger=False)
        self.alarms.look(metrics)
        self.print(rollout_line(self.rollout_step, self.options.rollouts, metrics))

    def _next_rollout(self) -> None:
        policy_schedule, value_schedule = self.lr_schedulers()  # type: ignore[misc]
        if self._policy_trains:
            policy_schedule.step()
        value_schedule.step()
        self.rollout_step += 1

    @property
    def _policy_trains(self) -> bool:
        return self.rollout_step >= self.options.value_warmup_rollouts

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One AdamW for the policy, one for the value model; stepped by hand."""
        options = self.options
        shared: dict[str, Any] = {
            "schedule": options.schedule,
            "warmup_steps": options.warmup_rollouts,
            "eps": 1e-5,  # as OpenAI's and later implementations of PPO have it
        }
        policy, policy_schedule = make_optimizer(
            self.policy.trained_parameters(),
            self.context.optimizer,
            learning_rate=options.policy_learning_rate,
            steps=options.rollouts - options.value_warmup_rollouts,
            **shared,
        )
        value, value_schedule = make_optimizer(
            self.value_model.trained_parameters(),
            self.context.optimizer,
            learning_rate=options.value_learning_rate,
            steps=options.rollouts,
            **shared,
        )
        return [policy, value], [policy_schedule, value_schedule]

    def test_step(self, prompts: PromptBatch, index: int) -> None:
        """Let reference and policy answer the same held-out prompts."""
        self.comparison.add(prompts)

    def on_test_epoch_start(self) -> None:
        """Prepare the comparison of before and after."""
        self.comparison = HeadToHead(
            before=self.reference,
            after=self.policy,
            scorer=self.scorer,
            gold=self.context.gold,
            codec=self.context.codec,
            sampling=self.sampling,
            micro_batches=self.context.scoring,
            seed=self.context.seed,
        )

    def on_test_epoch_end(self) -> None:
        """Report what got better and by how much."""
        before, after = self.comparison.compare()
        figures = self.comparison.figures(before, after)
        self.figures |= {f"ppo/{name}": value for name, value in figures.items()}
        self.samples = side_by_side(before, after)[:SHOWN]
