"""One sample as the model sees it, with what is learned from it."""

from typing import TYPE_CHECKING

from rich.text import Text

from hydralign.data.examples import (
    ComparisonExample,
    DemonstrationExample,
    Example,
    PromptExample,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEARNED = "bold green"
_UNLEARNED = "dim"


def preview(example: Example, tokenizer: "PreTrainedTokenizerBase") -> Text:
    """Decode an example, special tokens included, and mark its counted tokens with ⟦ and ⟧.

    Args:
        example: of any kind.
        tokenizer: that it was encoded with.

    Returns:
        text that a terminal shows in colour; `str` of it is plain and has the same marks.
    """
    match example:
        case DemonstrationExample():
            return _demonstration(example, tokenizer)
        case ComparisonExample():
            return _comparison(example, tokenizer)
        case PromptExample():
            return _prompt(example, tokenizer)


def _demonstration(example: DemonstrationExample, tokenizer: "PreTrainedTokenizerBase") -> Text:
    counts = f"{len(example.prompt_ids)} prompt tokens, {len(example.response_ids)} learned\n"
    return Text.assemble(
        (counts, _UNLEARNED),
        _row(example.prompt_ids, example.response_ids, tokenizer),
    )


def _comparison(example: ComparisonExample, tokenizer: "PreTrainedTokenizerBase") -> Text:
    text = Text(f"{len(example.responses)} responses, {len(example.pairs)} pairs", _UNLEARNED)
    for index, response in enumerate(example.responses):
        wins = sum(pair.first == index and pair.target == 1 for pair in example.pairs)
        losses = sum(pair.second == index and pair.target == 1 for pair in example.pairs)
        text.append(f"\n{wins} won, {losses} lost: ", _UNLEARNED)
        text.append_text(_row(example.prompt_ids, response, tokenizer))
    return text


def _prompt(example: PromptExample, tokenizer: "PreTrainedTokenizerBase") -> Text:
    text = Text(f"{len(example.prompt_ids)} prompt tokens\n", _UNLEARNED)
    text.append(_decode(example.prompt_ids, tokenizer))
    if example.answer is not None:
        text.append(f"\nanswer: {example.answer}", _UNLEARNED)
    return text


def _row(
    prompt_ids: list[int], response_ids: list[int], tokenizer: "PreTrainedTokenizerBase"
) -> Text:
    return Text.assemble(
        (_decode(prompt_ids, tokenizer), _UNLEARNED),
        (f"⟦{_decode(response_ids, tokenizer)}⟧", _LEARNED),
    )


def _decode(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
