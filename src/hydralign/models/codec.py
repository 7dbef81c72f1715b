"""The special tokens of a model, decided once, and the way from token ids back to text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hydralign.errors import UserError
from hydralign.rl.sequences import Sequences


@dataclass(frozen=True)
class Codec:
    """A tokenizer with the ids that mean something."""

    tokenizer: PreTrainedTokenizerBase
    pad_id: int
    """Fills padding; differs from every stop id wherever the vocabulary allows."""
    stop_ids: tuple[int, ...]
    """Any of these ends a response. The first one is what training responses end with."""

    @property
    def stop_id(self) -> int:
        """The stop token that training responses end with."""
        return self.stop_ids[0]

    def decode(self, sequences: Sequences) -> list[str]:
        """Return the b responses as text, without special tokens."""
        return [
            self.decode_ids(ids[mask])
            for ids, mask in zip(sequences.response_ids, sequences.response_mask, strict=True)
        ]

    def decode_ids(self, ids: Tensor | Sequence[int]) -> str:
        """Return the text of (n,) token ids, without special tokens."""
        text = self.tokenizer.decode(
            torch.as_tensor(ids).tolist(),
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return str(text)

    def pieces(self, ids: Tensor | Sequence[int]) -> list[str]:
        """Return what each of (n,) token ids adds to the text; of special tokens their name.

        A character that is spread over several tokens counts as the last one's.
        """
        numbers = torch.as_tensor(ids).tolist()
        found, so_far = [], ""
        for end, number in enumerate(numbers, start=1):
            if number in self.tokenizer.all_special_ids:
                found.append(str(self.tokenizer.convert_ids_to_tokens(number)))
                continue
            text = self.decode_ids(numbers[:end])
            whole = not text.endswith("\N{REPLACEMENT CHARACTER}") or end == len(numbers)
            found.append(text[len(so_far) :] if whole else "")
            so_far = text if whole else so_far
        return found

    def describe(self) -> str:
        """Say in one line which ids pad and stop."""
        name = self.tokenizer.convert_ids_to_tokens
        stops = ", ".join(f"{name(stop)!r} ({stop})" for stop in self.stop_ids)
        return f"pad {name(self.pad_id)!r} ({self.pad_id}), stop {stops}"


def make_codec(tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str] = ()) -> Codec:
    """Decide pad and stop ids for a tokenizer.

    Args:
        tokenizer: of the model.
        stop_tokens: tokens that end a response besides the end-of-sequence token, such as the
            end of a turn.

    Raises:
        UserError: if a stop token is not in the vocabulary, or there is nothing to stop at.
    """
    stops = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for token in stop_tokens:
        token_id = tokenizer.convert_tokens_to_ids(token)
        if token_id is None or token_id == tokenizer.unk_token_id:
            raise UserError(
                f"model.stop_tokens names {token!r}, which is not in the tokenizer's vocabulary. "
                f"Its special tokens are: {', '.join(tokenizer.all_special_tokens)}."
            )
        stops.append(token_id)
    if not stops:
        raise UserError(
            "The tokenizer has no end-of-sequence token, so no response could ever end. "
            "Name one: model.stop_tokens=[TOKEN]."
        )
    stop_ids = tuple(dict.fromkeys(stops))
    pad_id = _pad_id(tokenizer, stop_ids)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    return Codec(tokenizer, pad_id, stop_ids)


def _pad_id(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> int:
    # Plain Hugging Face classifiers find the last token by the pad id, so one that is also a stop
    # token would make them score the token before it. Any other special token serves better.
    taken = {*stop_ids, tokenizer.bos_token_id}
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, *tokenizer.all_special_ids]
    free = [token for token in candidates if token is not None and token not in taken]
    return free[0] if free else stop_ids[0]
