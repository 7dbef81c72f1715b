"""The scalar head of value model and reward model."""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """One number per hidden state, in fp32, shifted and scaled to the scores' normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, hidden_size: int, generator: torch.Generator | None = None) -> None:
        """Draw the weights from N(0, 1 / (hidden_size + 1)), as Stiennon et al. 2020 do.

        Args:
            hidden_size: length of a hidden state.
            generator: source of the draw.
        """
        super().__init__()
        weight = torch.empty(1, hidden_size).normal_(
            std=(hidden_size + 1) ** -0.5, generator=generator
        )
        self.weight = nn.Parameter(weight)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

        self.seen: Sequence[float] | None = None
        """The lowest and the highest score of what the head was tested on; None is not known."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map hidden states (..., d) to normalised numbers (...)."""
        with torch.autocast(hidden_states.device.type, enabled=False):  # it would round to 8 bits
            raw = hidden_states.float() @ self.weight.float().squeeze(0)
        return (raw - self.mean) / self.std

    @torch.no_grad()
    def normalise_on(self, scores: Tensor) -> None:
        """Make the given (n,) scores, as this head gave them, have mean 0 and std 1.

        Args:
            scores: at least two, of the samples that set the scale.
        """
        self.mean += self.std * scores.mean()
        self.std *= scores.std(correction=0).clamp(min=1e-6)

    def saw(self, scores: Tensor) -> None:
        """Widen the range of scores that it was tested on.

        Args:
            scores: (n,), normalised.
        """
        low, high = self.seen or (inf, -inf)
        self.seen = min(low, scores.min().item()), max(high, scores.max().item())
