"""AdamW and its schedule, the same for all stages."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    kind: str,
    *,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    steps: int,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[Optimizer, LRScheduler]:
    """Build an optimizer with a schedule that ends with the run.

    Args:
        parameters: what trains.
        kind: how Adam's averages are stored: `adamw` as they are, `adamw_8bit` in 8 bits, each
            block with a scale (arXiv 2110.02861); `paged_adamw` and `paged_adamw_8bit` move them to
            main memory while the card is full.
        learning_rate: the peak.
        schedule: a name that `transformers.get_scheduler` knows: constant, linear, cosine ...
        warmup_steps: scheduler steps until the peak.
        steps: scheduler steps in all.
        weight_decay: decoupled.
        betas: of Adam.
        eps: of Adam.
    """
    optimizer: Optimizer = _optimizer_class(kind)(
        list(parameters), lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay
    )
    scheduler = get_scheduler(
        schedule, optimizer, num_warmup_steps=warmup_steps, num_training_steps=steps
    )
    return optimizer, scheduler


def _optimizer_class(kind: str) -> Callable[..., Any]:
    if kind == "adamw":
        return partial(AdamW, fused=True)  # one pass over all parameters
    import bitsandbytes as bnb  # only here: it does not run everywhere

    return {
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw": bnb.optim.PagedAdamW32bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
    }[kind]
