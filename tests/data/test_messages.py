import pytest

from hydralign.data.messages import dialogue_prompt, last_reply, messages_of, text_or_messages
from hydralign.data.records import BadRow, Message

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
HI, HELLO = Message(USER, "Hi"), Message(ASSISTANT, "Hello")


def said(role, content):
    return {"role": role, "content": content}


def shared(speaker, value):
    return {"from": speaker, "value": value}


def reason(call, *given):
    with pytest.raises(BadRow) as caught:
        call(*given)
    return str(caught.value)


@pytest.mark.parametrize(
    "messages",
    [
        [said(SYSTEM, "Be kind."), said(USER, "Hi"), said(ASSISTANT, "Hello")],
        [shared("system", "Be kind."), shared("human", "Hi"), shared("gpt", "Hello")],
        # A table fills what a message lacks with nulls.
        [
            said(SYSTEM, "Be kind.") | shared(None, None),
            said(None, None) | shared("human", "Hi"),
            said(ASSISTANT, "Hello") | {"name": None},
        ],
    ],
)
def test_both_ways_to_write_a_message(messages):
    assert messages_of({"x": messages}, "x") == (Message(SYSTEM, "Be kind."), HI, HELLO)


def test_one_message_needs_no_list():
    assert messages_of({"x": shared("gpt", "Hello")}, "x") == (HELLO,)
    assert text_or_messages({"x": said(USER, "Hi")}, "x") == (HI,)
    assert text_or_messages({"x": "Hi"}, "x") == "Hi"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Hi", "column 'x' holds str, wanted a list of messages"),
        (None, "column 'x' holds NoneType, wanted a list of messages"),
        ([], "column 'x' holds no messages"),
        (["Hi"], "column 'x' holds a list, but not of messages with role and content"),
        (
            [said(USER, "Hi"), {"role": USER}],
            "column 'x', message 2: no column 'content'; found role",
        ),
        (
            [said(USER, None)],
            "column 'x', message 1: column 'content' holds NoneType, wanted text",
        ),
        (
            [said("tool", "4")],
            "column 'x', message 1: role 'tool', wanted one of system, user, assistant",
        ),
        (
            [shared("observation", "4")],
            "column 'x', message 1: from 'observation', wanted one of system, human, gpt",
        ),
        ([shared("gpt", 4)], "column 'x', message 1: column 'value' holds int, wanted text"),
        ([{"from": "human"}], "column 'x', message 1: no column 'value'; found from"),
        ([{"text": "Hi"}], "column 'x', message 1: no column 'role'; found text"),
    ],
)
def test_what_is_no_message_is_named(value, expected):
    assert reason(messages_of, {"x": value}, "x") == expected


def test_a_column_that_is_not_there():
    assert reason(messages_of, {"y": 1}, "x") == "no column 'x'; found y"
    assert reason(text_or_messages, {"x": 3}, "x") == "column 'x' holds int, wanted text"


DIALOGUE = [said(USER, "Hi"), said(ASSISTANT, "Hello"), said(USER, "Bye"), said(ASSISTANT, "Ciao")]


def test_the_last_reply_is_the_response():
    prompt = (HI, HELLO, Message(USER, "Bye"))
    assert last_reply({"messages": DIALOGUE}, "messages") == (prompt, "Ciao")
    assert dialogue_prompt({"messages": DIALOGUE}, "messages") == prompt


def test_what_follows_the_last_reply_is_left_out():
    values = {"messages": DIALOGUE[:3]}
    assert last_reply(values, "messages") == ((HI,), "Hello")
    assert dialogue_prompt(values, "messages") == (HI,)


def test_a_dialogue_without_a_reply_is_a_prompt_and_no_demonstration():
    values = {"messages": DIALOGUE[:1]}
    assert dialogue_prompt(values, "messages") == (HI,)
    assert reason(last_reply, values, "messages") == (
        "column 'messages' ends with role 'user', wanted assistant"
    )


def test_a_reply_to_nothing():
    values = {"messages": [said(ASSISTANT, "Hello")], "system": "Be kind."}
    for call in (last_reply, dialogue_prompt):
        assert reason(call, values, "messages") == (
            "column 'messages' has nothing before the assistant's message"
        )


def test_a_system_prompt_in_a_column_beside_sharegpt_conversations():
    turns = [shared("human", "Hi"), shared("gpt", "Hello")]
    kind, strict = Message(SYSTEM, "Be kind."), shared("system", "Be strict.")
    values = {"conversations": turns, "system": "Be kind."}
    assert last_reply(values, "conversations") == ((kind, HI), "Hello")
    assert last_reply(values | {"system": ""}, "conversations") == ((HI,), "Hello")
    assert last_reply(values | {"conversations": [strict, *turns]}, "conversations") == (
        (Message(SYSTEM, "Be strict."), HI),
        "Hello",
    )
    assert reason(last_reply, values | {"system": 3}, "conversations") == (
        "column 'system' holds int, wanted text"
    )
    # Elsewhere it may be the name of what wrote the response.
    assert last_reply({"messages": DIALOGUE[:2], "system": "gpt-4"}, "messages") == ((HI,), "Hello")
