"""Numbers that cannot be right. A run stops on them, with what they came from, and says why."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hydralign.errors import DIVERGED, BadNumbers
from hydralign.rl.experience import Experience
from hydralign.rl.kl import kl_k1
from hydralign.rl.masks import masked_sum
from hydralign.rollout.collect import Rollout
from hydralign.rollout.sampling import Responses

Evidence = Callable[[], dict[str, Any]]
"""Returns what numbers came from, as JSON can hold it."""

log = logging.getLogger(__name__)

LEARNED_FROM = ("old_logprobs", "ref_logprobs", "old_values", "scores")

UNITS = 32
"""Root mean square of the log ratio that rounding explains, in units of the precision. In bfloat16
rows of SmolLM2 scored in other company have been 4 off; another temperature, 0.9 for 1, 100."""

LEAST = 1e-3
"""The same where the precision is finer."""

STANDARD_ERRORS = 3
"""That a mean which cannot be negative may lie below 0."""

CHANCE = 20
"""Nats by which the KLs of a rollout, added up, may lie below 0: the mean of exp(-KL) is 1, so more
happens once in exp(20) rollouts, whatever their number of responses and its distribution."""


class Guard:
    """Lets no number through that is not finite, but leaves out some steps first, if told so."""

    def __init__(self, skips: int = 0) -> None:
        """Set how patient it is.

        Args:
            skips: steps to leave out before the run stops.
        """
        self.skips = skips
        self.skipped = 0

    def passes(self, bad: list[str], evidence: Evidence) -> bool:
        """Say whether a step is to be applied.

        Args:
            bad: names of what is not finite.
            evidence: what it came from.

        Raises:
            BadNumbers: if something is not finite and enough has been left out.
        """
        if not bad:
            return True
        said = f"Not a finite number: {', '.join(bad)}."
        if self.skipped >= self.skips:
            raise BadNumbers(
                f"{said} The step was not applied. {DIVERGED} Or mend the row, if it is one: it is "
                "in the file. bad_steps_to_skip=N leaves out so many steps first.",
                evidence(),
            )
        self.skipped += 1
        log.warning("%s This step is left out (%d of %d).", said, self.skipped, self.skips)
        return False


def sound(rollout: Rollout, guard: Guard, policy: nn.Module, *, untrained: bool) -> bool:
    """Say whether a rollout is to be learned from.

    Args:
        rollout: of the policy.
        guard: decides on numbers that are not finite.
        policy: that gave it, for its precision.
        untrained: whether the policy still is the reference.

    Raises:
        BadNumbers: if a number cannot be right.
    """
    mask = rollout.sequences.response_mask
    found = {name: x for name, x in vars(rollout).items() if name in LEARNED_FROM}
    counted = {name: x[mask] if x.shape == mask.shape else x for name, x in found.items()}
    bad = [name for name, tensor in counted.items() if not torch.isfinite(tensor).all()]
    if not guard.passes(bad, partial(evidence_of, rollout)):
        return False
    check_kl(rollout, policy, untrained=untrained)
    return True


def check_kl(rollout: Rollout, policy: nn.Module, *, untrained: bool) -> None:
    """Check the KL between the policy and the reference it started from.

    Args:
        rollout: b responses of the policy.
        policy: for its precision.
        untrained: whether the policy still is the reference.

    Raises:
        BadNumbers: if it has one from the start, or if the mean over responses, which estimates a
            number that is at least 0, lies more than three standard errors below it and chance
            does not explain that.
    """
    kl = kl_k1(rollout.old_logprobs, rollout.ref_logprobs)
    mask = rollout.sequences.response_mask
    totals = masked_sum(kl, mask, dim=-1)
    # A pass that was cut for want of memory rounds otherwise than the one it is compared with.
    excess = totals.abs() - tolerance(policy) * mask.sum(-1).sqrt()
    if untrained and (excess > 0).any():
        raise BadNumbers(
            f"Before training the KL of a response is {totals[excess.argmax()]:.3g} nats and must "
            "be 0 but for rounding: policy and reference are not the same network, or not run in "
            "the same way (another adapter, dropout, precision).",
            evidence_of(rollout),
        )
    error = totals.std(correction=0) / len(totals) ** 0.5
    if totals.mean() < -STANDARD_ERRORS * error and totals.sum() < -CHANCE:
        raise BadNumbers(
            f"The KL is {totals.mean():.3g} nats a response, with a standard error of {error:.2g}: "
            "it cannot be negative. Likely the responses were not drawn from the distribution that "
            "they are scored by (temperature, a sampler that leaves tokens out, a stop token or "
            "padding counted on one side only), or the log-probs belong to other tokens.",
            evidence_of(rollout),
        )


def check_first_ratio(policy: nn.Module, evidence: Evidence, means: Mapping[str, float]) -> None:
    """Check that the policy that learns is the one that sampled, before it has learned.

    Args:
        policy: for its precision.
        evidence: what the numbers came from.
        means: over the tokens of the step, the square of the log ratio of new to old among them.

    Raises:
        BadNumbers: if it is not.
    """
    log_ratio = means["policy/log_ratio_square"] ** 0.5
    if log_ratio > tolerance(policy):
        raise BadNumbers(
            "At the first minibatch of a rollout the ratio of new to old probability must be 1, "
            f"and its logarithm is {log_ratio:.3g} from 0 (root mean square): old log-probs and "
            "training do not run the network in the same way (dropout, temperature, another "
            "adapter).",
            evidence(),
        )


def evidence_of(source: Rollout | Experience | Responses) -> dict[str, Any]:
    """Return all that is known of some responses, for the file of a run that stops on them."""
    mask = source.sequences.response_mask
    rows = zip(source.sequences.sequence_ids, source.sequences.attention_mask, strict=True)
    found: dict[str, Any] = {"token_ids": [ids[kept].tolist() for ids, kept in rows]}
    for name, numbers in vars(source).items():
        if isinstance(numbers, Tensor):
            by_token = numbers.shape == mask.shape
            rows = zip(numbers, mask, strict=True)
            found[name] = [x[kept].tolist() for x, kept in rows] if by_token else numbers.tolist()
    return found


def tolerance(network: nn.Module) -> float:
    """Return how far two passes of a network may be apart, in nats a token (root mean square)."""
    return max(LEAST, UNITS * _rounding(network))


def _rounding(network: nn.Module) -> float:
    """Return the relative distance of neighbouring numbers in a network's coarsest type."""
    types = {p.dtype for p in network.parameters() if p.is_floating_point()}
    device = next(network.parameters()).device.type
    if torch.is_autocast_enabled(device):
        types.add(torch.get_autocast_dtype(device))
    return max(torch.finfo(each).eps for each in types)
