"""From text to token ids."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydralign.data.records import BadRow, PromptText
from hydralign.data.templates import chat_text, check_template, dialogue_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoder:
    """A tokenizer with a template and length limits."""

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    """plain: the text as it is, after the begin-of-sequence token if there is one.
    chat: the tokenizer's chat template."""
    stop_id: int
    """Ends every response."""
    max_prompt_tokens: int
    max_response_tokens: int
    """Of demonstrations, the stop token included."""
    max_comparison_tokens: int | None = None
    """Of compared responses, the stop token included; None for the limit of demonstrations."""
    _texts: dict[PromptText, str] = field(default_factory=dict, init=False, repr=False)
    _ids: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)
    """What was read ahead."""

    def __post_init__(self) -> None:
        check_template(self.template)

    def read_ahead(self, asked: Iterable[tuple[PromptText, Sequence[str]]]) -> None:
        """Tokenise what will be asked for next at once, and forget what was read ahead before.

        Each text is tokenised once instead of at each mention, and on all cores.

        Args:
            asked: prompts with their responses.
        """
        self._texts.clear()
        self._ids.clear()
        for prompt, responses in asked:
            with suppress(BadRow):  # to be said when it is asked for
                self._texts[prompt] = text = self.prompt_text(prompt)
                for end in ("", *(self._spaced(prompt, response) for response in responses)):
                    self._ids[text + end] = []
        if self._ids:
            ids = self.tokenizer(list(self._ids), add_special_tokens=False, verbose=False)
            self._ids.update(zip(self._ids, ids["input_ids"], strict=True))

    def prompt_text(self, prompt: PromptText) -> str:
        """Return a prompt as it is tokenised.

        Raises:
            BadRow: if the chat template refuses it.
        """
        if prompt in self._texts:
            return self._texts[prompt]
        if self.template == "chat":
            return chat_text(prompt, self.tokenizer)
        return dialogue_text(prompt)

    def prompt_ids(self, prompt: PromptText) -> list[int]:
        """Return the tokens of a prompt, at least one: the first response token needs one before.

        Raises:
            BadRow: if there are more than `max_prompt_tokens`.
        """
        ids = self._tokenize(self.prompt_text(prompt)) or self._lone_start()
        if len(ids) > self.max_prompt_tokens:
            raise BadRow(
                f"the prompt has more than max_prompt_tokens={self.max_prompt_tokens} tokens"
            )
        return ids

    def response_ids(self, prompt: PromptText, response: str) -> list[int]:
        """Return the tokens of a response to a prompt, the stop token at the end.

        Raises:
            BadRow: if no token is left, or the response itself contains the stop token.
        """
        response = self._spaced(prompt, response)
        prompt_text = self.prompt_text(prompt)
        prompt_ids, joined = self._tokenize(prompt_text), self._tokenize(prompt_text + response)
        # Tokenising the response alone would add a word boundary that the text does not have
        # (SentencePiece writes one before every text). Cut from the whole it is what the model
        # would have to write. Where a token spans the border there is no such cut; the prompt is
        # what a policy is given, so it stays whole and the response is tokenised apart.
        if joined[: len(prompt_ids)] == prompt_ids:
            ids = joined[len(prompt_ids) :]
        else:
            ids = self._raw_ids(response)
        if not ids:
            raise BadRow("the response has no tokens")
        if self.stop_id in ids:
            raise BadRow("the response contains the stop token")
        return [*ids, self.stop_id]

    def whole_text(self, prompt: PromptText, response: str) -> str | None:
        """Return a prompt and a response as one text that is read as the same tokens.

        The stop token is not in it. None where a token would span the border: there is no such
        text then.
        """
        text = self.prompt_text(prompt) + self._spaced(prompt, response)
        prompt_ids = self._tokenize(self.prompt_text(prompt))
        return (
            text if prompt_ids and self._tokenize(text)[: len(prompt_ids)] == prompt_ids else None
        )

    def _spaced(self, prompt: PromptText, response: str) -> str:
        if self.template == "plain" and not isinstance(prompt, str):
            return " " + response.lstrip(" ")  # "Assistant:" wants a space before the reply
        return response

    def _tokenize(self, text: str) -> list[int]:
        """Tokenise from the start of a sequence: one begin-of-sequence token, never two."""
        ids, bos = self._raw_ids(text), self.tokenizer.bos_token_id
        if bos is None:
            return ids
        if self.template == "plain" and ids[:1] != [bos]:
            return [bos, *ids]
        while ids[:2] == [bos, bos]:
            ids = ids[1:]
        return ids

    def _raw_ids(self, text: str) -> list[int]:
        if text in self._ids:
            return self._ids[text]
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def _lone_start(self) -> list[int]:
        # An empty prompt, and no begin-of-sequence token to stand for it.
        if self.tokenizer.eos_token_id is None:
            raise BadRow("empty prompt, and the tokenizer has no token that begins a sequence")
        return [self.tokenizer.eos_token_id]
