"""A role folded into one plain network: the same logits and scores, by transformers alone."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hydralign.models.loading import load_adapter
from hydralign.models.merging import merged

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
