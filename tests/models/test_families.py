"""Networks of many families take packed rows, and say of each what they say of it alone."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from hydralign.models.attention import set_attention, takes_packed_rows
from hydralign.models.roles import Network
from hydralign.rl import packing
from hydralign.rl.sequences import pad_sequences

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SMALL |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "ffn_dim": 48}
SMALL |= {"word_embed_proj_dim": 32, "max_position_embeddings": 128, "initializer_range": 0.2}
SMALL |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL |= {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
SMALL |= {"n_routed_experts": 4, "moe_intermediate_size": 16}
SMALL |= {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 0}

# fmt: off
PACKED = [
    "afmoe", "apertus", "arcee", "bitnet", "cohere", "cohere2", "cwm", "diffllama", "ernie4_5",
    "ernie4_5_moe", "exaone4", "flex_olmo", "gemma", "gemma3_text", "glm", "glm4", "glm4_moe",
    "gpt2", "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "helium", "hunyuan_v1_dense",
    "jais2", "jetmoe", "llama", "minimax_m2", "ministral", "mistral", "mixtral", "nanochat",
    "olmo", "olmo2", "olmo3", "olmoe", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
]
# fmt: on

PADDED = ["doge", "falcon_h1", "jamba", "minimax", "nemotron", "qwen3_next", "stablelm"]
"""Some with layers where tokens meet outside attention; some with attention of their own."""

ROWS = [
    ((5, 9), (7, 4, 8)),
    ((3,), (9, 6, 12, 31, 40, 22, 5)),
    ((4, 4, 9, 50), (11, 3, 3, 7, 60, 2)),
]


def small(model_type):
    """A network of random weights whose windows are shorter than most rows."""
    default = AutoConfig.for_model(model_type)
    fields = {name: value for name, value in SMALL.items() if hasattr(default, name)}
    config = AutoConfig.for_model(model_type, **fields)
    if vars(config).get("layer_types"):
        config.layer_types = config.layer_types[:2]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # many begin as 0 or 1
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


@pytest.mark.parametrize("attention", ["sdpa", "grouped"])
@pytest.mark.parametrize("model_type", PACKED)
def test_packed_rows_are_read_as_each_row_alone(model_type, attention, monkeypatch):
    monkeypatch.setattr(packing, "GROUP_COST", 30)
    model = small(model_type)
    network = Network(model, trained=False)
    set_attention(model, "eager")
    with torch.no_grad():
        alone = [network(input_ids=torch.tensor([p + r]), use_cache=False)[0] for p, r in ROWS]
        sequences = pad_sequences(*zip(*ROWS, strict=True), pad_id=0)
        rows, ids = sequences.packed(), sequences.sequence_ids.flatten()
        set_attention(model, attention)
        assert takes_packed_rows(model)
        together = network.of_rows(ids[rows.tokens], rows)
    assert len(rows.groups) > 1
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)  # fp32, over two layers


@pytest.mark.parametrize("model_type", PADDED)
def test_what_cannot_be_packed_is_padded(model_type):
    model = small(model_type)
    set_attention(model, "sdpa")
    assert not takes_packed_rows(model)
