import pytest

from hydralign.data.encoder import Encoder
from hydralign.data.records import BadRow, Message
from hydralign.data.templates import template_hash
from hydralign.errors import UserError

BOS, EOS, SPACE = 0, 1, 28
CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
DIALOGUE = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))


def encoder(tokenizer, template="plain", **limits):
    limits = {"max_prompt_tokens": 99, "max_response_tokens": 99} | limits
    return Encoder(tokenizer, template, EOS, **limits)


def test_plain_text_is_taken_as_it_is(letter_tokenizer):
    plain = encoder(letter_tokenizer())
    assert plain.prompt_text("ab") == "ab"
    assert plain.prompt_ids("ab") == [BOS, 2, 3]
    assert plain.response_ids("ab", " cd") == [SPACE, 4, 5, EOS]


def test_plain_dialogues_are_written_with_speakers(letter_tokenizer):
    plain = encoder(letter_tokenizer())
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert plain.prompt_text(DIALOGUE) == text
    # The reply follows the colon after one space, whether it was given or not.
    assert plain.response_ids(DIALOGUE, "d") == [SPACE, 5, EOS]
    assert plain.response_ids(DIALOGUE, " d") == [SPACE, 5, EOS]


def test_there_are_never_two_begin_tokens(letter_tokenizer):
    tokenizer = letter_tokenizer()
    assert encoder(tokenizer).prompt_ids("<s>ab") == [BOS, 2, 3]
    assert encoder(tokenizer).prompt_ids("<s><s>ab") == [BOS, 2, 3]
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    assert encoder(tokenizer, "chat").prompt_ids("ab") == [BOS, 2, 3]
    assert encoder(tokenizer, "chat").prompt_ids("<s>ab") == [BOS, 2, 3]
    assert encoder(tokenizer, "chat").response_ids("<s>ab", "c") == [4, EOS]


def test_a_chat_template_decides_on_its_begin_token(letter_tokenizer):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert encoder(tokenizer, "chat").prompt_ids("ab") == [2, 3]


def test_an_empty_prompt_still_has_a_token_for_the_response_to_follow(letter_tokenizer):
    assert encoder(letter_tokenizer()).prompt_ids("") == [BOS]
    without_bos = encoder(letter_tokenizer(bos=None))
    assert without_bos.prompt_ids("a") == [2]
    assert without_bos.prompt_ids("") == [EOS]
    assert without_bos.response_ids("", "ab") == [2, 3, EOS]
    with pytest.raises(BadRow, match="no token that begins a sequence"):
        encoder(letter_tokenizer(bos=None, eos=None)).prompt_ids("")


def test_the_response_is_cut_from_the_whole_text(word_start_tokenizer):
    # This tokenizer writes a word start (2) before every text, as SentencePiece does; inside a
    # text, only spaces become one. Tokenised apart, "b" would be [2, 4].
    words = encoder(word_start_tokenizer)
    assert words.prompt_ids("a") == [BOS, 2, 3]
    assert words.response_ids("a", "b") == [4, EOS]
    assert words.response_ids("a", " b") == [2, 4, EOS]


def test_a_token_across_the_border_leaves_the_prompt_whole(merging_tokenizer):
    # "ab" is one token (4), so the tokens of "a" are no prefix of those of "ab".
    merging = encoder(merging_tokenizer)
    assert merging.prompt_ids("a") == [BOS, 2]
    assert merging.response_ids("a", "ba") == [3, 2, EOS]
    assert merging.response_ids("b", "ab") == [4, EOS]


def test_a_prompt_and_its_response_as_one_text(letter_tokenizer, merging_tokenizer):
    plain = encoder(letter_tokenizer())
    assert plain.whole_text("ab", " cd") == "ab cd"
    assert plain.whole_text((Message("user", "a"),), "d") == "\n\nHuman: a\n\nAssistant: d"
    assert encoder(letter_tokenizer(bos=None)).whole_text("", "ab") is None  # it begins with <eos>
    assert encoder(merging_tokenizer).whole_text("a", "b") is None  # "ab" is one token
    assert encoder(merging_tokenizer).whole_text("b", "ab") == "bab"


def test_the_tokenizers_chat_template_is_used(letter_tokenizer):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = CHATML + "{% if add_generation_prompt %}<assistant>{% endif %}"
    chat = encoder(tokenizer, "chat")
    assert chat.prompt_text("x y") == "<user>x y<assistant>"
    assert chat.prompt_text(DIALOGUE) == "<user>a<assistant>b<user>c<assistant>"


def test_without_a_chat_template_a_simple_one_stands_in(letter_tokenizer):
    chat = encoder(letter_tokenizer(), "chat")
    assert chat.prompt_text("a b") == "<s>### User:\na b\n\n### Assistant:\n"
    assert chat.prompt_ids("a b").count(BOS) == 1
    no_bos = encoder(letter_tokenizer(bos=None), "chat")
    assert no_bos.prompt_text("a") == "### User:\na\n\n### Assistant:\n"


def test_a_dialogue_that_the_template_refuses_is_a_bad_row(letter_tokenizer):
    tokenizer = letter_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadRow, match="the chat template refuses the dialogue: roles must alter"):
        encoder(tokenizer, "chat").prompt_ids("a")


def test_prompts_over_the_limit_and_hopeless_responses_are_bad_rows(letter_tokenizer):
    plain = encoder(letter_tokenizer(), max_prompt_tokens=3)
    assert plain.prompt_ids("ab") == [BOS, 2, 3]
    with pytest.raises(BadRow, match="more than max_prompt_tokens=3 tokens"):
        plain.prompt_ids("abc")
    with pytest.raises(BadRow, match="the response contains the stop token"):
        plain.response_ids("a", "b</s>c")
    with pytest.raises(BadRow, match="the response has no tokens"):
        plain.response_ids("a", "")


def test_an_unknown_template_lists_the_known_ones(letter_tokenizer):
    with pytest.raises(UserError, match="data.template=fancy.*plain or chat"):
        encoder(letter_tokenizer(), "fancy")


def test_the_hash_changes_with_all_that_decides_tokens_and_nothing_else(letter_tokenizer):
    tokenizer = letter_tokenizer()
    plain, chat = template_hash(tokenizer, "plain"), template_hash(tokenizer, "chat")
    assert len(plain) == 16
    assert plain != chat
    tokenizer.pad_token = "?"
    assert template_hash(tokenizer, "plain") == plain
    tokenizer.chat_template = CHATML
    assert template_hash(tokenizer, "plain") == plain
    assert template_hash(tokenizer, "chat") != chat
    assert template_hash(letter_tokenizer(bos=None), "plain") != plain
    tokenizer.add_tokens(["new"])
    assert template_hash(tokenizer, "plain") != plain
