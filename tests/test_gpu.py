"""What only a CUDA device can show: pytest -m gpu tests/test_gpu.py."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers.cache_utils import DynamicCache

from hydralign.artifacts import write_json
from hydralign.data.collate import collate_prompts
from hydralign.data.examples import PromptExample
from hydralign.exporter import Wanted, export
from hydralign.memory import peak_memory_gb
from hydralign.micro_batches import MicroBatches
from hydralign.models.adapters import LoraShape
from hydralign.models.assembly import RoleSpec, make_roles
from hydralign.models.loading import BaseModel
from hydralign.models.quantization import Quantization, guard_quantized_, quantized_layer
from hydralign.rl.masks import position_ids
from hydralign.rollout import decoders
from hydralign.rollout.decoders import GrowingDecoder
from hydralign.rollout.recorded import RecordedDecoder
from hydralign.rollout.sampling import Sampling, sample_responses
from hydralign.stages.optimizers import make_optimizer

ROOT = Path(__file__).parents[1]
STAGES = ("sft", "reward", "ppo")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def command(tiny_llama, rows, run_dir, *more):
    return [
        *(sys.executable, "train.py", "stage=rlhf", "model=llama7b_lora", "hardware=gpu_8gb"),
        *(f"model.source={tiny_llama}", "data=jsonl", f"data.path={rows}", "data.template=plain"),
        *("data.max_response_tokens=6", "data.splits={train: 0.6, validation: 0.2, test: 0.2}"),
        *("stage.sft.steps=6", "stage.sft.batch_size=4", "stage.sft.warmup_steps=2"),
        *("stage.reward.steps=6", "stage.reward.batch_size=2", "stage.reward.warmup_steps=2"),
        *("stage.ppo.rollouts=6", "stage.ppo.rollout_batch_size=4", "stage.ppo.minibatch_size=2"),
        *("stage.ppo.value_warmup_rollouts=1", "stage.ppo.warmup_rollouts=2"),
        *("checkpoint_minutes=0", f"hydra.run.dir={run_dir}", *more),
    ]


def train(*arguments, **more):
    done = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, env=os.environ | more
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads((arguments[2] / "metrics.json").read_text())


def weights(folder):
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("artifact/*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_layer_is_its_rounded_weight_forwards_and_backwards(kind):
    """On the device; a batch of one row takes other kernels than one of many."""
    torch.manual_seed(0)
    bits = Quantization(kind, torch.bfloat16)
    layer = quantized_layer(nn.Linear(256, 128, bias=False, dtype=torch.bfloat16), bits, "cuda:0")
    guard_quantized_(nn.Sequential(layer))
    weight = layer(torch.eye(256, device="cuda", dtype=torch.bfloat16)).T.float()
    for rows in (1, 2, 33):
        x = torch.randn(rows, 256, device="cuda").bfloat16().requires_grad_()
        y = layer(x)
        upstream = torch.randn_like(y)
        y.backward(upstream)
        # Products in bfloat16 are rounded to 8 bits.
        assert_close(y.float(), x.detach().float() @ weight.T, rtol=1e-2, atol=2e-2)
        assert_close(x.grad.float(), upstream.float() @ weight, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_each_optimizer_steps_on_the_device(name):
    parameter = nn.Parameter(torch.ones(64, 128, device="cuda"))
    rates = {"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0, "steps": 4}
    optimizer, _ = make_optimizer([parameter], name, **rates)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # Adam's first step is the learning rate against the gradient's sign.
    assert_close(parameter.detach(), torch.full_like(parameter, 0.9), rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_recorded_step_gives_what_a_new_one_gives(quantization):
    shape = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "vocab_size": 300}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    bits = Quantization(quantization, torch.bfloat16) if quantization else None
    base = BaseModel(None, shape, torch.bfloat16, bits, "cuda:0")
    spec = {"policy": RoleSpec(trained=True)}
    lora = LoraShape(rank=4, alpha=8)
    policy = make_roles(base, lora, spec, {}, vocab_size=300, seed=0)["policy"].to("cuda")
    for parameter in policy.trained_parameters():
        parameter.normal_(std=0.1)
    ids = torch.randint(3, 300, (5, 7), device="cuda")
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, :3] = False
    positions = position_ids(mask)

    def read():
        cache = DynamicCache()
        policy.next_token_logits(ids, mask, positions, cache)
        return policy, mask, positions, cache

    with torch.autocast("cuda", torch.bfloat16):
        recorded, growing = RecordedDecoder(*read(), 20), GrowingDecoder(*read())
        for _ in range(20):
            token = torch.randint(3, 300, (5, 1), device="cuda")
            # Kernels for other shapes add up in another order, in bfloat16.
            assert_close(recorded(token).float(), growing(token).float(), rtol=2e-2, atol=2e-2)
    recorded.close()


@pytest.mark.parametrize("group_size", [1, 2])
def test_a_recorded_policy_samples_what_another_samples(make_toys, monkeypatch, group_size):
    """In fp32, and in inference mode, as a run's test phase has it."""
    toys, made = make_toys("lora"), []
    policy = toys.role("policy").to("cuda")
    examples = [PromptExample(ids, str(ids), None) for ids in ([9, 11], [30], [1, 22, 45, 13])]
    prompts = collate_prompts(examples, examples, pad_id=0).to("cuda")
    sampling = Sampling(1.0, 16, MicroBatches(2), group_size=group_size)

    class Watched(RecordedDecoder):
        def __init__(self, *read):
            super().__init__(*read)
            made.append(self.run == self._replay)

    monkeypatch.setattr(decoders, "RecordedDecoder", Watched)

    def sample():
        generator = torch.Generator("cuda").manual_seed(3)
        return sample_responses(policy, prompts, toys.codec, sampling, generator).texts

    with torch.inference_mode():
        expected = sample()
        policy.records_decoding = True
        assert sample() == expected
    assert made
    assert all(made)


def test_a_chain_runs_and_says_what_it_took(tiny_llama, rows, tmp_path):
    figures = train(tiny_llama, rows, tmp_path)
    for stage in STAGES:
        plan = json.loads((tmp_path / stage / "plan.json").read_text())
        assert 0 < figures[f"{stage}/peak_memory_gb"] < plan["peak_gb"] + 0.2
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())


def test_a_chain_that_was_killed_goes_on_as_if_it_had_not(tiny_llama, rows, tmp_path):
    """Deterministic kernels were not asked for, so equal to rounding, not to the bit."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = train(tiny_llama, rows, whole)
    with subprocess.Popen(command(tiny_llama, rows, broken), cwd=ROOT) as process:
        while not any((broken / "ppo").glob("*.ckpt")):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not (broken / "ppo" / "artifact").exists()
    resumed = [*command(tiny_llama, rows, broken), f"resume={broken}"]
    resumed.remove(f"hydra.run.dir={broken}")
    subprocess.run(resumed, cwd=ROOT, check=True)
    got = json.loads((broken / "metrics.json").read_text())
    for name in ("sft/val_nll", "reward/pair_accuracy", "ppo/kl_per_sequence"):
        assert_close(got[name], expected[name], rtol=1e-2, atol=1e-3)
    for name, tensor in weights(whole).items():
        assert_close(weights(broken)[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["lora", "nf4", "int8"])
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_an_export_is_compared_wherever_its_model_is(kind, accelerator, stage, finish, tmp_path):
    """bitsandbytes takes the card whenever there is one, even if the run is on the CPU."""
    finish(tmp_path / "run", stage, kind=kind)
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["hardware"]["accelerator"] = accelerator
    write_json(tmp_path / "run/run.json", record)
    # How far kernels of a few bits round apart is not what this asks.
    wanted = Wanted(max_drift=1e-2 if kind == "lora" else 1e9)
    assert math.isfinite(export(tmp_path / "run", tmp_path / "out", wanted).drift.size)


def test_memory_that_really_runs_out_makes_micro_batches_smaller():
    each = 16 * 2**20
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 20 * each) / total)
    micro_batches = MicroBatches(64)

    def taking_memory(rows):
        taken = torch.ones(len(rows), each, dtype=torch.uint8, device="cuda")
        return taken[:, 0].cpu() * rows

    try:
        found = micro_batches.over(torch.arange(64), taking_memory)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert micro_batches.size == 16
    assert found.tolist() == list(range(64))


def test_the_peak_is_what_the_device_reserved():
    torch.zeros(64 * 2**20, dtype=torch.uint8, device="cuda")
    assert peak_memory_gb() == torch.cuda.max_memory_reserved() / 1e9 >= 0.067
