"""How often people prefer one policy to another, from the rankings of their answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydralign.data.sources import load_rows
from hydralign.errors import UserError
from hydralign.stages.bootstrap import bootstrap_interval


@dataclass(frozen=True)
class HumanWinRate:
    """What people made of two policies."""

    first: str
    second: str
    """Artifacts."""
    win_rate: float
    """Share of pairs in which the second is preferred; ties are half."""
    low: float
    high: float
    """Ends of its 95 % interval, over prompts: several rankings of one are not independent."""
    prompts: int
    rankings: int
    ties: float
    """Share of pairs that are."""


def human_win_rate(file: Path, *, pair: Sequence[str] = (), seed: int = 0) -> HumanWinRate:
    """Read rankings, and say how often the second policy's answer is preferred.

    Args:
        file: rows with `prompt`, `ranks`, and `samples` that say which artifact each response comes
            from.
        pair: ids of the artifacts; the two that occur, in their order, if empty.
        seed: of the interval's resampling.

    Raises:
        UserError: if the file does not say whose the responses are, or the two are not in it.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such file.")
    ranked = [row.values for row in load_rows(str(file)) if row.values.get("ranks")]
    if not ranked:
        raise UserError(f"{file} holds no ranking yet.")
    if not all(values.get("samples") for values in ranked):
        raise UserError(
            f"{file} does not say whose the responses are: wanted rows with ranks and samples, as "
            "scripts/label.py makes of what --by-hand has written."
        )
    paths = {
        sample["artifact_id"]: sample["policy"] for values in ranked for sample in values["samples"]
    }
    first, second = _the_two(file, paths, pair)
    outcomes: dict[str, list[Tensor]] = defaultdict(list)
    for values in ranked:
        if len(wins := _wins(values, first, second)):
            outcomes[repr(values["prompt"])].append(wins)
    if not outcomes:
        raise UserError(f"{file}: no prompt was answered by both policies.")
    groups = [torch.cat(wins) for wins in outcomes.values()]
    everything = torch.cat(groups)
    low, high = bootstrap_interval(groups, seed=seed)
    return HumanWinRate(
        paths[first],
        paths[second],
        everything.mean().item(),
        low,
        high,
        prompts=len(groups),
        rankings=sum(len(wins) for wins in outcomes.values()),
        ties=(everything == 0.5).double().mean().item(),
    )


def _the_two(file: Path, paths: Mapping[str, str], pair: Sequence[str]) -> tuple[str, str]:
    chosen = tuple(pair or paths)
    if missing := [each for each in chosen if each not in paths]:
        raise UserError(
            f"{file} holds no responses of {missing[0]}, only of {', '.join(paths.values())}."
        )
    if len(chosen) != 2:
        raise UserError(
            f"{file} holds responses of {len(chosen)} policies ({', '.join(paths.values())}). Name "
            "the two to compare before --ranked."
        )
    return chosen[0], chosen[1]


def _wins(values: Mapping[str, Any], first: str, second: str) -> Tensor:
    """Return (pairs,) 1 where the second policy's response is preferred, 0.5 for a tie."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for rank, sample in zip(values["ranks"], values["samples"], strict=True):
        ranks[sample["artifact_id"]].append(rank)
    pairs = product(ranks[first], ranks[second])
    return torch.tensor([(a > b) + 0.5 * (a == b) for a, b in pairs], dtype=torch.float64)
