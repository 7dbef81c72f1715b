"""The one layout of tokens: a left-padded prompt, then a right-padded response."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hydralign.rl.masks import last_token_index, position_ids


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

    def length_groups(self, pass_cost: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut the batch into groups of alike length, so that little of each is padding.

        Args:
            pass_cost: padded tokens that are as bad as one group more.

        Yields:
            the (n,) rows of a group, and the (n, w) columns of each, from its first token on; what
            is shorter than the w of the longest ends in padding.
        """
        t = self.sequence_ids.shape[1]
        lengths, order = self.attention_mask.sum(dim=-1).sort(stable=True)
        first = self.prompt_length - self.attention_mask[:, : self.prompt_length].sum(dim=-1)
        widths = lengths.tolist()
        for start, end in _cuts(widths, pass_cost):
            rows, width = order[start:end], widths[end - 1]
            columns = first[rows].unsqueeze(-1) + torch.arange(width, device=rows.device)
            yield rows, columns % t  # beyond the end lies the padding at the front

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


def _cuts(lengths: Sequence[int], pass_cost: int) -> list[tuple[int, int]]:
    """Cut rows of rising length into the stretches that are cheapest in all.

    A stretch costs its rows times the length of its last one, and `pass_cost`. Dynamic programming.
    """
    best, start_of = [0], [0]  # of the first n rows: the cost, and where the last stretch starts
    for end in range(1, len(lengths) + 1):
        costs = [best[start] + (end - start) * lengths[end - 1] for start in range(end)]
        cheapest = min(costs)
        best.append(cheapest + pass_cost)
        start_of.append(costs.index(cheapest))
    cuts, end = [], len(lengths)
    while end:
        cuts.append((start_of[end], end))
        end = start_of[end]
    return cuts[::-1]
