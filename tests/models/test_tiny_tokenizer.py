import json

import pytest

from hydralign.models import tiny_tokenizer
from hydralign.models.tiny_tokenizer import trained_tokenizer

TEXTS = ["the film was fine", "the film was not fine", "the films, the films!"] * 5
ODD = [
    "",
    " two  spaces and a tab\t, then \n\n newlines ",
    "Zoë's café — “naïve” 日本 🙂 e\u0301",
    "a .b ,c !d 're n't <notatoken>",
    "\x00\x7f\u200b\ufeff",
]


def folders(cache):
    return sorted(path.name for path in (cache / "tokenizers").iterdir())


@pytest.mark.parametrize("text", ODD)
def test_any_text_survives_the_round_trip(tmp_path_factory, text):
    cache = tmp_path_factory.getbasetemp() / "round-trip"
    tokenizer = trained_tokenizer(TEXTS, 270, cache)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert not {0, 1, 2} & set(ids)


def test_merges_and_special_tokens_are_learned(tmp_path):
    tokenizer = trained_tokenizer(TEXTS, 270, tmp_path)
    assert len(tokenizer) == 270
    special = tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token
    assert special == ("<pad>", "<bos>", "<eos>")
    assert tokenizer.convert_tokens_to_ids(list(special)) == [0, 1, 2]
    assert len(tokenizer("the film was")["input_ids"]) < 6  # letters would be 12
    assert tokenizer("<eos>")["input_ids"] == [2]  # a special token in a text stays one token


def test_it_is_trained_once_for_the_same_texts(tmp_path, monkeypatch):
    first = trained_tokenizer(TEXTS, 270, tmp_path)
    trained = []
    train = tiny_tokenizer._train
    monkeypatch.setattr(tiny_tokenizer, "_train", lambda *a: trained.append(a) or train(*a))
    again = trained_tokenizer(TEXTS, 270, tmp_path)
    assert (trained, again.get_vocab()) == ([], first.get_vocab())
    trained_tokenizer(TEXTS, 269, tmp_path)
    trained_tokenizer(TEXTS[:-1], 270, tmp_path)
    trained_tokenizer(["".join(TEXTS)], 270, tmp_path)
    assert (len(trained), len(folders(tmp_path))) == (3, 4)


def test_two_runs_at_once_leave_one_whole_folder(tmp_path, monkeypatch):
    train = tiny_tokenizer._train

    def overtaken(*args):
        monkeypatch.setattr(tiny_tokenizer, "_train", train)
        trained_tokenizer(TEXTS, 270, tmp_path)  # another run comes from behind and finishes
        return train(*args)

    monkeypatch.setattr(tiny_tokenizer, "_train", overtaken)
    tokenizer = trained_tokenizer(TEXTS, 270, tmp_path)
    assert len(tokenizer) == 270
    (name,) = folders(tmp_path)
    saved = json.loads((tmp_path / "tokenizers" / name / "tokenizer.json").read_text())
    assert saved["model"]["vocab"] == tokenizer.get_vocab()


def test_a_run_that_dies_in_training_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny_tokenizer, "_train", fail)
    with pytest.raises(KeyboardInterrupt):
        trained_tokenizer(TEXTS, 270, tmp_path)
    assert folders(tmp_path) == []
