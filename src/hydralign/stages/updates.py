"""One optimizer step, the same for all stages: passes in micro-batches, clip, apply."""

from collections.abc import Callable
from typing import Any

import torch

from hydralign.stages.averages import Averages
from hydralign.stages.guards import Evidence

Passes = Callable[[int, Averages], None]
"""Leaves a step's whole gradient, some examples at a time, and adds to averages what it saw."""


def take_step(
    stage: Any,
    optimizer: Any,
    name: str,
    passes: Passes,
    evidence: Evidence,
    check: Callable[[dict[str, float]], None] | None = None,
) -> Averages:
    """Take one optimizer step; every process of the run must call it.

    Args:
        stage: with its `context`, and `options.max_grad_norm`.
        optimizer: whose parameters get the gradients.
        name: of what trains, for the figures.
        passes: goes forward and backward. Begins anew, with fewer examples at a time, where memory
            did not suffice.
        evidence: what the numbers came from, should they not be finite.
        check: looks at the means of what the passes saw; the step is not applied where it raises.

    Returns:
        what the passes saw, and the norm of the gradient before it was clipped. Empty where the
        step was left out.

    Raises:
        BadNumbers: if a number is not finite, and no more steps may be left out.
    """
    context = stage.context

    def attempt(size: int) -> Averages:
        optimizer.zero_grad()
        averages = Averages(context.ranks)
        passes(size, averages)
        return averages

    averages = context.training.run(attempt)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    context.ranks.sum_(parameter.grad for parameter in parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, stage.options.max_grad_norm)
    averages.add(f"{name}/grad_norm", norm)
    bad = {figure for part in context.ranks.gather(averages.not_finite()) for figure in part}
    sound = context.guard.passes(sorted(bad), evidence)
    if sound:
        if check is not None:
            check(averages.means())
        optimizer.step()
    optimizer.zero_grad()
    return averages if sound else Averages(context.ranks)
