"""What stages share that learn from what the policy itself samples: ppo, grpo and rloo."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hydralign.batch_plan import online_plan
from hydralign.data.collate import PromptBatch
from hydralign.data.module import RecordDataModule
from hydralign.models.roles import ScalarRole, TextRole
from hydralign.outcomes import PolicyOutcomes
from hydralign.rl.experience import Experience
from hydralign.rl.minibatches import iterate_minibatches, split_micro_batches
from hydralign.rollout.collect import Rollout, collect_rollout
from hydralign.rollout.stopwatch import Stopwatch
from hydralign.stages.alarms import Alarms
from hydralign.stages.averages import Averages
from hydralign.stages.context import StageContext
from hydralign.stages.evaluation import kl_totals, policy_outcomes, side_by_side
from hydralign.stages.guards import check_first_ratio, evidence_of, sound
from hydralign.stages.metrics import (
    perf_metrics,
    progress_figures,
    rollout_line,
    rollout_metrics,
)
from hydralign.stages.optimizers import make_optimizer
from hydralign.stages.updates import take_step

SHOWN = 32
"""Held-out prompts whose answers before and after stand in samples.md."""

COLOURED = 8
"""Of those: how many the report shows token by token."""

E = TypeVar("E", bound=Experience)


class OnlineStage(L.LightningModule):
    """Samples, steps, reports and compares; a stage says what is learned from a rollout."""

    product = "policy"
    headline: str
    state: tuple[str, ...] = ("kl_coef", "rollout_step", "generator", "shuffle", "alarms")

    def __init__(
        self,
        settings: Any,
        context: StageContext,
        *,
        policy: TextRole,
        reference: TextRole,
        reward_model: ScalarRole | None = None,
    ) -> None:
        """Keep what every stage has.

        Args:
            settings: hyperparameters.
            context: machine and data.
            policy: trains, from the SFT policy on.
            reference: the SFT policy, frozen.
            reward_model: frozen; None where others score.
        """
        super().__init__()
        self.automatic_optimization = False  # a rollout holds many optimizer steps
        self.options = settings
        self.context = context
        self.policy = policy
        self.reference = reference
        self.reward_model = reward_model
        self.scorer = context.scorer(reward_model)
        self.sampling = context.sampling(settings.temperature)
        self.kl_coef = settings.kl_coef
        self.alarms = Alarms()
        self.rollout_step = 0
        self.figures: dict[str, float] = {}

    def batch_plan(self, data: RecordDataModule) -> str:
        """Say in words what a rollout, a minibatch and a micro-batch are."""
        return online_plan(self.options, self.context.training.size)

    def on_fit_start(self) -> None:
        """Seed the draws of this run."""
        self.generator = torch.Generator(self.device).manual_seed(self.context.seed)
        self.shuffle = torch.Generator().manual_seed(self.context.seed)

    def training_step(self, prompts: PromptBatch, index: int) -> None:
        """Collect one rollout and learn from it."""
        clock, averages = Stopwatch(), Averages(self.context.ranks)
        rollout = self.collect(prompts, clock)
        if sound(rollout, self.context.guard, self.policy, untrained=not self.rollout_step):
            experience, figures = self.judge(rollout)
            for rows in self.minibatches(rollout):
                self.update(experience.select(rows), averages)
            self.report(rollout, averages, clock, figures)
        self.next_rollout()

    def judge(self, rollout: Any) -> tuple[Any, dict[str, float]]:
        """Turn what the roles said into what the losses need, and say what it was like.

        Args:
            rollout: what `collect` has returned.
        """
        raise NotImplementedError

    def update(self, minibatch: Any, averages: Averages) -> None:
        """Take one optimizer step for each role that trains.

        Args:
            minibatch: some rows of what `judge` has returned.
            averages: of the rollout; empty before its first step.
        """
        raise NotImplementedError

    def collect(self, prompts: PromptBatch, clock: Stopwatch) -> Rollout:
        """Sample a group of responses to each prompt, and have them judged."""
        return collect_rollout(
            self.policy,
            self.reference,
            self.scorer,
            prompts,
            self.context.codec,
            replace(self.sampling, group_size=self.options.group_size),
            self.generator,
            micro_batches=self.context.training,
            clock=clock,
        )

    def minibatches(self, rollout: Rollout) -> Iterator[Tensor]:
        """Go through a rollout in fresh orders, groups kept together.

        Args:
            rollout: b responses.

        Yields:
            (minibatch_size,) row numbers.
        """
        g = self.options.group_size
        groups, together = len(rollout.sequences) // g, self.options.minibatch_size // g
        for _epoch in range(self.options.epochs):
            for chosen in iterate_minibatches(groups, together, self.shuffle):
                yield (chosen.unsqueeze(-1) * g + torch.arange(g)).flatten()

    def step(
        self,
        name: str,
        optimizer: Any,
        minibatch: E,
        backward: Callable[[E, Averages], None],
        *,
        first: bool = False,
    ) -> Averages:
        """Take one optimizer step on a minibatch, in micro-batches.

        Args:
            name: of what trains, for the figures.
            optimizer: of what trains.
            minibatch: its rows.
            backward: takes some of them, leaves their part of the gradient, and says what it saw.
            first: whether the policy is still the one that sampled, which is looked at then.
        """
        share = self.context.ranks.share(torch.arange(len(minibatch.sequences)))
        evidence = partial(evidence_of, minibatch)

        def passes(size: int, seen: Averages) -> None:
            for piece in split_micro_batches(share, size):
                backward(minibatch.select(piece), seen)

        check = partial(check_first_ratio, self.policy, evidence) if first else None
        return take_step(self, optimizer, name, passes, evidence, check)

    def report(
        self,
        rollout: Rollout,
        averages: Averages,
        clock: Stopwatch,
        figures: Mapping[str, float],
    ) -> dict[str, float]:
        """Log what a rollout and the steps on it came to.

        Args:
            rollout: that was learned from.
            averages: of the steps.
            clock: of the phases; what it has not booked yet was training.
            figures: that only this stage has.
        """
        clock.lap("train")
        step = self.rollout_step + 1
        metrics = {
            **rollout_metrics(rollout, self.kl_coef, self.scorer.seen),
            **self.scorer_means,
            **figures,
            **averages.means(),
            **perf_metrics(rollout, clock.seconds),
            "policy/learning_rate": self.schedules[0].get_last_lr()[0],
        }
        assert self.logger is not None
        self.logger.log_metrics(metrics, step=step)
        self.log_dict(progress_figures(metrics), prog_bar=True, logger=False)
        self.alarms.look(metrics)
        self.print(rollout_line(step, self.options.rollouts, metrics))
        return metrics

    def next_rollout(self) -> None:
        """Step the schedules and count."""
        for schedule in self.schedules:
            schedule.step()
        self.rollout_step += 1

    @property
    def scorer_means(self) -> dict[str, float]:
        """Mean of each scorer by itself, where there are several."""
        means = self.scorer.means
        return {f"rewards/{name}": mean for name, mean in means.items()} if len(means) > 1 else {}

    @property
    def schedules(self) -> list[Any]:
        """Of the learning rates, the policy's first."""
        return [config.scheduler for config in self.trainer.lr_scheduler_configs]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One AdamW for the policy, stepped by hand."""
        optimizer, schedule = self.optimizer_of(
            self.policy.trained_parameters(),
            self.options.policy_learning_rate,
            self.options.rollouts,
        )
        return [optimizer], [schedule]

    def optimizer_of(
        self, parameters: list[torch.nn.Parameter], learning_rate: float, rollouts: int
    ) -> tuple[Optimizer, LRScheduler]:
        """Return an AdamW with a schedule that is stepped once for each rollout.

        Args:
            parameters: what trains.
            learning_rate: the peak.
            rollouts: that it trains in.
        """
        return make_optimizer(
            parameters,
            self.context.optimizer,
            learning_rate=learning_rate,
            schedule=self.options.schedule,
            warmup_steps=self.options.warmup_rollouts,
            steps=rollouts,
            eps=1e-5,  # as OpenAI's and later implementations of PPO have it
        )

    def test_step(self, prompts: PromptBatch, index: int) -> None:
        """Let reference and policy answer the same held-out prompts."""
        self.comparison.add(prompts)

    def on_test_epoch_start(self) -> None:
        """Prepare the comparison of before and after."""
        self.comparison = self.context.head_to_head(
            self.reference, self.policy, self.scorer, self.sampling, self.context.seed
        )

    def on_test_epoch_end(self) -> None:
        """Report what got better and by how much."""
        before, after = self.comparison.compare()
        name = self.headline.partition("/")[0]
        kl = self.comparison.kl_per_token(after)
        per_sequence = kl_totals(after, kl).mean().item()
        figures = self.comparison.figures(before, after, kl_per_sequence=per_sequence)
        self.figures |= {f"{name}/{figure}": value for figure, value in figures.items()}
        self.samples = side_by_side(before, after)[:SHOWN]
        self._judged = before, after, kl

    def outcomes(self) -> PolicyOutcomes:
        """Return what the test saw, row by row."""
        return policy_outcomes(*self._judged, self.context.codec, COLOURED)
