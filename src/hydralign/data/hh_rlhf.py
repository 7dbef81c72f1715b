r"""Pairs of dialogues that differ in their last reply, in the columns of the HH-RLHF data set.

A dialogue is one text: "\n\nHuman: ...\n\nAssistant: ...", and so on.
"""

import re
from typing import Any

from hydralign.data.mapping import row_wise
from hydralign.data.records import BadRow, Comparison, Demonstration, Message, Prompt
from hydralign.data.rows import text_of

_LAST_REPLY = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def split_dialogue(text: str) -> tuple[tuple[Message, ...], str]:
    """Take a dialogue apart.

    Returns:
        the turns before the last reply, and the last reply.

    Raises:
        BadRow: if there is no reply, or nothing before it.
    """
    history, found, reply = text.rpartition(_LAST_REPLY)
    if not found:
        raise BadRow("no 'Assistant:' in the dialogue")
    before, *pieces = _TURN.split("\n\n" + history.lstrip())
    if before.strip() or not pieces:
        raise BadRow("the dialogue does not begin with 'Human:' or 'Assistant:'")
    speakers, contents = pieces[::2], pieces[1::2]
    turns = zip(speakers, contents, strict=True)
    return tuple(Message(_ROLES[who], what.strip()) for who, what in turns), reply.strip()


def split_pair(chosen: str, rejected: str) -> tuple[tuple[Message, ...], str, str]:
    """Take two dialogues apart that differ in their last reply.

    Returns:
        the turns before it, the chosen reply, and the rejected one.

    Raises:
        BadRow: if they differ before, or one of them has no reply.
    """
    prompt, chosen_reply = split_dialogue(chosen)
    rejected_prompt, rejected_reply = split_dialogue(rejected)
    if prompt != rejected_prompt:
        raise BadRow("chosen and rejected differ before their last reply")
    return prompt, chosen_reply, rejected_reply


@row_wise
def comparison(values: dict[str, Any]) -> Comparison:
    """Make a comparison of `chosen` and `rejected`."""
    prompt, chosen, rejected = split_pair(text_of(values, "chosen"), text_of(values, "rejected"))
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    return Comparison(prompt, (chosen, rejected), (0.0, 1.0))


@row_wise
def demonstration(values: dict[str, Any]) -> Demonstration:
    """Make a demonstration of `chosen`."""
    return Demonstration(*split_dialogue(text_of(values, "chosen")))


@row_wise
def prompt(values: dict[str, Any]) -> Prompt:
    """Make a prompt of what comes before the last reply in `chosen`."""
    return Prompt(split_dialogue(text_of(values, "chosen"))[0])
