"""REINFORCE with the other responses to the same prompt as baseline.

Ahmadian et al. 2024 (arXiv 2402.14740): a whole response is one action. The KL is part of what is
compared, not added to it afterwards. TRL 1.12 gives the same loss and gradient; it can also whiten
advantages over the batch, off by default.
"""

from dataclasses import dataclass
from functools import partial

from hydralign.models.assembly import RoleSpec
from hydralign.rl.experience import Experience
from hydralign.rl.groups import leave_one_out_advantages, zero_variance_share
from hydralign.rl.kl import kl_k1
from hydralign.rl.losses import clipped_tokens, policy_loss_terms
from hydralign.rl.masks import masked_sum
from hydralign.rl.rewards import penalise_missing_stop
from hydralign.rollout.collect import Rollout
from hydralign.stages.averages import Averages
from hydralign.stages.metrics import policy_metrics
from hydralign.stages.online import OnlineStage


@dataclass
class RLOOSettings:
    """Hyperparameters of `stage=rloo`."""

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
    """Weight of the KL of a whole response in its reward."""
    missing_stop_penalty: float
    """Taken off the score of a response that reached the length limit."""
    clip_range: float
    """How far the ratio of new to old probability of a whole response may pay off, from 1."""
    max_grad_norm: float

    steps = property(lambda self: self.rollouts)
    """Batches that the data module hands out."""
    batch_size = property(lambda self: self.rollout_batch_size)
    """Prompts in each."""

    def __post_init__(self) -> None:
        """Check that groups have company."""
        if self.group_size < 2:
            raise ValueError(f"group_size={self.group_size}: a group has at least 2 responses")


class RLOO(OnlineStage):
    """Policy, reference and reward model; the rest of the group is the baseline."""

    settings = RLOOSettings
    records = ("prompt",)
    inputs = {"policy": "sft", "reward_model": "reward"}
    roles = {
        "policy": RoleSpec("policy", trained=True),
        "reference": RoleSpec("policy"),
        "reward_model": RoleSpec("reward_model", scalar=True),
    }
    headline = "rloo/win_rate"

    def judge(self, rollout: Rollout) -> tuple[Experience, dict[str, float]]:
        """Compare responses by score and KL, and say what the groups were like."""
        options, mask = self.options, rollout.sequences.response_mask
        scores = penalise_missing_stop(
            rollout.scores, rollout.responses.finished, options.missing_stop_penalty
        )
        kl = masked_sum(kl_k1(rollout.old_logprobs, rollout.ref_logprobs), mask, dim=-1)
        advantages = leave_one_out_advantages(scores - self.kl_coef * kl, options.group_size)
        equal = zero_variance_share(scores, options.group_size).item()
        experience = Experience(rollout.sequences, rollout.old_logprobs, advantages)
        return experience, {"reward/equal_groups": equal}

    def update(self, minibatch: Experience, averages: Averages) -> None:
        """Take one optimizer step."""
        backward, first = partial(self._backward, len(minibatch.advantages)), not averages
        averages.update(self.step("policy", self.optimizers(), minibatch, backward, first=first))

    def _backward(self, responses: int, batch: Experience, seen: Averages) -> None:
        mask, clip = batch.sequences.response_mask, self.options.clip_range
        logprobs = self.policy(batch.sequences, temperature=self.options.temperature)
        whole, old = (masked_sum(x, mask, dim=-1) for x in (logprobs, batch.old_logprobs))
        loss = policy_loss_terms(whole, old, batch.advantages, clip_range=clip)
        self.manual_backward(loss.sum() / responses)
        clipped = clipped_tokens(whole, old, batch.advantages, clip_range=clip)
        seen.add("policy/loss", loss)
        seen.add("policy/clip_fraction", clipped)
        policy_metrics(seen, logprobs, batch)
