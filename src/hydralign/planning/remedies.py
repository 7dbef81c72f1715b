"""Which settings make a plan fit that does not."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from hydralign.allocator import LARGE
from hydralign.planning.dry_run import Workload
from hydralign.planning.plan import MemoryPlan

Replan = Callable[[Workload, Collection[str]], MemoryPlan]
"""Plans a stage for another workload, looking at some kinds of phases only."""

ROWS = {
    "train": ("train_rows", "train_micro_batch_size"),
    "score": ("score_rows", "score_micro_batch_size"),
    "sample": ("generation_rows", "generation_batch_size"),
}
"""Rows of each kind of phase: as a workload and as the hardware config name them."""

FEW_LOGITS_MB = 64.0
"""That much at a time is little beside any model, and enough to be quick."""


@dataclass(frozen=True)
class Remedy:
    """A workload that takes less, with the hardware settings that lead to it."""

    work: Workload
    settings: dict[str, Any]

    def overrides(self) -> str:
        """Return the settings as they are typed."""
        return " ".join(f"hardware.{k}={str(v).lower()}" for k, v in self.settings.items())

    def smaller(self, kind: str, *, paged: bool) -> "Remedy | None":
        """Take the next step down for a kind of phase; None if there is none.

        Args:
            kind: of the phase that takes most.
            paged: whether there is another memory to page to.
        """
        if kind == "train" and not self.work.checkpoints:
            return self._with("checkpoints", "gradient_checkpointing", True)
        if kind != "sample" and (self.work.logits_mb or inf) > FEW_LOGITS_MB:
            return self._with("logits_mb", "logits_mb", FEW_LOGITS_MB)
        field, setting = ROWS[kind]
        rows = getattr(self.work, field)
        least = 1 if kind == "sample" else self.work.rows_per_example
        if rows > least:
            return self._with(field, setting, max(least, rows // 2 // least * least))
        if paged and self.work.optimizer == "adamw":
            return self._with("optimizer", "optimizer", "paged_adamw")
        if self.work.broken_below > LARGE:  # last: it takes most time
            work = replace(self.work, broken_below=LARGE)
            return Remedy(work, self.settings | {"return_freed_memory": True})
        return None

    def _with(self, field: str, setting: str, value: Any) -> "Remedy":
        work = replace(self.work, **{field: value})
        return Remedy(work, self.settings | {setting: value})


def remedies(
    plan: MemoryPlan, work: Workload, replan: Replan, *, paged: bool
) -> Iterator[tuple[Remedy, MemoryPlan]]:
    """Yield ever smaller workloads, that of the plan first, until nothing more can be saved.

    Args:
        plan: of the workload.
        work: to begin with.
        replan: how another workload is planned.
        paged: whether Adam's averages may be moved out of this memory.
    """
    remedy: Remedy | None = Remedy(work, {})
    while remedy is not None:
        yield remedy, plan
        kind = plan.peak.kind
        smaller = remedy.smaller(kind, paged=paged)
        if smaller is not None:
            rows = ROWS[kind][0]
            rows_only = getattr(smaller.work, rows) != getattr(remedy.work, rows)
            kinds = [kind] if rows_only else list(ROWS)
            fresh = {phase.name: phase for phase in replan(smaller.work, kinds).phases}
            plan = MemoryPlan(tuple(fresh.get(phase.name, phase) for phase in plan.phases))
        remedy = smaller
