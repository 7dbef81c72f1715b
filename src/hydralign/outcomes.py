"""What a stage found on held-out data, row by row: what the report is drawn from.

It lies in the run folder as `evaluation.json`, so that a report can be drawn at any time.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydralign.artifacts import write_json

log = logging.getLogger(__name__)

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class PairOutcomes:
    """Scores of the n responses of held-out comparisons, and the pairs that people ranked."""

    unit: str
    """What a score is counted in."""
    log_odds: float | None
    """Of one being preferred, for each unit that it scores above the other: a model whose loss is
    logistic says so. None where it says nothing."""
    scores: Sequence[float]
    """(n,)"""
    lengths: Sequence[int]
    """(n,) counted response tokens."""
    preferred: Sequence[int]
    """(pairs,) row of the response that people preferred; ties are left out."""
    other: Sequence[int]
    """(pairs,) row of the other response."""
    prompts: Sequence[int]
    """(pairs,) number of the pair's prompt, which may come in several comparisons."""
    gaps: Sequence[float | None]
    """(pairs,) how far apart people rated the two; None where they did not."""


@dataclass(frozen=True)
class Judged:
    """How the responses of one policy to n held-out prompts were judged."""

    scores: Sequence[float]
    """(n,) by what the policy was trained against."""
    gold: Sequence[float] | None
    """(n,) by a rule that no stage trains on, if there is one."""
    lengths: Sequence[int]
    """(n,) counted response tokens."""
    finished: Sequence[bool]
    """(n,) whether a stop token occurred."""


@dataclass(frozen=True)
class Shown:
    """Two responses to one prompt, the second token by token."""

    prompt: str
    before: str
    after: Sequence[tuple[str, float]]
    """Of each token: its text, and log-prob under the policy less that under the reference."""


@dataclass(frozen=True)
class PolicyOutcomes:
    """A policy and the reference it started from, on the same n held-out prompts."""

    before: Judged
    after: Judged
    kl: Sequence[float]
    """(n,) nats of each response after."""
    shown: Sequence[Shown]
    """Of the first prompts."""


Outcomes = PairOutcomes | PolicyOutcomes


def write_outcomes(folder: Path, outcomes: Outcomes) -> None:
    """Write what a stage found into its run folder."""
    write_json(folder / EVALUATION, asdict(outcomes), indent=None)


def try_to_write_outcomes(folder: Path, find: Callable[[], Outcomes]) -> None:
    """Write what a stage finds, or say why not: the run has its result without it.

    Args:
        folder: of the run.
        find: what it found; may fail as well.
    """
    try:
        write_outcomes(folder, find())
    except Exception as error:  # of a stage and a tokenizer that may be the user's own
        log.warning("%s could not be written (%r); the report will lack it.", EVALUATION, error)


def read_outcomes(folder: Path) -> Outcomes:
    """Read what `write_outcomes` wrote.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is damaged.
    """
    said = json.loads((folder / EVALUATION).read_text())
    try:
        return PairOutcomes(**said) if "preferred" in said else _policy(said)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{EVALUATION} is none of ours: {error!r}") from error


def _policy(said: Mapping[str, Any]) -> PolicyOutcomes:
    return PolicyOutcomes(
        before=Judged(**said["before"]),
        after=Judged(**said["after"]),
        kl=said["kl"],
        shown=[Shown(**shown) for shown in said["shown"]],
    )
