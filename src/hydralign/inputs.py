"""Which artifacts a run starts from, and what tells one run's result from another's."""

import importlib.util
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hydralign.artifacts import (
    MANIFEST,
    Lineage,
    Manifest,
    check_files,
    check_lineage,
    digest,
    find_artifact,
    sha256,
)
from hydralign.data.sources import content_hash
from hydralign.errors import UserError


def stage_name(cfg: DictConfig) -> str:
    """Return the name that a stage's artifacts carry: that of the module of its class."""
    return cfg.stage["_target_"].split(".")[-2]


def lineage(cfg: DictConfig) -> Lineage:
    """Return what this run's artifacts must have in common with those it starts from."""
    model = cfg.model
    if model.source is None:  # its tokenizer comes from the data; under adapters so does its seed
        other = cfg.data.tokenizer_from
        made_of = [OmegaConf.to_container(model.architecture), model.vocab_size, model.dtype]
        made_of += [None if other else cfg.data.path, None if model.lora is None else cfg.seed]
        base = f"{model.name} from scratch {digest(made_of)} on {other or cfg.data.name}"
    else:
        base = _named(model.source)
    lora = "none" if model.lora is None else digest(OmegaConf.to_container(model.lora))
    return Lineage(base, _quantization(model), lora, cfg.data.template, cfg.stop_after)


def _named(source: str) -> str:
    """Name a base: by its hub id or its folder, and by what a run of ours has left there."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    manifest = read_manifest(folder)
    return f"{folder.resolve()}{'' if manifest is None else f' {manifest.id}'}"


def _quantization(model: DictConfig) -> str:
    """Name all that decides what a quantised base computes."""
    if model.quantization == "none":
        return "none"
    double = " double" if model.quantization == "nf4" and model.double_quantization else ""
    return f"{model.quantization}{double} {model.dtype}"


def find_inputs(
    cfg: DictConfig,
    stage: Any,
    settings: Any,
    finished: Mapping[str, Path],
    where: str = "stage",
) -> dict[str, Path]:
    """Find the artifacts that a stage starts from.

    Args:
        cfg: of the run.
        stage: its class, which names its inputs.
        settings: may name a path for each.
        finished: artifacts that the chain has made, by stage.
        where: the stage's key, for messages.

    Raises:
        UserError: if one is missing or does not fit.
    """
    inputs = {}
    wanted = lineage(cfg)
    if getattr(settings, "reward_model", None) is not None and not scores_by_model(cfg):
        raise UserError(
            f"{where}.reward_model is given, but rewards does not ask for it. Add "
            "{scorer: reward_model} to the list, or leave it out."
        )
    for name, maker in wanted_inputs(cfg, stage).items():
        named = getattr(settings, name)
        if named is not None:
            inputs[name] = Path(named)
            _check_named(named, wanted, f"{where}.{name}")
        elif maker in finished:
            inputs[name] = finished[maker]
        else:
            command = _command(maker, cfg)
            inputs[name] = find_artifact(Path(cfg.outputs), maker, wanted, command)
    check_whole(cfg, inputs)
    _check_templates(inputs)
    return inputs


def wanted_inputs(cfg: DictConfig, stage: Any) -> dict[str, str]:
    """Return the inputs of a stage, without a reward model where it does not score."""
    unwanted = () if scores_by_model(cfg) else ("reward_model",)
    return {name: maker for name, maker in stage.inputs.items() if name not in unwanted}


def scores_by_model(cfg: DictConfig) -> bool:
    """Say whether the reward model is among the scorers of a run."""
    return any(reward.scorer == "reward_model" for reward in cfg.rewards)


def check_whole(cfg: DictConfig, inputs: Mapping[str, Path]) -> None:
    """Check that a run starts from what the stages have left that made it.

    Raises:
        UserError: if a file of an artifact is missing or has changed.
    """
    source = [Path(cfg.model.source)] if cfg.model.source else []
    for path in [*inputs.values(), *source]:
        if (manifest := read_manifest(path)) is not None:
            check_files(path, manifest)


def read_manifest(path: Path) -> Manifest | None:
    """Read the manifest of an artifact; None for a plain Hugging Face folder or hub id."""
    return Manifest.read(path) if (path / MANIFEST).is_file() else None


def is_hub_id(name: str) -> bool:
    """Say whether a name has the form of a hub id, as a folder's may have too."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None


def _check_named(name: str, wanted: Lineage, where: str) -> None:
    path = Path(name)
    manifest = read_manifest(path)
    if manifest is not None:
        check_lineage(path, manifest, wanted, where)
    elif not path.exists() and not is_hub_id(name):
        raise UserError(
            f"{where}={name}: there is no such folder. Name the artifact of a finished stage, a "
            "Hugging Face folder or a hub id."
        )
    elif path.exists() and not (path / "config.json").is_file():
        raise UserError(
            f"{where}={path} is neither the artifact of a finished stage ({MANIFEST} is missing) "
            "nor a Hugging Face folder (config.json is missing)."
        )


def _command(maker: str, cfg: DictConfig) -> str:
    """Return the command that makes what is missing: this run's own, but for the stage."""
    given = [f"model={cfg.model.name}", f"data={cfg.data.name}"]
    if HydraConfig.initialized():
        given = [
            x
            for x in HydraConfig.get().overrides.task
            if not re.match(r"[+~]*(stage|resume\w*)\b", x)
        ]
    return shlex.join(["python", "train.py", f"stage={maker}", *given])


def _check_templates(inputs: Mapping[str, Path]) -> None:
    hashes = {
        f"stage.{name}={path}": manifest.template_hash
        for name, path in inputs.items()
        if (manifest := read_manifest(path)) is not None
    }
    if len(set(hashes.values())) > 1:
        found = ", ".join(f"{where} has {value}" for where, value in hashes.items())
        raise UserError(
            f"The inputs of this stage disagree on tokenizer or template: {found}. "
            "Name artifacts that were trained one on top of the other."
        )


def config_hash(cfg: DictConfig, inputs: Mapping[str, Path]) -> str:
    """Hash everything that could change a stage's result; of the machine, 8-bit averages only."""
    parts: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "data", "stage")
    }
    parts["model"].pop("made_by", None)  # advice, which changes no result
    parts["data"].pop("rewards", None)  # those of the run count
    if "reward_model" in cfg.stage:
        parts["rewards"] = OmegaConf.to_container(cfg.rewards, resolve=True)
        parts["scorers"] = [_code_of(reward.scorer) for reward in cfg.rewards]
    if cfg.model.source is not None:
        parts["model"].pop("architecture")  # what the source is, for the memory plan
        parts["model"]["source"] = _named(cfg.model.source)
    rounding = cfg.hardware.optimizer if "8bit" in cfg.hardware.optimizer else None
    return digest(
        [parts, cfg.seed, cfg.stop_after, rounding, parent_ids(inputs), _content(cfg.data.path)]
    )


def _code_of(scorer: str) -> str | None:
    """Hash the file of a scorer of the user's own, so that an edited one is not taken for it."""
    module = scorer.rpartition(".")[0]
    try:
        found = importlib.util.find_spec(module) if module else None
    except ImportError:
        return None
    return sha256(Path(found.origin)) if found and found.has_location and found.origin else None


def _content(path: str | None) -> str | None:
    """Hash the data file, so that an edited one is not taken for the same."""
    if path is None or not Path(path).expanduser().is_file():
        return None
    return content_hash(Path(path).expanduser())


def other_parents(inputs: Mapping[str, Path]) -> list[str]:
    """Say which inputs were made from another artifact than the one taken beside them.

    No mistake: they fit each other. But a reward model's scale is that of its own SFT policy.
    """
    ids = parent_ids(inputs)
    return [
        f"{name} was made from another {parent} than the one taken here"
        for name, path in inputs.items()
        if (manifest := read_manifest(path)) is not None
        for parent, parent_id in manifest.parents.items()
        if parent != name and ids.get(parent, parent_id) != parent_id
    ]


def parent_ids(inputs: Mapping[str, Path]) -> dict[str, str]:
    """Name each input by the id in its manifest, or by its path where it has none."""
    manifests = {name: read_manifest(path) for name, path in inputs.items()}
    return {n: m.id if m is not None else str(inputs[n]) for n, m in manifests.items()}
