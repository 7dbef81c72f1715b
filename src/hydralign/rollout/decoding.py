"""How the next token is chosen when a policy is used: greedy, or from a cut distribution.

Training samples from the whole distribution and knows nothing of this.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hydralign.errors import UserError
from hydralign.rollout.sampling import draw_tokens


@dataclass(frozen=True)
class Decoding:
    """Chooses tokens. First the temperature applies, then `top_k`, then `top_p`.

    Raises:
        UserError: if a value is out of bounds.
    """

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """The likeliest tokens whose probabilities just add up to so much are left (nucleus sampling,
    arXiv 1904.09751)."""
    top_k: int | None = None
    """So many of the likeliest tokens are left; None leaves all."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature:g}: at least 0, which is greedy.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p:g}: above 0, and at most 1, which leaves all.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k {self.top_k}: at least 1.")

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Choose a token for each row.

        Args:
            logits: (b, v).
            uniform: (b, 1) from [0, 1), what the draw is made of.

        Returns:
            (b, 1) ids.
        """
        if self.temperature == 0:
            return logits.argmax(-1, keepdim=True)
        probs = (logits.float() / self.temperature).softmax(-1)
        if self.top_k is not None:
            probs = keep_top_k(probs, self.top_k)
        if self.top_p < 1:
            probs = keep_top_p(probs, self.top_p)
        return draw_tokens(probs, uniform)


GREEDY = Decoding(temperature=0)


def keep_top_k(probs: Tensor, k: int) -> Tensor:
    """Leave the k likeliest tokens.

    Args:
        probs: (b, v).
        k: how many; all where there are fewer.

    Returns:
        (b, v) that add up to 1, 0 for all others.
    """
    values, ids = probs.topk(min(k, probs.shape[-1]))
    return torch.zeros_like(probs).scatter(-1, ids, values / values.sum(-1, keepdim=True))


def keep_top_p(probs: Tensor, p: float) -> Tensor:
    """Leave the likeliest tokens that add up to p, the one that takes the sum there included.

    Args:
        probs: (b, v).
        p: above 0.

    Returns:
        (b, v) that add up to 1, 0 for all others.
    """
    values, ids = probs.sort(dim=-1, descending=True)
    before = values.cumsum(-1) - values
    kept = values.where(before < p, 0)
    kept[..., 0] = values[..., 0]  # one always stays, whatever rounding makes of the sums
    return torch.zeros_like(probs).scatter(-1, ids, kept / kept.sum(-1, keepdim=True))
