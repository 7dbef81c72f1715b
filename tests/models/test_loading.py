from pathlib import Path

import pytest
import torch

from hydralign.errors import UserError
from hydralign.models.loading import BaseModel, load_language_model, load_scorer, load_tokenizer

ARCHITECTURE = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 12}
ARCHITECTURE |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 9}


def test_random_weights_depend_on_the_seed_and_nothing_else():
    base = BaseModel(None, ARCHITECTURE, torch.float32)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = base.load(vocab_size=13, seed=1)
    assert torch.equal(torch.rand(1), expected)
    second, third = base.load(vocab_size=13, seed=1), base.load(vocab_size=13, seed=2)
    assert first.lm_head.weight.shape == (13, 8)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, third.lm_head.weight)
    assert ARCHITECTURE["model_type"] == "llama"  # the mapping itself is left as it is


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_dtype_that_is_asked_for(make_toys, dtype):
    scratch = BaseModel(None, ARCHITECTURE, dtype).load(vocab_size=13, seed=1)
    assert {p.dtype for p in scratch.parameters()} == {dtype}
    source = make_toys("own").base.source
    loaded = BaseModel(source, None, dtype).load(vocab_size=47, seed=1)
    assert {p.dtype for p in loaded.parameters()} == {dtype}


@pytest.mark.parametrize("load", [lambda s: load_language_model(s, torch.float32), load_tokenizer])
def test_a_source_that_cannot_be_loaded_is_named_with_the_way_out(tmp_path, load):
    folder = str(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"Cannot load '.*nothing'[\s\S]*model\.source=FOLDER"):
        load(folder)


def test_weights_that_could_hold_code_are_refused(make_toys, tmp_path):
    model = load_language_model(make_toys("own").base.source, torch.float32)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"Cannot load .*safetensors"):
        load_language_model(str(tmp_path), torch.float32)


def test_a_classifier_of_several_labels_is_no_reward_model(make_toys, tmp_path):
    from transformers import AutoModelForSequenceClassification

    source = make_toys("own").base.source
    kind = AutoModelForSequenceClassification
    kind.from_pretrained(source, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="it has 3 labels, one is wanted"):
        load_scorer(str(tmp_path), torch.float32)


def test_a_reward_models_head_stays_fp32_on_a_bf16_network(make_toys):
    folder = Path(make_toys("own").starts["reward_model"].folder)
    exact = load_scorer(str(folder), torch.float32)[1]
    model, head = load_scorer(str(folder), torch.bfloat16)
    assert model.base_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(head, exact)
