"""A role folded into one plain network: the same logits and scores, by transformers alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hydralign.errors import UserError
from hydralign.models import merging
from hydralign.models.adapters import AdapterSet, LoraShape
from hydralign.models.loading import BaseModel, load_adapter
from hydralign.models.merging import check_classifier, merged
from hydralign.models.roles import AdapterNetwork, TextRole
from hydralign.models.saving import save_role

from ..conftest import ARCHITECTURES, shake

SCALING = 6 / 3
NAMES = [
    f"{kind}-{family}" for kind in ("own", "lora", "nf4", "int8") for family in ("llama", "gpt2")
]


@pytest.fixture
def plain(toys, tmp_path):
    """Saves a role merged; returns it beside what plain transformers load."""

    def make(name, kind):
        role, folder = toys.role(name), Path(toys.starts[name].folder)
        adapter = {} if toys.kind == "own" else load_adapter(folder)[0]
        merged(role, adapter, SCALING, torch.float32).save_pretrained(tmp_path)
        return role, kind.from_pretrained(tmp_path)

    return make


@pytest.fixture(params=NAMES)
def toys(request, make_toys):
    return make_toys(*request.param.split("-"))


def logits(network, sequences):
    return network(
        input_ids=sequences.sequence_ids,
        attention_mask=sequences.attention_mask,
        position_ids=sequences.position_ids,
    ).logits


@torch.no_grad()
def test_a_policy_keeps_its_logprobs(plain, sequences):
    role, network = plain("policy", AutoModelForCausalLM)
    p = sequences.prompt_length
    expected = logits(network, sequences)[:, p - 1 : -1].log_softmax(-1)
    expected = expected.gather(-1, sequences.response_ids.unsqueeze(-1)).squeeze(-1)
    mask = sequences.response_mask
    assert_close(role(sequences)[mask], expected[mask], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_reward_model_keeps_its_scores(plain, lone_sequences):
    role, network = plain("reward_model", AutoModelForSequenceClassification)
    for row in lone_sequences:
        network.config.pad_token_id = None
        assert_close(
            logits(network, row).squeeze(-1) - 0.3 / 1.7, role.scores(row), rtol=1e-4, atol=1e-4
        )


EVERYTHING = ("embed_tokens", "lm_head", "q_proj", "down_proj")


@pytest.mark.parametrize("targets", [EVERYTHING, ("q_proj",)])
@pytest.mark.parametrize("vocab_size", [47, 53])
@torch.no_grad()
def test_a_tied_lm_head_is_untied_only_where_adapters_part_it(
    make_toys, sequences, tmp_path, targets, vocab_size
):
    """A vocabulary of 53 is larger than the tokenizer's, as sizes rounded up are."""
    toys = make_toys("lora")
    architecture = ARCHITECTURES["llama"] | {"model_type": "llama", "tie_word_embeddings": True}
    network = AdapterSet(
        BaseModel(None, architecture, torch.float32).load(vocab_size, seed=3),
        LoraShape(3, 6, targets),
    )
    network.add("policy", trained=True)
    shake(network.parameters_of("policy"), 5)
    role = TextRole(AdapterNetwork(network, "policy"))
    save_role(role, toys.codec, tmp_path)
    adapter, _ = load_adapter(tmp_path)
    merged(role, adapter, SCALING, torch.float32).save_pretrained(tmp_path / "plain")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert found.config.tie_word_embeddings == (targets != EVERYTHING)
    shared = found.lm_head.weight is found.model.embed_tokens.weight
    assert shared == (targets != EVERYTHING)
    assert found.lm_head.weight.shape == (vocab_size, 32)
    states = role.network(
        input_ids=sequences.sequence_ids,
        attention_mask=sequences.attention_mask,
        position_ids=sequences.position_ids,
    )
    seen = sequences.attention_mask
    expected = role.network.lm_head(states)[seen]
    assert_close(logits(found, sequences)[seen], expected, rtol=1e-4, atol=1e-4)


def test_a_change_by_hand():
    """Rank 1, alpha 2: up (2, 1) times down (1, 3), twice."""
    layer = torch.nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    place = "base_model.model.layer.lora_"
    adapter = {f"{place}A.weight": torch.tensor([[1.0, 2.0, 3.0]])}
    adapter[f"{place}B.weight"] = torch.tensor([[0.5], [-1.0]])
    network = torch.nn.Module()
    network.layer = layer
    role = SimpleNamespace(network=SimpleNamespace(language_model=network))
    ((name, weight),) = merging._in_full(role, adapter, 2.0)
    assert name == "layer.weight"
    assert weight.tolist() == [[2.0, 2.0, 3.0], [-2.0, -3.0, -6.0]]


def test_rounding_happens_once(make_toys, tmp_path):
    """Merged in fp32, then rounded: not the sum of two rounded numbers."""
    toys = make_toys("lora")
    role = toys.role("policy")
    adapter, _ = load_adapter(Path(toys.starts["policy"].folder))
    wide, narrow = (
        merged(role, adapter, SCALING, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    for name, weight in narrow.state_dict().items():
        assert torch.equal(weight, wide.state_dict()[name].bfloat16())


def test_families_whose_classifier_cannot_hold_our_head():
    for family in ("llama", "gpt2"):
        check_classifier(AutoConfig.for_model(family, **ARCHITECTURES[family]))
    with pytest.raises(UserError, match="The granite family of transformers has no classifier; so"):
        check_classifier(AutoConfig.for_model("granite", **ARCHITECTURES["llama"]))
    bert = AutoConfig.for_model("bert", is_decoder=True, num_hidden_layers=1)
    with pytest.raises(UserError, match=r"bert family .* of another make \(bert.pooler"):
        check_classifier(bert)
