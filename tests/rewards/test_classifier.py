"""Any sequence classifier by text, against transformers' own on each text alone."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from hydralign.errors import UserError
from hydralign.rewards.classifier import Classifier

PROMPTS, RESPONSES = ("ab ", "c", "a b c ", "", "zz"), ("z", "abz", "", "bb", "a z a z")


@pytest.fixture
def make_classifier(make_toys, tmp_path):
    """Saves a random classifier with some labels, as people have it on the hub."""

    def make(*labels):
        toys = make_toys("own")
        config = toys.role("policy").network.language_model.config
        config.id2label = dict(enumerate(labels))
        config.pad_token_id = toys.codec.pad_id
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_config(config).eval()
        model.save_pretrained(tmp_path)
        toys.codec.tokenizer.save_pretrained(tmp_path)
        return model, toys.codec.tokenizer, str(tmp_path)

    return make


@torch.no_grad()
def logits_of(model, tokenizer, text):
    return model(**tokenizer(text, return_tensors="pt")).logits[0]


def test_several_labels_give_the_log_odds_of_one(make_classifier):
    model, tokenizer, folder = make_classifier("BAD", "so so", "GOOD")
    scores = Classifier(folder, "good", batch_size=2)(PROMPTS, RESPONSES, (None,) * 5)
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        p = logits_of(model, tokenizer, prompt + response).softmax(-1)[2]
        assert_close(score, (p / (1 - p)).log().item(), rtol=1e-4, atol=1e-4)
    assert len({round(score, 4) for score in scores}) == 5


def test_one_label_gives_its_logit_and_the_prompt_can_be_left_out(make_classifier):
    model, tokenizer, folder = make_classifier("score")
    given = (PROMPTS[3:], RESPONSES[3:], (None,) * 2)
    scores = Classifier(folder, prompt=False)(*given)
    expected = [logits_of(model, tokenizer, text).item() for text in RESPONSES[3:]]
    assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_a_label_that_is_not_there_and_a_folder_that_is_not(make_classifier, tmp_path):
    _, _, folder = make_classifier("bad", "good")
    with pytest.raises(UserError, match="has no label 'goods'. Did you mean good"):
        Classifier(folder, "goods")
    with pytest.raises(UserError, match="has no label 'None'|has no label None"):
        Classifier(folder)
    with pytest.raises(UserError, match="the classifier .*nothing cannot be loaded: "):
        Classifier(str(tmp_path / "nothing"))
