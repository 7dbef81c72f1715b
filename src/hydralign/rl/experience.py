"""A rollout, judged: what the losses need of each response."""

from dataclasses import dataclass, fields, replace
from typing import Self

from torch import Tensor

from hydralign.rl.sequences import Sequences


@dataclass(frozen=True)
class Experience:
    """One row is one response; nothing here has a gradient."""

    sequences: Sequences
    """b prompts with their responses."""
    old_logprobs: Tensor
    """(b, r) under the policy that sampled."""
    advantages: Tensor
    """(b, r) of each token, or (b,) of the whole response."""

    def select(self, rows: Tensor) -> Self:
        """Return the given rows, in that order."""
        names = [each.name for each in fields(self) if each.name != "sequences"]
        tensors = {name: getattr(self, name)[rows] for name in names}
        return replace(self, sequences=self.sequences.select(rows), **tensors)
