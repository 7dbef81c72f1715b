"""Your own file: one record to a row, in any of the forms that people keep such data in.

A row's form is told by its columns. Where a row has several forms, each kind of record takes the
first of `FORMS` that offers it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hydralign.data.mapping import row_wise
from hydralign.data.messages import (
    dialogue_prompt,
    last_reply,
    messages_of,
    split_reply,
    text_or_messages,
)
from hydralign.data.preferences import PROMPT_COLUMNS, pair, prompt_and_sides
from hydralign.data.rankings import (
    chosen_summary,
    post_to_summarise,
    prompt_or_instruction,
    ranking,
    rated_completions,
)
from hydralign.data.records import BadRow, Comparison, Demonstration, Prompt, PromptText
from hydralign.data.rows import holds, text_of, value_of

R = TypeVar("R")
Values = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """What can be made of rows that have a certain column."""

    prompt: Callable[[Values], PromptText]
    demonstration: Callable[[Values], tuple[PromptText, str]] | None = None
    """Returns the prompt and the response."""
    comparison: Callable[[Values], Comparison] | None = None


@row_wise
def demonstration(values: Values) -> Demonstration:
    """Make a demonstration of a response, a dialogue's last reply, or what people preferred."""
    return Demonstration(*_made(values, "demonstration", lambda form: form.demonstration))


@row_wise
def comparison(values: Values) -> Comparison:
    """Make a comparison of a pair, or of ranked or rated responses."""
    return _made(values, "comparison", lambda form: form.comparison)


@row_wise
def prompt(values: Values) -> Prompt:
    """Make a prompt of a row in any form, and of `answer`, where there is one."""
    answer = text_of(values, "answer") if holds(values, "answer") else None
    return Prompt(_made(values, "prompt", lambda form: form.prompt), answer)


def _made(values: Values, kind: str, maker: Callable[[Form], Callable[[Values], R] | None]) -> R:
    for column, form in FORMS.items():
        make = maker(form)
        if make is not None and holds(values, column):
            return make(values)
    found = ", ".join(map(str, values)) or "none"
    raise BadRow(f"no {kind} in columns {found}; wanted {_WANTED[kind]}")


def _prompt(values: Values) -> PromptText:
    return text_or_messages(values, "prompt")


def _response(values: Values) -> tuple[PromptText, str]:
    return _prompt(values), text_of(values, "response")


def _completion(values: Values) -> tuple[PromptText, str]:
    if isinstance(value_of(values, "completion"), str):
        return _prompt(values), text_of(values, "completion")
    history, reply = split_reply(messages_of(values, "completion"), "completion")
    if history:
        raise BadRow(f"column 'completion' holds {len(history) + 1} messages, wanted one")
    return _prompt(values), reply


def _dialogue(column: str) -> Form:
    return Form(
        lambda values: dialogue_prompt(values, column),
        demonstration=lambda values: last_reply(values, column),
    )


def _preferred(
    compare: Callable[[Values], Comparison],
) -> Callable[[Values], tuple[PromptText, str]]:
    def demonstrated(values: Values) -> tuple[PromptText, str]:
        compared = compare(values)
        return compared.prompt, compared.responses[compared.ranks.index(min(compared.ranks))]

    return demonstrated


FORMS = {
    "response": Form(_prompt, _response),
    "completion": Form(_prompt, _completion),
    "responses": Form(_prompt, comparison=ranking),
    "chosen": Form(lambda values: prompt_and_sides(values)[0], _preferred(pair), pair),
    "messages": _dialogue("messages"),
    "conversations": _dialogue("conversations"),
    "completions": Form(prompt_or_instruction, _preferred(rated_completions), rated_completions),
    "summaries": Form(post_to_summarise, _preferred(chosen_summary), chosen_summary),
    "prompt": Form(_prompt, _response),  # which says that there is no response
}
"""By the column that tells a form. Own rows come first: what they hold is meant."""

_RATED = "instruction + completions, or info + summaries + choice"
_WANTED = {
    "demonstration": "prompt + response (or completion), messages, conversations, "
    f"chosen + rejected, {_RATED}",
    "comparison": "prompt + responses + ranks (or ratings, scores), chosen + rejected (beside one "
    f"of {', '.join(PROMPT_COLUMNS)}, if the prompt stands apart), {_RATED}",
    "prompt": "prompt, or the columns of a demonstration or a comparison",
}
