"""A policy that one can talk to."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from hydralign.data.encoder import Encoder
from hydralign.data.records import BadRow, Message, PromptText
from hydralign.errors import UserError
from hydralign.models.codec import Codec
from hydralign.models.roles import TextRole
from hydralign.rollout.decoding import Decoding
from hydralign.rollout.streaming import stream_text, stream_tokens


@dataclass(frozen=True)
class Speaker:
    """A policy with all that an answer takes."""

    name: str
    policy: TextRole
    codec: Codec
    encoder: Encoder
    """Its template decides what it reads: a dialogue, or the text so far."""
    device: torch.device
    precision: Callable[[], AbstractContextManager[Any]]
    """Makes the context in which it computes."""
    most_tokens: int
    """Of an answer."""
    context: int
    """Tokens that its network can take, the answer's among them."""

    def answer(self, turns: Sequence[Message], decoding: Decoding, seed: int) -> Iterator[str]:
        """Return the answer to a dialogue, in pieces as they come.

        Args:
            turns: of the dialogue so far; the oldest are left out where the network cannot take
                all.
            decoding: chooses tokens.
            seed: of the draws.

        Raises:
            UserError: if the last turn by itself is too long, or the template refuses the dialogue.
        """
        tokens = stream_tokens(
            self.policy,
            self._ids_that_fit(turns),
            self.codec,
            decoding,
            torch.Generator(self.device).manual_seed(seed),
            most=self.most_tokens,
            precision=self.precision,
        )
        return stream_text(tokens, self.codec)

    def _ids_that_fit(self, turns: Sequence[Message]) -> list[int]:
        room = self.context - self.most_tokens
        try:
            while len(ids := self.encoder.prompt_ids(self._text(turns))) > room:
                if len(turns) < 3:
                    raise UserError(
                        f"{self.name} can read {room} tokens, and that is {len(ids)}. Say it in "
                        "fewer words."
                    )
                turns = turns[2:]  # a question with its answer: templates want one after the other
        except BadRow as error:
            raise UserError(f"{self.name} cannot be asked that: {error}.") from error
        return ids

    def _text(self, turns: Sequence[Message]) -> PromptText:
        if self.encoder.template == "chat":
            return tuple(turns)
        return "".join(turn.content for turn in turns)
