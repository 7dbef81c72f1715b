"""Proximal policy optimisation against a reward model, with a KL penalty per token.

One step, in order: 1 collect a rollout, 2 rewards, 3 advantages, 4 minibatches, 5 losses,
6 updates. Schulman et al. 2017 (arXiv 1707.06347), as Ziegler et al. 2019 (arXiv 1909.08593) and
Stiennon et al. 2020 (arXiv 2009.01325) apply it to language models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hydralign.data.collate import PromptBatch
from hydralign.models.assembly import RoleSpec
from hydralign.models.roles import ScalarRole, TextRole
from hydralign.rl.advantages import gae
from hydralign.rl.experience import Experience
from hydralign.rl.kl import adaptive_kl_coef, kl_k1
from hydralign.rl.losses import (
    clipped_tokens,
    explained_variance,
    policy_loss_terms,
    value_loss_terms,
)
from hydralign.rl.masks import masked_sum, whiten
from hydralign.rl.rewards import penalise_missing_stop, per_token_rewards
from hydralign.rollout.collect import Rollout
from hydralign.rollout.stopwatch import Stopwatch
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.metrics import policy_metrics
from hydralign.stages.online import OnlineStage


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
    """Taken off the score of a response that reached the length limit."""
    gamma: float
    """Discount per token."""
    gae_lambda: float
    clip_range: float
    """How far the ratio of new to old probability may pay off, from 1."""
    value_clip_range: float | None
    """How far a value may move per rollout, in normalised score; null: any."""
    max_grad_norm: float
    """Of policy and value model, each."""

    group_size = 1
    """Responses to each prompt."""
    epochs = property(lambda self: self.ppo_epochs)
    """Passes over each rollout."""
    steps = property(lambda self: self.rollouts)
    """Batches that the data module hands out."""
    batch_size = property(lambda self: self.rollout_batch_size)
    """Prompts in each."""

    def __post_init__(self) -> None:
        """Check that the policy gets to train."""
        if self.value_warmup_rollouts >= self.rollouts:
            raise ValueError(
                f"value_warmup_rollouts={self.value_warmup_rollouts} leaves the policy none of "
                f"rollouts={self.rollouts} to train on"
            )


@dataclass(frozen=True)
class ValuedRollout(Rollout):
    """A rollout, and what the value model expected of it."""

    old_values: Tensor
    """(b, r) the value before each token; 0 outside the mask."""


@dataclass(frozen=True)
class ValuedExperience(Experience):
    """What PPO's losses need; advantages are per token and whitened over the whole rollout."""

    old_values: Tensor
    """(b, r) the value before each token, at sampling time; 0 outside the mask."""
    returns: Tensor
    """(b, r) what the value model should have said."""


class PPO(OnlineStage):
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
    headline = "ppo/win_rate"

    def __init__(
        self,
        settings: PPOSettings,
        context: StageContext,
        *,
        policy: TextRole,
        reference: TextRole,
        value_model: ScalarRole,
        reward_model: ScalarRole | None = None,
    ) -> None:
        """Put the stage together.

        Args:
            settings: hyperparameters.
            context: machine and data.
            policy: trains, from the SFT policy on.
            reference: the SFT policy, frozen.
            value_model: trains; starts as the reward model, if that scores.
            reward_model: frozen; None where others score.
        """
        super().__init__(
            settings, context, policy=policy, reference=reference, reward_model=reward_model
        )
        self.value_model = value_model

    def collect(self, prompts: PromptBatch, clock: Stopwatch) -> ValuedRollout:
        """Sample and judge, and add what the value model expected at each token."""
        rollout = super().collect(prompts, clock)
        ranks, training = self.context.ranks, self.context.training
        with torch.no_grad():
            values = ranks.map(self.value_model.values, rollout.sequences, training)
        clock.lap("score")
        return ValuedRollout(**vars(rollout), old_values=values)

    def judge(self, rollout: ValuedRollout) -> tuple[ValuedExperience, dict[str, float]]:
        """Turn what the roles said into what the losses need, and say how good the values were."""
        mask = rollout.sequences.response_mask
        scores = penalise_missing_stop(
            rollout.scores, rollout.responses.finished, self.options.missing_stop_penalty
        )
        kl = kl_k1(rollout.old_logprobs, rollout.ref_logprobs)
        rewards = per_token_rewards(scores, kl, mask, self.kl_coef)
        discounts = {"gamma": self.options.gamma, "gae_lambda": self.options.gae_lambda}
        advantages, returns = gae(rewards, rollout.old_values, mask, **discounts)
        experience = ValuedExperience(
            rollout.sequences,
            rollout.old_logprobs,
            whiten(advantages, mask),  # once, over the whole rollout
            rollout.old_values,
            returns,
        )
        explained = explained_variance(rollout.old_values, returns, mask).item()
        return experience, {"value/explained_variance": explained}

    def update(self, minibatch: ValuedExperience, averages: Averages) -> None:
        """Take one optimizer step for the policy and one for the value model.

        All of the policy's passes come before the value model's: on a shared base, switching
        roles between a forward pass and its backward would lose the gradient.
        """
        policy, value = self.optimizers()  # type: ignore[attr-defined]
        tokens = minibatch.sequences.response_mask.sum()
        if self._policy_trains:
            backward = partial(self._policy_backward, tokens)
            averages.update(self.step("policy", policy, minibatch, backward, first=not averages))
        backward = partial(self._value_backward, tokens)
        averages.update(self.step("value", value, minibatch, backward))

    def _policy_backward(self, tokens: Tensor, batch: ValuedExperience, seen: Averages) -> None:
        mask, clip = batch.sequences.response_mask, self.options.clip_range
        logprobs = self.policy(batch.sequences, temperature=self.options.temperature)
        compared = (logprobs, batch.old_logprobs, batch.advantages)
        loss = policy_loss_terms(*compared, clip_range=clip)
        self.manual_backward(masked_sum(loss, mask) / tokens)
        seen.add("policy/loss", loss, mask)
        seen.add("policy/clip_fraction", clipped_tokens(*compared, clip_range=clip), mask)
        policy_metrics(seen, logprobs, batch)

    def _value_backward(self, tokens: Tensor, batch: ValuedExperience, seen: Averages) -> None:
        mask, clip = batch.sequences.response_mask, self.options.value_clip_range
        values = self.value_model.values(batch.sequences)
        loss = value_loss_terms(values, batch.old_values, batch.returns, value_clip_range=clip)
        self.manual_backward(masked_sum(loss, mask) / tokens)
        seen.add("value/loss", loss, mask)

    def report(
        self,
        rollout: Rollout,
        averages: Averages,
        clock: Stopwatch,
        figures: Mapping[str, float],
    ) -> dict[str, float]:
        """Log, and control the KL."""
        metrics = super().report(rollout, averages, clock, figures)
        if self.options.target_kl_per_sequence is not None and self._policy_trains:
            self.kl_coef = adaptive_kl_coef(
                self.kl_coef,
                metrics["kl/per_sequence"],
                target=self.options.target_kl_per_sequence,
                horizon=self.options.kl_horizon,
                episodes=len(rollout.sequences),
            )
        return metrics

    def next_rollout(self) -> None:
        """Step the schedules, the policy's only once it trains, and count."""
        policy_schedule, value_schedule = self.schedules
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
        policy = self.optimizer_of(
            self.policy.trained_parameters(),
            options.policy_learning_rate,
            options.rollouts - options.value_warmup_rollouts,
        )
        value = self.optimizer_of(
            self.value_model.trained_parameters(), options.value_learning_rate, options.rollouts
        )
        return [policy[0], value[0]], [policy[1], value[1]]
