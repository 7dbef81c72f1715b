"""Tokenizers small enough to know every id by heart. <s> is 0, </s> is 1."""

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.:,#\n0123456789'?"


def _fast(model, pre_tokenizer=None, *, bos="<s>", eos="</s>"):
    backend = Tokenizer(model)
    if pre_tokenizer:
        backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.Fuse()
    special = {"bos_token": bos, "eos_token": eos}
    special = {name: token for name, token in special.items() if token}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture(scope="session")
def letter_tokenizer():
    """Makes a tokenizer of one token to a letter: a is 2, b is 3 ... z is 27, the space is 28."""

    def make(**special):
        vocabulary = {"<s>": 0, "</s>": 1} | {letter: i + 2 for i, letter in enumerate(LETTERS)}
        split = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        return _fast(models.WordLevel(vocabulary, unk_token="?"), split, **special)

    return make


@pytest.fixture(scope="session")
def merging_tokenizer():
    """Knows a (2), b (3) and ab (4)."""
    vocabulary = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4}
    return _fast(models.BPE(vocabulary, [("a", "b")]))


@pytest.fixture(scope="session")
def word_start_tokenizer():
    """Knows the start of a word (2), which it also writes before every text, a (3) and b (4)."""
    vocabulary = {"<s>": 0, "</s>": 1, "▁": 2, "a": 3, "b": 4}
    start = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return _fast(models.BPE(vocabulary, []), start)
