"""What lies beside the weights: the tokenizer and its template, the pad token, the settings."""

import pytest
from transformers import AutoTokenizer

from hydralign.data.encoder import Encoder
from hydralign.data.templates import FALLBACK_CHAT_TEMPLATE
from hydralign.export.writing import plain_pad_id, plain_tokenizer
from hydralign.models.codec import Codec


def test_plain_texts_begin_as_in_training(make_codec_of_letters, tmp_path):
    codec = make_codec_of_letters()
    encoder = Encoder(codec.tokenizer, "plain", codec.stop_id, 40, 40)
    expected = [encoder.prompt_ids(text) for text in ("abc", "z!")]
    assert expected[0] == [1, 3, 4, 5]  # <bos>, a, b, c
    plain_tokenizer(codec, "plain").save_pretrained(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert found(["abc", "z!"])["input_ids"] == expected
    assert found("a", "b")["input_ids"] == [1, 3, 4]
    plain_tokenizer(Codec(found, codec.pad_id, codec.stop_ids), "plain")  # not twice
    assert found("abc")["input_ids"] == expected[0]


def test_the_token_that_ends_a_text_has_a_name(make_codec_of_letters, tmp_path):
    tokenizer = make_codec_of_letters().tokenizer
    tokenizer.eos_token = None
    plain_tokenizer(Codec(tokenizer, 0, (5,)), "plain").save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id == 5


def test_a_chat_template_that_training_supplied_travels_along(make_codec_of_letters, tmp_path):
    codec = make_codec_of_letters()
    own = codec.tokenizer.chat_template
    assert plain_tokenizer(codec, "chat").chat_template == own
    codec.tokenizer.chat_template = None
    plain_tokenizer(codec, "chat").save_pretrained(tmp_path)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert found.chat_template == FALLBACK_CHAT_TEMPLATE
    assert found("abc")["input_ids"] == [3, 4, 5]  # the template writes its own beginning


@pytest.mark.parametrize("name", ["policy", "reward_model"])
def test_a_pad_token_that_also_stops_is_not_named_to_a_classifier(make_toys, name):
    toys = make_toys("own")
    role, tokenizer = toys.role(name), toys.codec.tokenizer
    assert plain_pad_id(role, Codec(tokenizer, 0, (2,))) == 0
    assert plain_pad_id(role, Codec(tokenizer, 2, (2,))) == (2 if name == "policy" else None)
