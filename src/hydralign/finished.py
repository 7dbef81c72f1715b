"""Finished runs, opened: their policies ready to write, their reward models ready to score."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import DictConfig

from hydralign.artifacts import check_files
from hydralign.data.encoder import Encoder
from hydralign.data.records import PromptText
from hydralign.micro_batches import MicroBatches
from hydralign.model_source import build_roles, device_of
from hydralign.models.assembly import RoleSpec
from hydralign.models.codec import Codec, make_codec
from hydralign.models.loading import load_tokenizer
from hydralign.models.roles import ScalarRole, TextRole
from hydralign.rewards.scorers import RewardModelScorer
from hydralign.rl.sequences import pad_sequences
from hydralign.rollout.sampling import Sampling
from hydralign.runs import Run, find_policy, find_reward_model


@dataclass(frozen=True)
class Opened:
    """A finished run's product with what it takes to use it."""

    run: Run
    config: DictConfig
    """With which it was made."""
    codec: Codec
    device: torch.device

    @property
    def artifact(self) -> Path:
        """Where it comes from."""
        return self.run.artifact

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which it computes as in training."""
        mixed = self.config.hardware.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)


@dataclass(frozen=True)
class Policy(Opened):
    """A policy that is ready to write."""

    role: TextRole

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


@dataclass(frozen=True)
class RewardModel(Opened):
    """A reward model that is ready to score."""

    role: ScalarRole

    def encoder(self) -> Encoder:
        """Return what makes tokens of prompts and responses, as in its training."""
        return _encoder(self.config, self.codec, self.config.data)

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
        encoder = self.encoder()
        asked = [encoder.prompt_ids(prompt)] * len(responses)
        said = [encoder.response_ids(prompt, response) for response in responses]
        sequences = pad_sequences(asked, said, self.codec.pad_id).to(self.device)
        with self.precision():
            scores: list[float] = self.role.scores(sequences).tolist()
        return scores


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
    """Return config, codec, device and role of runs that are of one lineage."""
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
    return list(zip(configs, codecs, [device] * len(runs), placed, strict=True))


def _encoder(cfg: DictConfig, codec: Codec, limits: DictConfig) -> Encoder:
    return Encoder(
        codec.tokenizer,
        cfg.data.template,
        codec.stop_id,
        limits.max_prompt_tokens,
        limits.max_response_tokens,
        limits.max_comparison_tokens,
    )
