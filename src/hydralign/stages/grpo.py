"""Group relative policy optimisation: each response is judged beside the others to its prompt.

Shao et al. 2024 (arXiv 2402.03300), with what came after as choices: no division by the group's
standard deviation and a constant denominator (Dr. GRPO, arXiv 2503.20783); one denominator of
tokens, a higher upper clip and what is done about responses that do not end (DAPO, arXiv
2503.14476). TRL 1.12 gives the same loss and gradient, but for this: it divides a step by the mean
number of tokens of the rollout's steps, not by its own; it has k3 only; it clamps no log-ratio.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from hydralign.models.assembly import RoleSpec
from hydralign.rl.experience import Experience
from hydralign.rl.groups import group_advantages, overlong_penalty, zero_variance_share
from hydralign.rl.kl import kl_k2, kl_k3
from hydralign.rl.losses import clipped_tokens, policy_loss_terms
from hydralign.rl.masks import masked_sum
from hydralign.rl.rewards import penalise_missing_stop
from hydralign.rollout.collect import Rollout
from hydralign.stages.averages import Averages
from hydralign.stages.metrics import policy_metrics
from hydralign.stages.online import OnlineStage

KL = {"k2": kl_k2, "k3": kl_k3}


@dataclass
class GRPOSettings:
    """Hyperparameters of `stage=grpo`."""

    policy: str | None
    """Artifact of `stage=sft` to start from; the newest that fits, if null."""
    reward_model: str | None
    """Artifact of `stage=reward`; the newest that fits, if null."""
    rollouts: int
    """Sampling phases in the whole run."""
    rollout_batch_size: int
    """Prompts per rollout."""
    group_size: int
    """Responses to each."""
    minibatch_size: int
    """Responses per optimizer step: whole groups."""
    epochs: int
    """Passes over each rollout."""
    policy_learning_rate: float
    """Peak."""
    schedule: str
    warmup_rollouts: int
    temperature: float
    """Of sampling, and of every log-prob."""
    kl_coef: float
    """Weight of the KL in the loss."""
    kl_estimator: str
    """k2: its gradient is that of KL(policy || reference) of each token, given those before it; ppo
    and rloo, with the KL in the reward, charge a token that of those after it, too. k3: its value
    is unbiased, but its gradient is that of KL(reference || policy)."""
    missing_stop_penalty: float
    """Taken off the score of a response that reached the length limit."""
    overlong_tokens: int | None
    """Tokens before the length limit over which up to 1 is taken off the score; null: none."""
    mask_unfinished: bool
    """Learn nothing from responses that reached the length limit."""
    scale_advantages: bool
    """Divide by the standard deviation of the group; false is Dr. GRPO."""
    denominator: str
    """Of the loss. tokens: those of the step, so that all count the same. constant: responses times
    the length limit (Dr. GRPO)."""
    clip_range: float
    """How far the ratio of new to old probability may fall below 1 and pay off."""
    clip_range_high: float | None
    """How far it may rise; null: as far."""
    max_grad_norm: float

    steps = property(lambda self: self.rollouts)
    """Batches that the data module hands out."""
    batch_size = property(lambda self: self.rollout_batch_size)
    """Prompts in each."""

    def __post_init__(self) -> None:
        """Check that groups have company, and the words."""
        if self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}: a group has at least 2 responses")
        if self.kl_estimator not in ("k2", "k3"):
            raise ValueError(f"kl_estimator={self.kl_estimator} does not exist. Choose k2 or k3")
        if self.denominator not in ("tokens", "constant"):
            raise ValueError(f"denominator={self.denominator}: choose tokens or constant")


@dataclass(frozen=True)
class GroupExperience(Experience):
    """What GRPO's loss needs; advantages are of whole responses."""

    ref_logprobs: Tensor
    """(b, r) under the reference."""
    loss_mask: Tensor
    """(b, r) bool, what is learned from."""


class GRPO(OnlineStage):
    """Policy, reference and reward model; the group stands in for a value model."""

    settings = GRPOSettings
    records = ("prompt",)
    inputs = {"policy": "sft", "reward_model": "reward"}
    roles = {
        "policy": RoleSpec("policy", trained=True),
        "reference": RoleSpec("policy"),
        "reward_model": RoleSpec("reward_model", scalar=True),
    }
    headline = "grpo/win_rate"

    def judge(self, rollout: Rollout) -> tuple[GroupExperience, dict[str, float]]:
        """Turn scores into what the loss needs, and say what the groups were like."""
        options, mask = self.options, rollout.sequences.response_mask
        finished, g = rollout.responses.finished, options.group_size
        scores = penalise_missing_stop(rollout.scores, finished, options.missing_stop_penalty)
        if options.overlong_tokens is not None:
            limit = self.context.max_response_tokens
            scores = scores + overlong_penalty(mask.sum(-1), limit, options.overlong_tokens)
        counts = finished | (not options.mask_unfinished)
        experience = GroupExperience(
            rollout.sequences,
            rollout.old_logprobs,
            group_advantages(scores, g, scale=options.scale_advantages),
            rollout.ref_logprobs,
            mask & counts.unsqueeze(-1),
        )
        return experience, {"reward/equal_groups": zero_variance_share(scores, g).item()}

    def update(self, minibatch: GroupExperience, averages: Averages) -> None:
        """Take one optimizer step."""
        mask = minibatch.loss_mask
        constant = len(mask) * self.context.max_response_tokens
        total = mask.sum().clamp(min=1) if self.options.denominator == "tokens" else constant
        backward, first = partial(self._backward, total), not averages
        averages.update(self.step("policy", self.optimizers(), minibatch, backward, first=first))

    def _backward(self, total: Tensor | int, batch: GroupExperience, seen: Averages) -> None:
        options, mask = self.options, batch.loss_mask
        logprobs = self.policy(batch.sequences, temperature=options.temperature)
        compared = (logprobs, batch.old_logprobs, batch.advantages.unsqueeze(-1))
        clip = {"clip_range": options.clip_range, "clip_range_high": options.clip_range_high}
        kl = KL[options.kl_estimator](logprobs, batch.ref_logprobs)
        loss = policy_loss_terms(*compared, **clip) + options.kl_coef * kl
        self.manual_backward(masked_sum(loss, mask) / total)
        seen.add("policy/loss", loss, mask)
        seen.add("policy/clip_fraction", clipped_tokens(*compared, **clip), mask)
        policy_metrics(seen, logprobs, batch)
