"""A conversation: what policies read, commands, and answers that are stopped."""

import itertools

import pytest
import torch

from hydralign.chat.session import COMMANDS, Session, obey
from hydralign.data.records import Message
from hydralign.errors import UserError
from hydralign.rollout.decoding import GREEDY, Decoding
from hydralign.rollout.streaming import stream_text, stream_tokens
from hydralign.talk import open_speakers


@pytest.fixture
def speakers(finish, tmp_path):
    """Two policies on plain text, one of them an adapter."""
    finish(tmp_path / "sft", "sft", seed=1)
    finish(tmp_path / "ppo", "ppo", kind="lora", seed=2)
    return open_speakers([tmp_path / "sft", tmp_path / "ppo"])


def answer_to(speaker, ids, decoding, seed):
    """What the policy writes after some tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = stream_tokens(
        speaker.policy, ids, speaker.codec, decoding, generator, most=speaker.most_tokens
    )
    return "".join(stream_text(tokens, speaker.codec))


def said(session, text):
    """The whole answers."""
    answers = [""] * len(session.speakers)
    for number, piece in session.ask(text):
        answers[number] += piece
    return answers


def test_plain_policies_go_on_with_the_text_so_far_each_with_its_own(speakers):
    session = Session(speakers, Decoding(), seed=5)
    first, second = said(session, "xy"), said(session, "z")
    assert first[0] != first[1]
    for number, speaker in enumerate(speakers):
        # <bos> is 1, x 26
        assert first[number] == answer_to(speaker, [1, 26, 27], Decoding(), 5)
        ids = speaker.codec.tokenizer.encode(f"xy{first[number]}z", add_special_tokens=False)
        assert second[number] == answer_to(speaker, [1, *ids], Decoding(), 6)


def test_chat_policies_read_the_dialogue_in_their_template(finish, tmp_path):
    finish(tmp_path / "chat", "sft", template="chat")
    (speaker,) = open_speakers([tmp_path / "chat"])
    session = Session([speaker], GREEDY)
    (first,) = said(session, "xy")
    (second,) = said(session, "z")
    encode = speaker.codec.tokenizer.encode
    assert first == answer_to(speaker, encode("[xy]", add_special_tokens=False), GREEDY, 0)
    ids = encode(f"[xy][{first}][z]", add_special_tokens=False)
    assert second == answer_to(speaker, ids, GREEDY, 0)


def test_the_oldest_turns_are_left_out_where_the_network_cannot_take_all(speakers):
    speaker = speakers[0]  # 64 tokens, 6 of them for the answer
    assert (speaker.context, speaker.most_tokens) == (64, 6)
    turns = [Message("user", "x" * 30), Message("assistant", "y" * 20), Message("user", "z" * 9)]
    expected = answer_to(speaker, [1, *[28] * 9], GREEDY, 0)
    assert "".join(speaker.answer(turns, GREEDY, 0)) == expected
    turns = [Message("user", "x" * 20), Message("assistant", "y" * 20), Message("user", "z" * 17)]
    whole = [1, *[26] * 20, *[27] * 20, *[28] * 17]  # 58: just enough
    assert "".join(speaker.answer(turns, GREEDY, 0)) == answer_to(speaker, whole, GREEDY, 0)
    with pytest.raises(UserError, match="sft can read 58 tokens, and that is 61"):
        speaker.answer([Message("user", "x" * 60)], GREEDY, 0)


def test_an_answer_that_is_stopped_counts_as_far_as_it_came(speakers):
    asked = [Message("user", "xy")]
    seed = next(  # none stops before its second token
        seed
        for seed in range(99)
        if all(len(list(each.answer(asked, Decoding(), seed))) > 2 for each in speakers)
    )
    session = Session(speakers, Decoding(), seed)
    pieces = session.ask("xy")
    came = list(itertools.islice(pieces, 3))
    pieces.close()
    assert [number for number, _ in came] == [0, 1, 0]  # in turn
    assert session.turns[0][-1] == Message("assistant", came[0][1] + came[2][1])
    assert session.turns[1][-1] == Message("assistant", came[1][1])
    session.reset()
    assert session.turns == [[], []]


def test_a_question_that_is_too_long_leaves_the_conversation_as_it_was(speakers):
    session = Session(speakers, Decoding())
    said(session, "xy")
    before = [list(turns) for turns in session.turns]
    with pytest.raises(UserError, match="fewer words"):
        said(session, "x" * 99)
    assert session.turns == before


def test_the_same_seed_gives_the_same(speakers):
    session = Session(speakers, Decoding())
    texts = []
    for seed in (4, 4, 5):
        obey(session, f"/seed {seed}")
        obey(session, "/reset")
        texts.append(said(session, "xy"))
    assert texts[0] == texts[1] != texts[2]


def test_commands_set_what_they_name(speakers):
    session = Session(speakers, Decoding())
    for line in ("/temperature 0.5", "/top-p 0.9", "/top-k 7"):
        answer = obey(session, line)
    assert session.decoding == Decoding(0.5, top_p=0.9, top_k=7)
    assert answer == "temperature 0.5, top-p 0.9, top-k 7, seed 0"
    assert "top-k all" in obey(session, " /top-k  all ")
    assert "temperature 0 (greedy)" in obey(session, "/temperature 0")
    assert all(name in obey(session, "/help") for name in COMMANDS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temperatures 1", "There is no /temperatures. Did you mean /temperature?"),
        ("/temperature", "/temperature wants a number: /temperature 0.7"),
        ("/temperature hot", "wants a number"),
        ("/temperature -1", "at least 0"),
        ("/top-k 2.5", "/top-k wants a number: /top-k 50"),
        ("/top-p 0", "above 0"),
        ("/seed x", "/seed wants a number"),
        ("/seed 99999999999999999999", "seed 99999999999999999999: wanted a whole number from 0"),
        ("/seed -1", "seed -1: wanted a whole number from 0"),
        ("/temperature nan", "at least 0"),
    ],
)
def test_commands_that_make_no_sense_change_nothing(speakers, line, message):
    session = Session(speakers, Decoding())
    with pytest.raises(UserError) as error:
        obey(session, line)
    assert message in str(error.value)
    assert (session.decoding, session.seed) == (Decoding(), 0)


def test_an_answer_may_be_as_long_as_asked_but_leaves_room_to_read(finish, tmp_path):
    finish(tmp_path / "sft", "sft")
    assert open_speakers([tmp_path], 9)[0].most_tokens == 9
    assert open_speakers([tmp_path], 9999)[0].most_tokens == 32
    with pytest.raises(UserError, match="--tokens 0: at least 1"):
        open_speakers([tmp_path], 0)
