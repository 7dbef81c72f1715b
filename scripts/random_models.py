"""Stages on random weights of a model's true size: for measurements that download nothing."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from hydralign import build, config
from hydralign.data.module import RecordDataModule
from hydralign.data_source import DataSource
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
from hydralign.planning.plan import MemoryPlan

CONF = Path(__file__).resolve().parents[1] / "conf"

WORDS = [
    a + b for a in ("ba", "co", "du", "fe", "gi", "ha") for b in ("lo", "mi", "nu", "pa", "re")
]
"""Few enough for a tokenizer of 512 to know each of them as one token."""


def composed(
    model: str,
    preset: str,
    stage: str,
    rows: Path,
    lengths: tuple[int, int],
    more: Sequence[str] = (),
) -> DictConfig:
    """Compose the config of a stage on random weights.

    Args:
        model: name under conf/model.
        preset: name under conf/hardware.
        stage: name under conf/stage.
        rows: as `write_rows` wrote them.
        lengths: most tokens of a prompt and of a response.
        more: overrides.
    """
    config.register()
    overrides = [f"model={model}", f"hardware={preset}", f"stage={stage}", *more]
    overrides += ["model.source=null", "model.vocab_size=512", "model.stop_tokens=[]"]
    overrides += ["data=jsonl", f"data.path={rows}", "data.template=plain"]
    overrides += [f"data.max_prompt_tokens={lengths[0]}", f"data.max_response_tokens={lengths[1]}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides)


def write_rows(path: Path, lengths: tuple[int, int]) -> Path:
    """Write 200 rows that serve all stages, of random words, one of them a token.

    Args:
        path: of the file.
        lengths: tokens of each prompt and of each response, about.
    """
    draw = random.Random(0)

    def text(tokens: int) -> str:
        return "".join(f" {draw.choice(WORDS)}" for _ in range(tokens))

    with path.open("w") as file:
        for _ in range(200):
            responses = [text(lengths[1] - 2) for _ in range(2)]
            row = {"prompt": text(lengths[0] - 6), "responses": responses, "ranks": [1, 2]}
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
    base, shape = random_base(cfg)
    fresh = {name: replace(spec, starts_from=None) for name, spec in specs.items()}
    size: dict[str, int] = {"vocab_size": 0, "seed": 0}
    roles = make_roles(base, shape, fresh, {}, **size)
    hardware = cfg.hardware
    suit_machine(
        roles,
        checkpoints=hardware.gradient_checkpointing,
        logits_mb=hardware.logits_mb,
        attention=hardware.attention,
        records_decoding=hardware.record_decoding,
    )
    return roles


def random_base(cfg: DictConfig) -> tuple["RandomBase", Any]:
    """Return a config's base with random weights, and the shape of its adapters."""
    fake, shape = describe_model(cfg.model)
    return RandomBase(fake, "cpu" if cfg.hardware.accelerator == "cpu" else "cuda:0"), shape


@dataclass(frozen=True)
class RandomBase:
    """A base model of random weights, made layer by layer: never all of them in full."""

    fake: FakeBase
    device: str
    kind: Any = AutoModelForCausalLM
    """Which of transformers' Auto classes makes it."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.fake.dtype

    def load(self, vocab_size: int, seed: int) -> PreTrainedModel:
        """Draw the weights, the same at each call; both arguments are without effect here."""
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.device("meta"):
            model = self.kind.from_config(self.fake.config, dtype=self.dtype)
        bits = self.fake.quantization
        narrow = {name for name, _ in quantizable(model)} - {"score"}  # the head of a classifier
        for name, module in list(model.named_modules()):
            if hasattr(module, "inv_freq"):  # computed, not drawn
                rotary: Any = type(module)
                model.set_submodule(name, rotary(model.config).to(self.device))
                continue
            self._draw(module, generator)
            if bits is not None and name in narrow:
                layer: Any = module
                model.set_submodule(name, quantized_layer(layer, bits, self.device))
                module.to("meta")  # the list still holds it
        model.tie_weights()
        if bits is not None:
            mark_quantized_(model, bits)
            guard_quantized_(model)
        return model

    def _draw(self, module: nn.Module, generator: torch.Generator) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device)
            if drawn.dim() > 1:
                drawn.normal_(std=0.02, generator=generator)
            else:
                drawn.fill_(1.0)
            setattr(module, name, nn.Parameter(drawn))
