"""What TRL's trainers are made of in scripts/benchmark.py: a work, its networks, and a watch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.benchmark_inputs import Work

WRITER, CLASSIFIER = "AutoModelForCausalLM", "AutoModelForSequenceClassification"


@dataclass(frozen=True)
class Task:
    """A work, and what it is done with."""

    work: Work
    rows: Sequence[Any]
    tokenizer: Any
    network: Callable[[str], Any]
    """Makes a network, given the name of one of transformers' Auto classes."""
    adapters: Mapping[str, Any] | None
    """LoRA's settings; None trains all weights."""
    settings: Mapping[str, Any]
    """Of every trainer."""
    watch: Any


def make_watch(synchronize: Callable[[], None] = lambda: None) -> Any:
    """Return a callback that takes the time of each step and counts its tokens.

    Args:
        synchronize: waits until what was started is done.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Takes the time of each step, and counts its tokens."""

        optimizer_steps = 1
        """Those of TRL that make up one step of the work."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.tokens: list[float] = []
            self.counted = 0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, *more: Any, **kwargs: Any) -> None:
            if state.global_step % self.optimizer_steps:
                return
            synchronize()
            now = time.perf_counter()
            self.seconds.append(now - self.started)
            self.tokens.append(self.counted)
            self.started, self.counted = now, 0

    return Watch()


def settings_of(task: Task) -> dict[str, Any]:
    """Return what every trainer's config is told."""
    return {
        "per_device_train_batch_size": task.work.rows,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **task.settings,
    }


def adapters_of(task: Task, kind: str) -> Any:
    """Return LoRA's config for a network of a kind that peft names; None trains all weights."""
    from peft import LoraConfig

    return LoraConfig(task_type=kind, **task.adapters) if task.adapters else None
