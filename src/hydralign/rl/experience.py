"""A rollout, judged: what PPO's losses need of each response."""

from dataclasses import dataclass

from torch import Tensor

from hydralign.rl.sequences import Sequences


@dataclass(frozen=True)
class Experience:
    """One row is one response; nothing here has a gradient."""

    sequences: Sequences
    """b prompts with their responses."""
    old_logprobs: Tensor
    """(b, r) under the policy that sampled."""
    old_values: Tensor
    """(b, r) the value before each token, at sampling time."""
    advantages: Tensor
    """(b, r) whitened over the whole rollout."""
    returns: Tensor
    """(b, r) what the value model should have said."""

    def select(self, rows: Tensor) -> "Experience":
        """Return the given rows, in that order."""
        return Experience(
            self.sequences.select(rows),
            self.old_logprobs[rows],
            self.old_values[rows],
            self.advantages[rows],
            self.returns[rows],
        )
