"""Finished runs, found and opened: the policies and reward models that lie in their folders."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydralign.artifacts import MANIFEST, Manifest, check_files
from hydralign.config import RunConfig
from hydralign.data.encoder import Encoder
from hydralign.data.records import PromptText
from hydralign.errors import UserError, what_is_wrong
from hydralign.micro_batches import MicroBatches
from hydralign.model_source import build_roles, device_of
from hydralign.models.assembly import RoleSpec
from hydralign.models.codec import Codec, make_codec
from hydralign.models.loading import load_tokenizer
from hydralign.models.roles import ScalarRole, TextRole
from hydralign.record import RECORD, is_at_work, read_record
from hydralign.rewards.scorers import RewardModelScorer
from hydralign.rl.sequences import pad_sequences
from hydralign.rollout.sampling import Sampling


@dataclass(frozen=True)
class Run:
    """A finished run of one stage."""

    name: str
    """Its stage, and its folder where another run has the same."""
    stage: str
    artifact: Path
    """Where its product lies."""

    @property
    def folder(self) -> Path:
        """The folder that the run was made in."""
        return self.artifact.parent

    @property
    def is_policy(self) -> bool:
        """Whether its product writes, and does not score."""
        return self.stage != "reward"

    @property
    def manifest(self) -> Manifest:
        """What its artifact says of itself."""
        return Manifest.read(self.artifact)

    @property
    def config(self) -> DictConfig:
        """The config that it was made with; what its version did not know has its default.

        Raises:
            UserError: if its folder does not say, or says what this version does not know.
        """
        said = read_record(self.folder)
        if "settings" not in said:
            raise UserError(
                f"{self.folder / RECORD} is missing or damaged: it says with which settings "
                f"{self.artifact} was made. Copy it there from the run's folder."
            )
        settings = {**said["settings"], "hardware": said["hardware"]}
        try:
            return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(RunConfig), settings))
        except OmegaConfBaseException as error:
            raise UserError(
                f"{self.folder / RECORD} was written by another version: {what_is_wrong(error)}."
            ) from error


def find_runs(folder: Path) -> list[Run]:
    """Find the finished runs in a folder.

    Args:
        folder: of a run, of a chain, or an artifact itself.

    Returns:
        one, or those of a chain in the order of their names.

    Raises:
        UserError: if there is no such folder, or nothing in it is finished.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Name those of finished runs.")
    own = [path for path in (folder, folder / "artifact") if (path / MANIFEST).is_file()][:1]
    artifacts = own or [path.parent for path in sorted(folder.glob(f"*/artifact/{MANIFEST}"))]
    if not artifacts:
        raise UserError(_nothing_in(folder))
    stages = [(path, Manifest.read(path).stage) for path in artifacts]
    return [Run(stage, stage, path) for path, stage in stages]


def find_policy(folder: Path) -> Run:
    """Find the policy that a folder stands for; of a chain, the one that no other started from.

    Args:
        folder: of a run, of a chain, or an artifact itself.

    Raises:
        UserError: if there is none, more than one, or the chain has not come to its end.
    """
    runs = find_runs(folder)
    policies = [run for run in runs if run.is_policy]
    if not policies:
        raise UserError(
            f"{runs[0].artifact} is a reward model, and a policy is wanted: name the run of "
            "another stage."
        )
    started_from = {run.manifest.parents.get("policy") for run in policies}
    last = [run for run in policies if run.manifest.id not in started_from]
    choice = ", ".join(str(run.folder) for run in policies)
    if len(last) > 1:
        raise UserError(f"{folder} holds several policies. Name one: {choice}.")
    if len(runs) > 1 and read_record(folder).get("unfinished"):
        raise UserError(f"{_unfinished(folder)} Or name what is finished: {choice}.")
    return last[0]


def find_reward_model(folder: Path) -> Run:
    """Find the reward model that a folder stands for.

    Args:
        folder: of a run, of a chain, or an artifact itself.

    Raises:
        UserError: if there is none, or more than one.
    """
    runs = find_runs(folder)
    models = [run for run in runs if not run.is_policy]
    if not models:
        found = ", ".join(f"{run.folder} (stage={run.stage})" for run in runs)
        raise UserError(
            f"A reward model is wanted, and there is none in {folder}: only {found}. Name a run "
            "of stage=reward."
        )
    if len(models) > 1:
        choice = ", ".join(str(run.folder) for run in models)
        raise UserError(f"{folder} holds several reward models. Name one: {choice}.")
    return models[0]


def _nothing_in(folder: Path) -> str:
    if read_record(folder).get("unfinished"):
        return _unfinished(folder)
    return (
        f"{folder} holds no artifact of a finished stage ({MANIFEST} is missing). Name the folder "
        "of a finished run, that of a stage within a chain, or an artifact."
    )


def _unfinished(folder: Path) -> str:
    if is_at_work(folder):
        return f"{folder} holds a run that is still at work. Wait for its end."
    return (
        f"{folder} holds a run that stopped before its end. Let it go on: the same command with "
        f"resume={folder}."
    )


@dataclass(frozen=True)
class Policy:
    """A policy that is ready to write."""

    run: Run
    config: DictConfig
    """With which it was made."""
    codec: Codec
    role: TextRole
    device: torch.device

    @property
    def artifact(self) -> Path:
        """Where it comes from."""
        return self.run.artifact

    def encoder(self, data: DictConfig | None = None) -> Encoder:
        """Return what makes tokens of prompts: its own template, the limits of some data.

        Args:
            data: a config; None is that of its own training.
        """
        return _encoder(self.config, self.codec, self.config.data if data is None else data)

    def sampling(self, temperature: float, max_response_tokens: int | None = None) -> Sampling:
        """Return how it draws responses.

        Args:
            temperature: of the draws.
            max_response_tokens: their limit; None is that of its own training.
        """
        rows = MicroBatches(
            self.config.hardware.generation_batch_size, "hardware.generation_batch_size"
        )
        limit = max_response_tokens or self.config.data.max_response_tokens
        return Sampling(temperature, limit, rows)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which it computes as in training."""
        return _precision(self.config, self.device)


@dataclass(frozen=True)
class RewardModel:
    """A reward model that is ready to score."""

    run: Run
    config: DictConfig
    """With which it was made."""
    codec: Codec
    role: ScalarRole
    device: torch.device

    @property
    def artifact(self) -> Path:
        """Where it comes from."""
        return self.run.artifact

    def scorer(self) -> RewardModelScorer:
        """Return what scores responses on the very tokens that were sampled."""
        setting = "hardware.score_micro_batch_size"
        rows = MicroBatches(self.config.hardware.score_micro_batch_size, setting)
        return RewardModelScorer(self.role, rows)

    @torch.no_grad()
    def scores(self, prompt: PromptText, responses: Sequence[str]) -> list[float]:
        """Return the normalised score of each of n responses to a prompt, given as text.

        Raises:
            BadRow: if the prompt is longer than in training, or a response has no tokens.
        """
        encoder = _encoder(self.config, self.codec, self.config.data)
        asked = [encoder.prompt_ids(prompt)] * len(responses)
        said = [encoder.response_ids(prompt, response) for response in responses]
        sequences = pad_sequences(asked, said, self.codec.pad_id).to(self.device)
        with self.precision():
            scores: list[float] = self.role.scores(sequences).tolist()
        return scores

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which it computes as in training."""
        return _precision(self.config, self.device)


def open_policy(folder: Path) -> Policy:
    """Load the policy that a folder stands for.

    Args:
        folder: of a run, of a chain, or an artifact itself.

    Raises:
        UserError: if there is none, more than one, or it cannot be loaded.
    """
    return open_policies([find_policy(folder)])[0]


def open_policies(runs: Sequence[Run]) -> list[Policy]:
    """Load some policies; those of one lineage with adapters share their base.

    Args:
        runs: whose they are.

    Raises:
        UserError: if one is damaged, or cannot be loaded.
    """
    opened: dict[int, Policy] = {}
    lineages = [run.manifest.lineage for run in runs]
    for lineage in dict.fromkeys(lineages):
        places = [place for place, other in enumerate(lineages) if other == lineage]
        family = _load([runs[place] for place in places], scalar=False)
        for place, parts in zip(places, family, strict=True):
            opened[place] = Policy(runs[place], *parts)
    return [opened[place] for place in range(len(runs))]


def open_reward_model(folder: Path) -> RewardModel:
    """Load the reward model that a folder stands for.

    Args:
        folder: of a run, of a chain, or an artifact itself.

    Raises:
        UserError: if there is none, more than one, or it cannot be loaded.
    """
    run = find_reward_model(folder)
    return RewardModel(run, *_load([run], scalar=True)[0])


def _load(runs: Sequence[Run], *, scalar: bool) -> list[tuple[DictConfig, Codec, Any, Any]]:
    """Return config, codec, role and device of runs that are of one lineage."""
    for run in runs:
        check_files(run.artifact, run.manifest)
    configs = [run.config for run in runs]
    codecs = [
        make_codec(load_tokenizer(str(run.artifact)), cfg.model.stop_tokens)
        for run, cfg in zip(runs, configs, strict=True)
    ]
    paths = {f"run{place}": run.artifact for place, run in enumerate(runs)}
    specs = {name: RoleSpec(name, scalar=scalar) for name in paths}
    stage = SimpleNamespace(inputs=dict.fromkeys(paths, ""), roles=specs)
    roles = build_roles(configs[0], stage, paths, len(codecs[0].tokenizer))
    device = torch.device(device_of(configs[0].hardware.accelerator))
    placed = [role.to(device) for role in roles.values()]
    return list(zip(configs, codecs, placed, [device] * len(runs), strict=True))


def _encoder(cfg: DictConfig, codec: Codec, limits: DictConfig) -> Encoder:
    return Encoder(
        codec.tokenizer,
        cfg.data.template,
        codec.stop_id,
        limits.max_prompt_tokens,
        limits.max_response_tokens,
        limits.max_comparison_tokens,
    )


def _precision(cfg: DictConfig, device: torch.device) -> AbstractContextManager[Any]:
    mixed = cfg.hardware.precision == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)
