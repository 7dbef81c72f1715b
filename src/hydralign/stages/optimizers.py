"""AdamW and its schedule, the same for all stages."""

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    steps: int,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[AdamW, LRScheduler]:
    """Build an optimizer with a schedule that ends with the run.

    Args:
        parameters: what trains.
        learning_rate: the peak.
        schedule: a name that `transformers.get_scheduler` knows: constant, linear, cosine ...
        warmup_steps: scheduler steps until the peak.
        steps: scheduler steps in all.
        weight_decay: decoupled.
        betas: of Adam.
        eps: of Adam.
    """
    optimizer = AdamW(
        list(parameters),
        lr=learning_rate,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        fused=True,  # one pass over all parameters instead of some for each
    )
    scheduler = get_scheduler(
        schedule, optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps
    )
    return optimizer, scheduler
