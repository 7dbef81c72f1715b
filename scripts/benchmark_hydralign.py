"""hydralign's side of scripts/benchmark.py: its own run, with a clock at its steps."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# No torch here: what the allocator is told counts only before torch comes.
from hydralign import allocator
from scripts.benchmark_inputs import Work, figures, overrides_of

CONF = Path(__file__).resolve().parents[1] / "conf"


def composed(overrides: Sequence[str]) -> Any:
    """Return what train.py would run, given the same overrides."""
    from hydra import compose, initialize_config_dir

    from hydralign import config

    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def measure(work: Work, overrides: Sequence[str], scratch: Path) -> dict[str, float]:
    """Run a stage as train.py does.

    Args:
        work: to do.
        overrides: what to tell it besides the work.
        scratch: folder of the inputs.
    """
    cfg = composed([*overrides_of(work, scratch), *overrides])
    allocator.set_up(returned=cfg.hardware.return_freed_memory)
    from hydralign import build, stage_run  # only now: they import torch
    from hydralign.memory import peak_memory_gb
    from hydralign.run import run

    stage_run.forget_peak = lambda: None  # loading counts, as it does for TRL
    clock = make_clock()
    made = build.build_trainer

    def with_clock(*arguments: Any) -> Any:
        trainer = made(*arguments)
        trainer.callbacks.insert(0, clock)  # type: ignore[attr-defined]
        return trainer

    build.build_trainer = with_clock  # type: ignore[assignment]
    run_dir = Path(tempfile.mkdtemp(dir=scratch))
    run(cfg, run_dir)
    peak = peak_memory_gb()
    more = {"planned_gb": json.loads((run_dir / "plan.json").read_text())["peak_gb"]}
    if work.samples:
        more |= phases(run_dir)
        clock.tokens = [
            _scalar(run_dir, "rollout/response_length", i) * work.rows for i in range(work.steps)
        ]
    found = figures(clock.seconds, clock.tokens, peak, **more)
    rate = matrix_rate(str(cfg.model.dtype))
    return found | {"mfu": clock.products.flops / found["seconds_per_step"] / rate}


def make_clock(synchronize: Callable[[], None] = lambda: None) -> Any:
    """Return a callback that takes the time of each step, and counts its tokens and products.

    Args:
        synchronize: waits until what was started is done.
    """
    import lightning as L

    class Clock(L.Callback):
        """Takes the time of each step and counts its tokens; the first one's products too."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.tokens: list[float] = []
            self.products = _products()

        def on_train_batch_start(self, trainer: Any, stage: Any, batch: Any, index: int) -> None:
            if index == 0:
                self.products.__enter__()
            synchronize()
            self.started = time.perf_counter()

        def on_train_batch_end(
            self, trainer: Any, stage: Any, outputs: Any, batch: Any, i: int
        ) -> None:
            synchronize()
            self.seconds.append(time.perf_counter() - self.started)
            if hasattr(batch, "tokens"):  # a `Step`; what will be sampled is not known yet
                self.tokens.append(float(batch.tokens))
            if i == 0:
                self.products.__exit__(None, None, None)

    return Clock()


def _products() -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Products(TorchDispatchMode):
        """Counts what is multiplied while it is entered. FlopCounterMode minds nested gradients."""

        flops = 0.0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            count = flop_registry.get(func._overloadpacket)
            # Fused attention is left out: torch cannot count it where heads share their keys.
            if count is not None and "attention" not in str(func):
                self.flops += count(*args, **(kwargs or {}), out_val=result)
            return result

    return Products()


def matrix_rate(dtype: str) -> float:
    """Measure what this machine multiplies in a second: FLOP of (1024, 1024) products."""
    import torch

    a, b = (torch.randn(1024, 1024).to(getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - started)
    return 2 * 1024**3 / median(seconds[2:])


def _scalar(run_dir: Path, name: str, index: int) -> float:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir))
    events.Reload()
    return float(events.Scalars(name)[index].value)


def phases(run_dir: Path) -> dict[str, float]:
    """Return the seconds of the last rollout's phases."""
    names = ("generate", "score", "train")
    return {f"{name}_seconds": _scalar(run_dir, f"perf/{name}_seconds", -1) for name in names}
