"""From dry runs to a plan: bytes by phase and kind, the peak, and what it fits."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from hydralign.models.adapters import LoraShape
from hydralign.models.assembly import RoleSpec
from hydralign.planning.dry_run import PHASE_KINDS, Phase, Workload, dry_run
from hydralign.planning.fake_roles import FakeBase, fake_roles

KINDS = (
    "process",
    "weights",
    "adapters",
    "optimizer",
    "gradients",
    "KV cache",
    "activations",
    "logits",
    "fragments",
)
"""What memory is for, in the order of the table."""

CARDS_GB = (8, 12, 16, 24)
"""Sizes of the cards that people have."""

CARD_OVERHEAD_GB = 0.7
"""Left to the CUDA context, the libraries' workspaces and a desktop: an allowance."""

FEW_LAYERS = (2, 3)
"""A network repeats one layer, so two small ones tell what a large one takes."""


@dataclass(frozen=True)
class MemoryPlan:
    """What each phase of a stage takes at its peak."""

    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def peak_gb(self) -> float:
        """Its bytes, in GB."""
        return self.peak.total / 1e9

    def plus(self, kind: str, size: int) -> "MemoryPlan":
        """Return the plan with some bytes more in every phase.

        Args:
            kind: what they are for.
            size: how many.
        """
        more = Counter({kind: size})
        return MemoryPlan(tuple(replace(phase, bytes=phase.bytes + more) for phase in self.phases))

    def fits(self, card_gb: float) -> bool:
        """Say whether a card of that size has room for it.

        Args:
            card_gb: as the card is sold: GiB.
        """
        return self.peak_gb <= card_gb * 2**30 / 1e9 - CARD_OVERHEAD_GB

    def summary(self) -> str:
        """Say in one line what it comes to."""
        return f"{self.peak_gb:.2f} GB ({self.peak.name})"

    def table(self) -> list[list[str]]:
        """Return rows of text, with a head: GB by phase and kind."""
        kinds = [kind for kind in KINDS if any(phase.bytes[kind] for phase in self.phases)]
        rows = [["phase", *kinds, "GB in all"]]
        for phase in self.phases:
            cells = [f"{phase.bytes[kind] / 1e9:.2f}" for kind in kinds]
            rows.append([phase.name, *cells, f"{phase.total / 1e9:.2f}"])
        return rows

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "MemoryPlan":
        """Return the plan that `as_json` wrote.

        Args:
            values: of the file.
        """
        phases = values["phases"].items()
        return cls(tuple(Phase(name, Counter(kinds)) for name, kinds in phases))

    def as_json(self) -> dict[str, Any]:
        """Return the plan for `plan.json`."""
        return {
            "peak_gb": self.peak_gb,
            "peak_phase": self.peak.name,
            "phases": {phase.name: dict(phase.bytes) for phase in self.phases},
        }


def plan_memory(
    base: FakeBase,
    shape: LoraShape | None,
    specs: Mapping[str, RoleSpec],
    work: Workload,
    kinds: Collection[str] = PHASE_KINDS,
) -> MemoryPlan:
    """Plan a stage's memory without loading anything.

    Args:
        base: of its roles.
        shape: of their adapters; None gives each its own network.
        specs: the roles that the stage asks for.
        work: how large its passes are.
        kinds: of passes to look at.
    """
    config = base.config.get_text_config()
    counts = [n for n in FEW_LAYERS if n < config.num_hidden_layers] or [config.num_hidden_layers]
    runs = [
        dry_run(fake_roles(_with_layers(base, n), shape, specs), work, config.vocab_size, kinds)
        for n in counts
    ]
    phases = _extended(runs[0], runs[-1], config.num_hidden_layers - counts[-1])
    return MemoryPlan(tuple(phases))


def _with_layers(base: FakeBase, layers: int) -> FakeBase:
    config = deepcopy(base.config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return replace(base, config=config)


def _extended(fewer: Sequence[Phase], more: Sequence[Phase], missing: int) -> list[Phase]:
    """Add what one layer more has cost, once for each layer that is missing."""
    return [
        Phase(b.name, Counter({k: b.bytes[k] + missing * (b.bytes[k] - a.bytes[k]) for k in KINDS}))
        for a, b in zip(fewer, more, strict=True)
    ]
