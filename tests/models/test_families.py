"""Networks of many families take packed rows, and say of each what they say of it alone."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from hydralign.errors import UserError
from hydralign.models import attention as attention_module
from hydralign.models.attention import set_attention, takes_packed_rows
from hydralign.models.last_layer import last_mlp
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

WITHOUT_MLP = ["granitemoe", "opt"]
"""Those of them whose last layer has none by that name; it takes all tokens, read or not."""

PADDED = ["biogpt", "falcon", "falcon_h1", "jamba", "nemotron", "qwen3_next", "stablelm"]
"""Some with layers where tokens meet outside attention; some with attention of their own."""

ROWS = [
    ((4, 4, 9, 50), (11, 3, 3, 7, 60, 2)),
    ((5, 9), (7, 4, 8)),
    ((3,), (9, 6, 12, 31, 40, 22, 5)),
    ((8, 3, 51), (14, 14, 7, 2)),
]


def small(model_type):
    """A network of random weights whose windows are shorter than most rows."""
    default = AutoConfig.for_model(model_type)
    fields = {name: value for name, value in SMALL.items() if name in default.to_dict()}
    config = AutoConfig.for_model(model_type, **fields)
    if vars(config).get("layer_types"):
        config.layer_types = config.layer_types[:2]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # many begin as 0 or 1
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def alone(network):
    """Hidden states (n, d) of each row by itself, shorter rows first."""
    rows = sorted((prompt + response for prompt, response in ROWS), key=len)
    inputs = (torch.tensor([row]) for row in rows)
    return torch.cat([network(input_ids=ids, use_cache=False)[0] for ids in inputs])


def together(network, monkeypatch, every=1):
    """Hidden states of all rows' tokens, or of some, in three groups, one with padding."""
    monkeypatch.setitem(packing.GROUP_COST, "cpu", 30)
    sequences = pad_sequences(*zip(*ROWS, strict=True), pad_id=0)
    rows = sequences.packed
    assert [group.shape for group in rows.groups] == [(1, 5), (2, 8), (1, 10)]
    read = torch.arange(0, len(rows.tokens), every)
    return network.of_rows(sequences.sequence_ids.flatten()[rows.tokens], rows, read)


@pytest.mark.parametrize("attention", ["sdpa", "grouped"])
@pytest.mark.parametrize("model_type", PACKED)
@torch.no_grad()
def test_packed_rows_are_read_as_each_row_alone(model_type, attention, monkeypatch):
    model = small(model_type)
    network = Network(model, trained=False)
    set_attention(model, "eager")
    expected = alone(network)
    set_attention(model, attention)
    assert takes_packed_rows(model)
    assert (last_mlp(model) is None) == (model_type in WITHOUT_MLP)
    for every in (1, 3):
        read = together(network, monkeypatch, every)
        assert_close(read, expected[::every], rtol=1e-4, atol=1e-4)  # fp32


@pytest.mark.parametrize("model_type", PADDED)
@torch.no_grad()
def test_what_cannot_be_packed_is_padded_and_left_as_it_is(model_type, monkeypatch):
    model = small(model_type)
    network = Network(model, trained=False)
    before = model.config._attn_implementation
    set_attention(model, None)
    assert model.config._attn_implementation == before
    assert not takes_packed_rows(model)
    assert_close(together(network, monkeypatch), alone(network), rtol=1e-4, atol=1e-4)


def test_layers_that_keep_from_their_attention_how_rows_are_packed_are_found_out(monkeypatch):
    model = small("nemotron")
    monkeypatch.setattr(attention_module, "NEVER_PACKED", ())
    set_attention(model, "sdpa")
    with pytest.raises(UserError, match=r"NemotronAttention is not told .*attention=eager"):
        together(Network(model, trained=False), monkeypatch)
