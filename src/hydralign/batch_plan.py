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
