"""Finished runs, found by their folders: what lies there, and with which settings it was made."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydralign.artifacts import MANIFEST, Manifest
from hydralign.config import RunConfig
from hydralign.errors import UserError, what_is_wrong
from hydralign.record import RECORD, is_at_work, read_record


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
    of_a_chain = folder not in (last[0].folder, last[0].artifact)
    if of_a_chain and read_record(folder).get("unfinished"):
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


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return runs with as much of the folder in their names as tells those of a stage apart."""
    names = [run.stage for run in runs]
    for longer in (lambda run: run.folder.name, lambda run: run.folder):
        seen = Counter(names)
        names = [
            f"{run.stage} ({longer(run)})" if seen[name] > 1 else name
            for run, name in zip(runs, names, strict=True)
        ]
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


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
