"""Measure what each stage takes, beside what was planned, under the limit of a card.

python scripts/measure_memory.py                              # the whole table, on one large GPU
python scripts/measure_memory.py --models llama7b_lora --hardware gpu_8gb --stages ppo
python scripts/measure_memory.py --models smollm2_135m_lora --hardware cpu

Models have their true size and random weights, so nothing is downloaded. Prompts have about 256
tokens, responses 128. Each figure comes from a process of its own, which may take no more GPU
memory than the card that its preset is named after has, less 0.7 GB. Writes memory.json and
memory.md to --out.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel

from hydralign import build, config
from hydralign.allocator import ENVIRONMENT
from hydralign.artifacts import write_json
from hydralign.data.module import RecordDataModule
from hydralign.data_source import DataSource
from hydralign.memory import forget_peak, peak_memory_gb
from hydralign.model_source import build_codec, describe_model, wanted_roles
from hydralign.models.assembly import RoleSpec, make_roles, suit_machine
from hydralign.models.quantization import (
    guard_quantized_,
    mark_quantized_,
    quantizable,
    quantized_layer,
)
from hydralign.models.roles import Role
from hydralign.planning.fake_roles import FakeBase
from hydralign.planning.plan import CARD_OVERHEAD_GB, MemoryPlan
from hydralign.run import quieten_libraries

CONF = Path(__file__).resolve().parents[1] / "conf"

STAGES = ("sft", "reward", "ppo", "dpo")
CELLS = [("llama7b_lora", f"gpu_{size}gb") for size in (8, 12, 16, 24)]
CELLS += [("qwen2.5_7b_lora", "gpu_12gb"), ("llama3.1_8b_lora", "gpu_12gb")]
"""What is measured where nothing is asked for."""

PROMPT_TOKENS, RESPONSE_TOKENS = 256, 128
WORDS = [
    a + b for a in ("ba", "co", "du", "fe", "gi", "ha") for b in ("lo", "mi", "nu", "pa", "re")
]
"""Few enough for a tokenizer of 512 to know each of them as one token."""

STEPS = 2
FEW = {
    "sft": ["stage.batch_size=8", f"stage.steps={STEPS}", "stage.warmup_steps=0"],
    "dpo": ["stage.batch_size=4", f"stage.steps={STEPS}", "stage.warmup_steps=0"],
    "reward": ["stage.batch_size=4", f"stage.steps={STEPS}", "stage.warmup_steps=0"],
    "ppo": [
        f"stage.rollouts={STEPS}",
        "stage.rollout_batch_size=16",
        "stage.minibatch_size=8",
        "stage.ppo_epochs=1",
        "stage.warmup_rollouts=0",
        "stage.value_warmup_rollouts=0",
    ],
}


def main() -> None:
    """Measure the cells asked for, each in a process of its own, and write the table."""
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(measure(*arguments.child)))
        return
    models, hardware = arguments.models, arguments.hardware
    if bool(models) != bool(hardware):
        sys.exit("--models and --hardware go together.")
    cells = [(m, h) for m in models or [] for h in hardware] or CELLS
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for model, preset, stage in tqdm(
        [(*cell, stage) for cell in cells for stage in arguments.stages]
    ):
        rows.append({"model": model, "hardware": preset, "stage": stage})
        rows[-1] |= in_a_child(model, preset, stage)
        write_json(folder / "memory.json", {"rows": rows})
        (folder / "memory.md").write_text(table(rows))
    print(table(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", help="names under conf/model")
    parser.add_argument("--hardware", nargs="+", help="names under conf/hardware")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--out", default="outputs/memory", help="folder of the table")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_child(model: str, preset: str, stage: str) -> dict[str, Any]:
    """Measure one cell in a fresh process; a failure becomes the cell's text."""
    command = [sys.executable, __file__, "--child", model, preset, stage]
    settings = ENVIRONMENT if preset == "cpu" else {}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | settings
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| model | hardware | stage | planned GB | measured GB | planned / measured | tokens/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row["model"], row["hardware"], row["stage"]]
        if "error" in row:
            cells += ["", row["error"].replace("|", "\\|"), "", ""]
        else:
            planned, measured = row["planned_gb"], row["measured_gb"]
            cells += [f"{planned:.2f}", f"{measured:.2f}", f"{planned / measured:.2f}"]
            cells.append(f"{row['tokens_per_second']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def measure(model: str, preset: str, stage_name: str) -> dict[str, Any]:
    """Run a few steps of a stage in this process.

    Args:
        model: name under conf/model.
        preset: name under conf/hardware.
        stage_name: one of STAGES.

    Returns:
        GB planned and measured, the device, and tokens a second: those of whole sequences, each
        counted once, whatever is done with it.
    """
    quieten_libraries()
    limit_to_card(preset)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cfg = composed(model, preset, stage_name, write_rows(folder / "rows.jsonl"))
        module, data, plan, trainer = built(cfg, folder)
        torch.cuda.empty_cache()  # of layers before they were quantised
        forget_peak()
        started = time.perf_counter()
        trainer.fit(module, data)
        seconds = time.perf_counter() - started
    rows = STEPS * module.options.batch_size * data.examples.train[0].sequences
    return {
        "planned_gb": plan.peak_gb,
        "measured_gb": peak_memory_gb(),
        "tokens_per_second": rows * (PROMPT_TOKENS + RESPONSE_TOKENS) / seconds,
        "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "CPU",
    }


def limit_to_card(preset: str) -> None:
    """Let this process take no more GPU memory than the card in the preset's name leaves."""
    if card := re.fullmatch(r"gpu_(\d+)gb", preset):
        total = torch.cuda.get_device_properties(0).total_memory
        usable = int(card[1]) * 2**30 - CARD_OVERHEAD_GB * 1e9
        torch.cuda.set_per_process_memory_fraction(min(1.0, usable / total))


def composed(model: str, preset: str, stage: str, rows: Path) -> DictConfig:
    """Compose the config of a cell."""
    config.register()
    overrides = [f"model={model}", f"hardware={preset}", f"stage={stage}", *FEW[stage]]
    overrides += ["model.source=null", "model.vocab_size=512", "model.stop_tokens=[]"]
    overrides += ["data=jsonl", f"data.path={rows}", "data.template=plain"]
    overrides += [f"data.max_prompt_tokens={PROMPT_TOKENS}"]
    overrides += [f"data.max_response_tokens={RESPONSE_TOKENS}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides)


def write_rows(path: Path) -> Path:
    """Write rows that serve all stages, of random words, one of them a token."""
    draw = random.Random(0)

    def text(tokens: int) -> str:
        return "".join(f" {draw.choice(WORDS)}" for _ in range(tokens))

    with path.open("w") as file:
        for _ in range(200):
            responses = [text(RESPONSE_TOKENS - 2) for _ in range(2)]
            row = {"prompt": text(PROMPT_TOKENS - 6), "responses": responses, "ranks": [1, 2]}
            file.write(json.dumps(row | {"response": responses[0]}) + "\n")
    return path


def built(cfg: DictConfig, folder: Path) -> tuple[Any, RecordDataModule, MemoryPlan, Any]:
    """Build the stage as a run does, but on random weights; return it with all that it needs."""
    stage, settings = build.stage_class(cfg)
    source = DataSource(cfg.data)
    codec = build_codec(cfg.model, source, {})
    data = build.build_data(cfg, stage.records[0], settings, source, codec)
    plan = build.plan_run(cfg, stage, settings, data, folder)
    micro_batches = build.build_micro_batches(cfg, settings, data, plan)
    context, _ = build.build_context(cfg, stage, data, source, codec, micro_batches)
    module = stage(settings, context, **random_roles(cfg, wanted_roles(cfg, stage)))
    return module, data, plan, build.build_trainer(cfg, module, data, context, None, folder, "")


def random_roles(cfg: DictConfig, specs: Mapping[str, RoleSpec]) -> dict[str, Role]:
    """Build a stage's roles on random weights."""
    fake, shape = describe_model(cfg.model)
    base = RandomBase(fake, "cpu" if cfg.hardware.accelerator == "cpu" else "cuda:0")
    fresh = {name: replace(spec, starts_from=None) for name, spec in specs.items()}
    size: dict[str, int] = {"vocab_size": 0, "seed": 0}
    roles = make_roles(base, shape, fresh, {}, **size)
    hardware = cfg.hardware
    suit_machine(
        roles,
        checkpoints=hardware.gradient_checkpointing,
        logits_mb=hardware.logits_mb,
        attention=hardware.attention,
    )
    return roles


@dataclass(frozen=True)
class RandomBase:
    """A base model of random weights, made layer by layer: never all of them in full."""

    fake: FakeBase
    device: str

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.fake.dtype

    def load(self, vocab_size: int, seed: int) -> PreTrainedModel:
        """Draw the weights; both arguments are without effect here."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.fake.config, dtype=self.dtype)
        bits, linear = self.fake.quantization, dict(quantizable(model))
        for name, module in list(model.named_modules()):
            if hasattr(module, "inv_freq"):  # computed, not drawn
                rotary: Any = type(module)
                model.set_submodule(name, rotary(model.config).to(self.device))
                continue
            self._draw(module)
            if bits is not None and name in linear:
                model.set_submodule(name, quantized_layer(linear[name], bits, self.device))
        model.tie_weights()
        if bits is not None:
            mark_quantized_(model, bits)
            guard_quantized_(model)
        return model

    def _draw(self, module: nn.Module) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device)
            drawn = drawn.normal_(std=0.02) if drawn.dim() > 1 else drawn.fill_(1.0)
            setattr(module, name, nn.Parameter(drawn))


if __name__ == "__main__":
    main()
