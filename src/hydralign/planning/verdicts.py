"""A plan in words: its table, and which cards it fits."""

from collections.abc import Iterator

from hydralign.planning.plan import CARDS_GB, MemoryPlan
from hydralign.planning.remedies import Remedy
from hydralign.summary import Row, aligned_table


def plan_table(plan: MemoryPlan) -> str:
    """Return the plan's phases as a table for the console, the peak in bold."""
    head, *rows = plan.table()
    peak = [row[0] == plan.peak.name for row in rows]
    return aligned_table(head, [Row(row, bold) for row, bold in zip(rows, peak, strict=True)])


def fitting_overrides(smaller: Iterator[tuple[Remedy, MemoryPlan]]) -> dict[int, str | None]:
    """Find for each size of card the first workload that fits it.

    Args:
        smaller: ever smaller workloads with their plans, the present one first.

    Returns:
        the overrides that lead to it: none where it fits as it is, None where nothing helps.
    """
    found: dict[int, str | None] = dict.fromkeys(CARDS_GB)
    left = sorted(CARDS_GB)
    for remedy, plan in smaller:
        while left and plan.fits(left[-1]):
            found[left.pop()] = remedy.overrides()
        if not left:
            break
    return found


def verdict(overrides: str | None) -> str:
    """Say what the overrides of `fitting_overrides` mean."""
    if overrides is None:
        return "does not fit"
    return f"fits with {overrides}" if overrides else "fits"
