"""Beyond Llama and GPT-2: networks that keep dropout, or change logits, in places of their own."""

import pytest
import torch
from torch.testing import assert_close

from hydralign.models.assembly import RoleSpec, own_roles
from hydralign.models.loading import BaseModel

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {"intermediate_size": 56, "num_key_value_heads": 2}
ARCHITECTURES = {
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 56, "dropout": 0.4},
    "falcon": {"attention_dropout": 0.4, "hidden_dropout": 0.4},
    "gpt_neox": {"attention_dropout": 0.4, "hidden_dropout": 0.4, "intermediate_size": 56},
    "qwen2": {"attention_dropout": 0.4, **GROUPED},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0, **GROUPED},
    "granite": {"logits_scaling": 8.0, **GROUPED},
    "cohere": {"logit_scale": 0.0625, **GROUPED},
}


def policy(model_type):
    architecture = SIZES | ARCHITECTURES[model_type] | {"model_type": model_type}
    base = BaseModel(None, architecture, torch.float32)
    return own_roles(base, {"policy": RoleSpec()}, {}, vocab_size=47, seed=0)["policy"]


@pytest.mark.parametrize("model_type", ["opt", "falcon", "gpt_neox", "qwen2"])
def test_every_kind_of_dropout_is_switched_off(model_type, sequences):
    role = policy(model_type).eval()
    expected = role(sequences)
    assert torch.equal(role.train()(sequences), expected)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_logprobs_are_those_of_the_whole_network(model_type, lone_sequences):
    role = policy(model_type).eval()
    for lone in lone_sequences:
        with torch.no_grad():
            logits = role.network.language_model(input_ids=lone.sequence_ids).logits[0]
        logprobs = logits[lone.prompt_length - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(1, lone.response_ids.T).T
        assert_close(role(lone), expected, rtol=1e-5, atol=1e-5)
