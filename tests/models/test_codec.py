import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from hydralign.errors import UserError
from hydralign.models.codec import make_codec
from hydralign.rl.sequences import Sequences

A, B, C = 3, 4, 5  # ids of the letters, after <pad> 0, <bos> 1, <eos> 2


def tokenizer_of(*tokens, **special):
    """A tokenizer whose ids are the places in `tokens`."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special.get("unk_token", "")))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


EOS, TURN = {"eos_token": "</s>"}, ["<|im_end|>"]
PAD_CASES = {
    "its own pad token": (["</s>", "x", "<pad>"], EOS | {"pad_token": "<pad>"}, [], 2),
    "pad is the end of sequence, unk is free": (
        ["</s>", "<unk>"],
        EOS | {"pad_token": "</s>", "unk_token": "<unk>"},
        [],
        1,
    ),
    "no pad, as in Llama 2": (
        ["<unk>", "<s>", "</s>"],
        EOS | {"bos_token": "<s>", "unk_token": "<unk>"},
        [],
        0,
    ),
    "pad is a stop token that was named": (
        ["</s>", "<|im_end|>", "<extra>"],
        EOS | {"pad_token": "<|im_end|>", "additional_special_tokens": ["<extra>"]},
        TURN,
        2,
    ),
    "only one special token, as in GPT-2": (
        ["</s>", "x"],
        {"eos_token": "</s>", "bos_token": "</s>", "unk_token": "</s>"},
        [],
        0,
    ),
    "the begin of sequence is no padding": (["<s>", "</s>"], EOS | {"bos_token": "<s>"}, [], 1),
}


@pytest.mark.parametrize(
    ("tokens", "special", "stops", "pad_id"), PAD_CASES.values(), ids=PAD_CASES
)
def test_pad_differs_from_every_stop_token_where_it_can(tokens, special, stops, pad_id):
    tokenizer = tokenizer_of(*tokens, **special)
    codec = make_codec(tokenizer, stops)
    assert (codec.pad_id, tokenizer.pad_token_id) == (pad_id, pad_id)
    others = set(tokenizer.all_special_ids) - {tokenizer.bos_token_id, *codec.stop_ids}
    assert (pad_id in codec.stop_ids) == (not others)


def test_stop_ids_are_the_end_of_sequence_and_those_named_each_once():
    tokenizer = tokenizer_of("</s>", "<|im_end|>", "<pad>", **EOS, pad_token="<pad>")
    assert make_codec(tokenizer, ["<|im_end|>", "</s>"]).stop_ids == (0, 1)
    assert make_codec(tokenizer).stop_ids == (0,)
    assert make_codec(tokenizer, ["<|im_end|>"]).stop_id == 0


@pytest.mark.parametrize("unk", [{}, {"unk_token": "<unk>"}])
def test_a_stop_token_that_is_not_in_the_vocabulary_is_refused(unk):
    tokenizer = tokenizer_of("</s>", "<unk>", **EOS, **unk)
    with pytest.raises(UserError, match=r"'<\|eot_id\|>', which is not in .*</s>"):
        make_codec(tokenizer, ["<|eot_id|>"])


def test_nothing_to_stop_at_is_refused_and_a_named_token_mends_it():
    with pytest.raises(UserError, match=r"model\.stop_tokens=\[TOKEN\]"):
        make_codec(tokenizer_of("x", "<pad>", pad_token="<pad>"))
    codec = make_codec(tokenizer_of("x", "<pad>", pad_token="<pad>"), ["x"])
    assert codec.stop_ids == (0,)


def test_decoding_leaves_out_special_tokens_and_what_is_not_counted(make_codec_of_letters):
    codec = make_codec_of_letters()
    ids = torch.tensor([[0, 1, A, A, B, 2, C], [1, A, A, C, 2, 2, 2], [1, A, A, B, C, B, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    sequences = Sequences(ids, torch.ones_like(ids).bool(), mask)
    assert codec.decode(sequences) == ["ab", "c", "bcb"]
    assert codec.decode_ids([A, 2, C]) == codec.decode_ids(torch.tensor([A, 2, C])) == "ac"


def test_decoding_does_not_tidy_spaces_up(make_codec_of_letters):
    codec = make_codec_of_letters()
    ids = codec.tokenizer("a  . b ,c 'd\n")["input_ids"]
    assert codec.decode_ids(ids) == "a  . b ,c 'd\n"


def test_the_description_names_pad_and_stops(make_codec_of_letters):
    codec = make_codec_of_letters(stop_tokens=["b"])
    assert codec.describe() == "pad '<pad>' (0), stop '<eos>' (2), 'b' (4)"
