"""The one layout of tokens: a left-padded prompt, then a right-padded response."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from hydralign.rl.masks import last_token_index, position_ids
from hydralign.rl.packing import PackedRows, pack_rows


@dataclass(frozen=True)
class Sequences:
    """A batch of prompts with their responses.

    Shapes: b batch, p prompt, r response, t = p + r. Masks are True on tokens that count, and are
    made from lengths: padding is never recognised by its token id.
    """

    sequence_ids: Tensor
    """(b, t) prompt tokens padded on the left, then response tokens padded on the right."""
    attention_mask: Tensor
    """(b, t) bool, True = real token."""
    response_mask: Tensor
    """(b, r) bool, True = counted response token, the stop token included."""

    @property
    def response_ids(self) -> Tensor:
        """(b, r) the response part of `sequence_ids`."""
        return self.sequence_ids[:, self.prompt_length :]

    @property
    def prompt_length(self) -> int:
        """The padded length p of the prompts."""
        return self.sequence_ids.shape[1] - self.response_mask.shape[1]

    @property
    def position_ids(self) -> Tensor:
        """(b, t) positions that do not count padding."""
        return position_ids(self.attention_mask)

    @property
    def last_token_index(self) -> Tensor:
        """(b,) index of the last counted token within the response; -1 where there is none."""
        return last_token_index(self.response_mask)

    def __len__(self) -> int:
        return self.sequence_ids.shape[0]

    def select(self, rows: Tensor | slice) -> "Sequences":
        """Return the given rows, in that order."""
        return Sequences(*(getattr(self, field.name)[rows] for field in fields(self)))

    @cached_property
    def packed(self) -> PackedRows:
        """Where the tokens stand once all padding is left out."""
        return pack_rows(self.attention_mask)

    @cached_property
    def before_counted(self) -> Tensor:
        """(n,) where the token before each counted one stands in the rows, flattened.

        The state that predicts a token is that of the token before it.
        """
        row, column = self.response_mask.nonzero(as_tuple=True)
        return row * self.sequence_ids.shape[1] + self.prompt_length - 1 + column

    @property
    def last_counted(self) -> Tensor:
        """(b,) where the last counted token of each row stands in the rows, flattened.

        Of a row without one it is the prompt's last token.
        """
        b, t = self.sequence_ids.shape
        rows = torch.arange(b, device=self.sequence_ids.device)
        return rows * t + self.prompt_length + self.last_token_index

    def counted(self, tensor: Tensor) -> Tensor:
        """Return (n, ...) what stands at the n counted response tokens.

        Args:
            tensor: (b, r, ...)
        """
        return tensor[self.response_mask]

    def to(self, device: torch.device | str) -> "Sequences":
        """Return the same batch on another device."""
        return Sequences(*(getattr(self, field.name).to(device) for field in fields(self)))


def pad_sequences(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int
) -> Sequences:
    """Lay out token lists of uneven length as one batch.

    Args:
        prompts: b lists of prompt tokens, of any length.
        responses: b lists of response tokens, of any length.
        pad_id: the id written into padding. Masks come from the lengths, so it may be a token that
            also occurs in the text.

    Returns:
        the batch (b, t), with p and r the longest lengths (at least 1).
    """
    p = max(1, *(len(ids) for ids in prompts)) if prompts else 1
    r = max(1, *(len(ids) for ids in responses)) if responses else 1
    sequence_ids = torch.full((len(prompts), p + r), pad_id, dtype=torch.long)
    attention_mask = torch.zeros(len(prompts), p + r, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        tokens = slice(p - len(prompt), p + len(response))
        sequence_ids[row, tokens] = torch.tensor([*prompt, *response], dtype=torch.long)
        attention_mask[row, tokens] = True
    return Sequences(sequence_ids, attention_mask, attention_mask[:, p:].clone())
