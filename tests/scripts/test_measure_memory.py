"""scripts/measure_memory.py: its table by hand, its random base, and one cell on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hydralign.models.loading import config_of
from hydralign.models.quantization import Quantization
from hydralign.planning.fake_roles import FakeBase
from scripts import measure_memory
from scripts.measure_memory import table
from scripts.random_models import RandomBase

LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "vocab_size": 70}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": True}


def test_the_table():
    done = {"planned_gb": 6.1, "measured_gb": 5.0, "tokens_per_second": 812.4}
    rows = [
        {"model": "a", "hardware": "gpu_8gb", "stage": "ppo", **done},
        {"model": "b", "hardware": "cpu", "stage": "sft", "error": "it | broke"},
    ]
    assert table(rows).splitlines()[2:] == [
        "| a | gpu_8gb | ppo | 6.10 | 5.00 | 1.22 | 812 |",
        "| b | cpu | sft |  | it \\| broke |  |  |",
    ]


@pytest.mark.parametrize("kind", [None, "nf4", "int8"])
def test_a_random_base_computes_and_is_as_large_as_it_says(kind):
    bits = Quantization(kind, torch.float32) if kind else None
    model = RandomBase(FakeBase(config_of(LLAMA), torch.float32, bits), "cpu").load(0, 0)
    layers = [m for m in model.modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    assert len(layers) == (14 if kind else 0)
    logits = model(torch.arange(12).view(2, 6)).logits
    assert logits.shape == (2, 6, 70)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_preset_without_a_card_in_its_name_has_no_limit(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", None)
    measure_memory.limit_to_card("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_cell_on_a_cpu(stage, tmp_path):
    script = Path(measure_memory.__file__)
    command = [sys.executable, script, "--models", "tiny", "--hardware", "cpu", "--stages", stage]
    subprocess.run([*command, "--out", tmp_path], check=True, capture_output=True)
    (row,) = json.loads((tmp_path / "memory.json").read_text())["rows"]
    assert "error" not in row, row
    assert row["device"] == "CPU"
    assert 0.7 < row["planned_gb"] / row["measured_gb"] < 1.3
    assert row["tokens_per_second"] > 0
