"""What batch, minibatch and micro-batch mean in a run: the arithmetic, and the words."""


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


def online_plan(
    *,
    rollouts: int,
    rollout_batch_size: int,
    group_size: int,
    minibatch_size: int,
    epochs: int,
    micro_batch_size: int,
) -> str:
    """Say what a run of rollouts will do.

    Args:
        rollouts: in all.
        rollout_batch_size: prompts in each.
        group_size: responses to each prompt.
        minibatch_size: responses per optimizer step.
        epochs: passes over each rollout.
        micro_batch_size: responses per forward pass.
    """
    updates = rollout_batch_size * group_size // minibatch_size
    responses = "" if group_size == 1 else f" x {group_size} responses"
    return (
        f"{rollouts} rollouts; {rollout_batch_size} prompts{responses} per rollout "
        f"-> {epochs} epochs x {updates} updates of {minibatch_size}; "
        f"micro-batch {micro_batch_size}"
    )
