"""What batch, minibatch and micro-batch mean in a run: the arithmetic, and the words."""

from typing import Any


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


def online_plan(settings: Any, micro_batch_size: int) -> str:
    """Say what a run of rollouts will do.

    Args:
        settings: of a stage that samples.
        micro_batch_size: responses per forward pass.
    """
    prompts, g, size = settings.rollout_batch_size, settings.group_size, settings.minibatch_size
    responses = "" if g == 1 else f" x {g} responses"
    return (
        f"{settings.rollouts} rollouts; {prompts} prompts{responses} per rollout "
        f"-> {settings.epochs} epochs x {prompts * g // size} updates of {size}; "
        f"micro-batch {micro_batch_size}"
    )
