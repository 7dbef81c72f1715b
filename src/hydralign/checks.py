"""What can be checked before torch is imported: keys, values, sizes, files, offers, artifacts."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydralign.config import BUILT_IN_SCORERS, check_numbers, outline, read_settings
from hydralign.data.datasets import check_offered
from hydralign.data.sources import READERS, check_file
from hydralign.data.splits import HashSplitter
from hydralign.errors import UserError, nearest
from hydralign.inputs import find_inputs, is_hub_id

WORDS = {
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.quantization": ("none", "int8", "nf4"),
    "data.template": ("plain", "chat"),
    "hardware.attention": (None, "grouped", "eager", "sdpa"),
    "hardware.optimizer": ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"),
    "hardware.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    # Half precision without a mix would round adapters and heads; 16-mixed scales gradients, which
    # clipping by hand would not see.
    "hardware.precision": ("32-true", "bf16-mixed", "64-true"),
}
"""Settings that take one of a few words."""

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt")
"""Of those that transformers knows, the ones that need no more than a number of steps."""


def check(cfg: DictConfig) -> None:
    """Check all that can be checked before torch is imported, every stage of a chain included.

    Raises:
        UserError: on the first mistake.
    """
    check_settings(cfg)
    finished: dict[str, Path] = {}
    for where, stage in _stages(cfg):
        find_inputs(cfg, outline(stage["_target_"]), read_settings(stage, where), finished, where)
        finished[where.rpartition(".")[2]] = Path("of this run")


def check_settings(cfg: DictConfig) -> None:
    """Check what a config says, whether or not the artifacts are there that it starts from.

    Raises:
        UserError: on the first mistake.
    """
    for key in OmegaConf.missing_keys(cfg):
        raise UserError(f"{key} is not set: {key}=VALUE.")
    _check_keys(cfg)
    _check_values(cfg)
    _check_model(cfg.model)
    check_data(cfg.data)
    _check_rewards(cfg.rewards)
    for where, stage in _stages(cfg):
        _check_stage(cfg, stage, where)


def check_machine(cfg: DictConfig) -> None:
    """Check that what the config asks of the machine is there. This one imports torch.

    Raises:
        UserError: if it is not.
    """
    _check_accelerator(cfg.hardware)
    if cfg.model.quantization != "none":
        _check_bitsandbytes(f"model.quantization={cfg.model.quantization}")
    if cfg.hardware.optimizer != "adamw":
        _check_bitsandbytes(f"hardware.optimizer={cfg.hardware.optimizer}")


def _check_accelerator(hardware: DictConfig) -> None:
    import torch

    if hardware.optimizer.startswith("paged") and not torch.cuda.is_available():
        raise UserError(
            f"hardware.optimizer={hardware.optimizer} moves memory to and from a CUDA card, and "
            "there is none. Use adamw or adamw_8bit."
        )
    wanted, devices = hardware.accelerator, hardware.devices
    if wanted in ("auto", "cpu"):
        return
    found = torch.accelerator.device_count()
    if found < devices:
        raise UserError(
            f"hardware.accelerator={wanted} with hardware.devices={devices}: torch "
            f"{torch.__version__} finds {found} here. Use hardware=cpu, or another build of torch."
        )


def _check_bitsandbytes(setting: str) -> None:
    try:
        importlib.import_module("bitsandbytes")
    except Exception as error:  # a library that it lacks in turn is no ImportError
        raise UserError(
            f"{setting} needs bitsandbytes, which does not run here: {error}. Install another "
            "version of it, or use model.quantization=none hardware.optimizer=adamw."
        ) from error


def _stages(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Return each stage's config with its key."""
    if "chain" in cfg.stage:
        yield from ((f"stage.{name}", cfg.stage[name]) for name in cfg.stage.chain)
    else:
        yield "stage", cfg.stage


def _check_keys(node: DictConfig, above: str = "") -> None:
    """Refuse what `+key=value` adds to a typed group: nothing would read it."""
    schema: Any = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(schema):
        return
    names = [field.name for field in dataclasses.fields(schema)]
    for key in map(str, node):
        if key not in names:
            raise UserError(f"{above}{key} does not exist.{nearest(key, names)}")
        if isinstance(node[key], DictConfig):
            _check_keys(node[key], f"{above}{key}.")


def _check_values(cfg: DictConfig) -> None:
    for key, words in WORDS.items():
        _check_word(key, OmegaConf.select(cfg, key), words)
    counts = ("seed", "samples_every", "stop_after", "bad_steps_to_skip")
    check_numbers({key: cfg[key] for key in counts})
    for group in ("model", "model.lora", "data", "hardware"):
        check_numbers(OmegaConf.select(cfg, group) or {}, f"{group}.")
    if cfg.hardware.devices != 1 and _in_sweep():
        raise UserError(
            f"hardware.devices={cfg.hardware.devices}: the jobs of a sweep use one device each. "
            "For several cards start several sweeps, each with its own CUDA_VISIBLE_DEVICES."
        )
    if not 0 < cfg.validate_every <= 1:
        raise UserError(
            f"validate_every={cfg.validate_every}: it is the share of a run between two looks at "
            "held-out data, above 0 and at most 1."
        )


def _check_word(key: str, word: str | None, words: Sequence[str | None]) -> None:
    if word not in words:
        options = [option for option in words if option is not None]
        raise UserError(f"{key}={word} does not exist.{nearest(str(word), options)}")


def _check_model(model: DictConfig) -> None:
    if model.source is not None and not is_hub_id(model.source) and not Path(model.source).is_dir():
        hint = f" Make the one of model={model.name} with: {model.made_by}" if model.made_by else ""
        raise UserError(f"model.source={model.source}: there is no such folder.{hint}")
    if model.lora is None and model.quantization != "none":
        raise UserError(
            f"model.quantization={model.quantization} freezes the base, so nothing would train. "
            "Choose a model with adapters (model=..._lora), or write one: lora: {rank: 16}."
        )
    if model.lora is None and model.dtype != "float32":
        raise UserError(
            f"model.dtype={model.dtype} with all weights training would round small updates away. "
            "Use model.dtype=float32 (hardware.precision=bf16-mixed computes in bfloat16 all the "
            "same), or choose a model with adapters (model=..._lora), or write one."
        )
    if model.source is None and (model.architecture is None or model.vocab_size is None):
        raise UserError(
            f"model={model.name}: without model.source, a network from scratch needs "
            "model.architecture and model.vocab_size."
        )


def check_data(data: DictConfig) -> None:
    """Check that its splits are whole, and that its file is there if it reads one.

    Raises:
        UserError: if not.
    """
    HashSplitter(dict(data.splits))
    if "path" in data.source:  # reads a file or a data set of the hub
        if data.source.path is None:
            raise UserError(
                f"data={data.name} needs a file of yours ({', '.join(READERS)}): data.path=FILE."
            )
        check_file(data.source.path)


def _check_rewards(rewards: Sequence[DictConfig]) -> None:
    """Check that there is a scorer, and that each can be one."""
    if not rewards:
        raise UserError("rewards=[]: something must score the responses, such as reward_model.")
    for name in (reward.scorer for reward in rewards):
        module = BUILT_IN_SCORERS.get(name, name).rpartition(".")[0]
        if name != "reward_model" and not _exists(module):
            known = ["reward_model", *BUILT_IN_SCORERS]
            raise UserError(
                f"rewards: there is no scorer {name!r}.{nearest(name, known)} Or write the import "
                "path of a function of yours: package.module.function."
            )


def _exists(module: str) -> bool:
    try:
        return bool(module) and importlib.util.find_spec(module) is not None
    except ImportError:  # a package above it is not there
        return False


def _check_stage(cfg: DictConfig, stage: DictConfig, where: str) -> None:
    """Check one stage against the data and the machine."""
    settings, said = read_settings(stage, where), outline(stage["_target_"])
    if hasattr(settings, "schedule"):
        _check_word(f"{where}.schedule", settings.schedule, SCHEDULES)
    for kind in said.records:
        check_offered(kind, cfg.data.name, cfg.data.records)
    if hasattr(settings, "group_size"):
        _check_minibatches(settings, where)
    devices = cfg.hardware.devices
    key = "minibatch_size" if hasattr(settings, "minibatch_size") else "batch_size"
    size = getattr(settings, key)
    if size % devices:
        raise UserError(
            f"hardware.devices={devices} does not divide {where}.{key}={size}: every device takes "
            "the same share of a step."
        )


def _check_minibatches(settings: Any, where: str) -> None:
    """Check that minibatches cut a rollout evenly, and no group in two."""
    g, size = settings.group_size, settings.minibatch_size
    prompts, groups = settings.rollout_batch_size, "" if g == 1 else f" x group_size={g}"
    if size % g:
        raise UserError(
            f"{where}.group_size={g} does not divide {where}.minibatch_size={size}: the responses "
            "to one prompt stay together."
        )
    if prompts * g % size:
        raise UserError(
            f"{where}.minibatch_size={size} does not divide the responses of a rollout: "
            f"{where}.rollout_batch_size={prompts}{groups}."
        )


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
