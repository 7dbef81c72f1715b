"""scripts/plan.py as it is typed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def planned(*arguments, cwd):
    return subprocess.run(
        [sys.executable, ROOT / "scripts/plan.py", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_7b_model_in_4_bits_fits_8_gb_and_is_planned_before_it_is_loaded(tmp_path):
    started = time.perf_counter()
    done = planned(
        "stage=ppo",
        "model=llama7b_lora",
        "hardware=gpu_8gb",
        "data.max_prompt_tokens=256",
        "data.max_response_tokens=128",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 60  # under 10 on a quiet machine
    assert "ppo, llama7b_lora: prompts of up to 256 tokens, responses of up to 128" in done.stdout
    assert "  8 GB card: fits\n" in done.stdout
    plan = json.loads((tmp_path / "outputs/plan.json").read_text())["ppo"]
    assert 5 < plan["peak_gb"] < 8
    # 6.48e9 weights in 4 bits with 8-bit scales in blocks of 64, embeddings and head in 16 bits.
    by_hand = 6.48e9 * (0.5 + (1 + 4 / 256) / 64) + 2 * 32000 * 4096 * 2
    assert plan["phases"]["train: policy"]["weights"] == pytest.approx(by_hand, rel=1e-3)
    assert plan["overrides"] == {"24 GB": "", "16 GB": "", "12 GB": "", "8 GB": ""}
    assert done.stderr == ""


def test_help_says_what_it_takes(tmp_path):
    done = planned("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "scripts/plan.py stage=ppo model=llama7b_lora hardware=gpu_8gb" in done.stdout


def test_what_does_not_fit_is_said_with_what_would(tmp_path):
    done = planned(
        "stage=rlhf", "model=llama7b_lora", "hardware=gpu_24gb", "data=hh_rlhf", cwd=tmp_path
    )
    plans = json.loads((tmp_path / "outputs/plan.json").read_text())
    assert list(plans) == ["sft", "reward", "ppo"]
    overrides = plans["ppo"]["overrides"]
    assert overrides["24 GB"] == ""
    assert overrides["8 GB"].startswith("hardware.")
    assert f"  8 GB card: fits with {overrides['8 GB']}\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=pop"], "ppo"),
        (["stage=ppo", "model.quantization=nf3"], "nf4"),
        (["stage=ppo", "hardware.memory_gbs=3"], "memory_gb"),
    ],
)
def test_a_mistake_gets_one_message(arguments, message, tmp_path):
    done = planned(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
