"""Dialogues as lists of messages, in the two ways that data sets write them.

A message has `role` and `content`, or, as in ShareGPT, `from` (system, human, gpt) and `value`.
"""

from typing import Any

from hydralign.data.records import BadRow, Message, PromptText
from hydralign.data.rows import text_of, value_of, within

_SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
SYSTEM_BESIDE = ("conversations", "question")
"""Columns that are known to have the system prompt in a column `system` beside them."""

Turns = tuple[Message, ...]


def messages_of(values: dict[str, Any], column: str) -> Turns:
    """Return the messages in a column that holds a list of them, or a single one.

    Raises:
        BadRow: if the row has no such column, or it holds anything else or nothing.
    """
    value = value_of(values, column)
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise BadRow(f"column {column!r} holds {type(value).__name__}, wanted a list of messages")
    if not all(isinstance(message, dict) for message in messages):
        raise BadRow(f"column {column!r} holds a list, but not of messages with role and content")
    if not messages:
        raise BadRow(f"column {column!r} holds no messages")
    turns = []
    for number, message in enumerate(messages, start=1):
        with within(f"column {column!r}, message {number}"):
            turns.append(_message(message))
    return tuple(turns)


def text_or_messages(values: dict[str, Any], column: str) -> PromptText:
    """Return what a column holds, a text or messages.

    Raises:
        BadRow: if the row has no such column, or it holds neither.
    """
    value = value_of(values, column)
    if isinstance(value, list | dict):
        return messages_of(values, column)
    return text_of(values, column)


def split_reply(turns: Turns, column: str) -> tuple[Turns, str]:
    """Take a dialogue apart that ends with a reply.

    Args:
        turns: at least one.
        column: that they come from, for the message.

    Returns:
        the turns before the reply, perhaps none, and the reply.

    Raises:
        BadRow: if the last message is not the assistant's.
    """
    if turns[-1].role != "assistant":
        raise BadRow(f"column {column!r} ends with role {turns[-1].role!r}, wanted assistant")
    return turns[:-1], turns[-1].content


def last_reply(values: dict[str, Any], column: str) -> tuple[PromptText, str]:
    """Return what comes before the assistant's last message in a dialogue, and that message.

    Raises:
        BadRow: if the assistant says nothing, or nothing is said before.
    """
    history, reply = split_reply(_up_to_last_reply(messages_of(values, column)), column)
    if not history:
        raise BadRow(f"column {column!r} has nothing before the assistant's message")
    return with_system(values, history, column), reply


def dialogue_prompt(values: dict[str, Any], column: str) -> PromptText:
    """Return the same prompt as `last_reply`, or all of a dialogue that has no reply yet.

    Raises:
        BadRow: if nothing is said before the reply.
    """
    turns = _up_to_last_reply(messages_of(values, column))
    if turns[-1].role == "assistant":
        return last_reply(values, column)[0]
    return with_system(values, turns, column)


def with_system(values: dict[str, Any], prompt: PromptText, column: str) -> PromptText:
    """Put the text of the column `system`, where there is one, before a prompt that has none.

    Args:
        values: of the row.
        prompt: of the row.
        column: that it comes from. Beside others than `SYSTEM_BESIDE`, `system` may be anything.
    """
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if column not in SYSTEM_BESIDE or not values.get("system") or turns[0].role == "system":
        return prompt
    return (Message("system", text_of(values, "system")), *turns)


def _up_to_last_reply(turns: Turns) -> Turns:
    replies = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    return turns[: replies[-1] + 1] if replies else turns


def _message(message: dict[str, Any]) -> Message:
    if message.get("from") is None:
        return Message(text_of(message, "role"), text_of(message, "content"))
    speaker = text_of(message, "from")
    if speaker not in _SHAREGPT_ROLES:
        raise BadRow(f"from {speaker!r}, wanted one of {', '.join(_SHAREGPT_ROLES)}")
    return Message(_SHAREGPT_ROLES[speaker], text_of(message, "value"))
