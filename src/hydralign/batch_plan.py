"""What batch, minibatch and micro-batch mean in a run: the arithmetic, and the words."""

from hydralign.errors import UserError


def micro_batch_size(batch_size: int, limit: int, where: str) -> int:
    """Return how many of a step's sequences go through the network at a time.

    Args:
        batch_size: sequences per optimizer step.
        limit: hardware.train_micro_batch_size.
        where: the key that sets batch_size, for messages.

    Raises:
        UserError: if the limit cuts the step into unequal pieces.
    """
    if limit < 1 or batch_size < 1:
        raise UserError(
            f"{where}={batch_size} and hardware.train_micro_batch_size={limit} must be at least 1."
        )
    if limit >= batch_size:
        return batch_size
    if batch_size % limit:
        raise UserError(
            f"hardware.train_micro_batch_size={limit} does not divide {where}={batch_size}. "
            f"Use {largest_divisor(batch_size, limit)}, or another {where}."
        )
    return limit


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number that is not above the limit, at least 1."""
    return next(d for d in range(max(1, min(number, limit)), 0, -1) if number % d == 0)


def supervised_plan(
    steps: int, batch_size: int, micro_batch_size: int, records: int, kind: str
) -> str:
    """Say what a run of supervised steps will do.

    Args:
        steps: optimizer steps.
        batch_size: records per step.
        micro_batch_size: records per forward pass.
        records: in the training split.
        kind: of record.
    """
    passes = steps * batch_size / records
    return (
        f"{steps} optimizer steps of {batch_size} {kind}s = {passes:.1f} passes over {records}; "
        f"micro-batch {micro_batch_size}"
    )


def ppo_plan(
    *,
    rollouts: int,
    rollout_batch_size: int,
    minibatch_size: int,
    ppo_epochs: int,
    micro_batch_size: int,
) -> str:
    """Say what a run of PPO will do.

    Args:
        rollouts: in all.
        rollout_batch_size: prompts in each.
        minibatch_size: responses per optimizer step.
        ppo_epochs: passes over each rollout.
        micro_batch_size: responses per forward pass.
    """
    updates = rollout_batch_size // minibatch_size
    return (
        f"{rollouts} rollouts; {rollout_batch_size} prompts per rollout "
        f"-> {ppo_epochs} epochs x {updates} updates of {minibatch_size}; "
        f"micro-batch {micro_batch_size}"
    )
