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


def human_win_rate(
    files: Sequence[Path], *, pair: Sequence[str] = (), seed: int = 0
) -> HumanWinRate:
    """Read rankings, and say how often the second policy's answer is preferred.

    Args:
        files: rows with `prompt`, `ranks`, and `samples` that say which artifact each response
            comes from.
        pair: ids of the artifacts; the two that occur, in their order, if empty.
        seed: of the interval's resampling.

    Raises:
        UserError: if a file does not say whose the responses are, or the two are in none.
    """
    ranked = [values for file in files for values in _ranked_rows(file)]
    named = ", ".join(map(str, files))
    if not ranked:
        raise UserError(f"{named}: no ranking yet.")
    paths = {
        sample["artifact_id"]: sample["policy"] for values in ranked for sample in values["samples"]
    }
    first, second = _the_two(named, paths, pair)
    outcomes: dict[str, list[Tensor]] = defaultdict(list)
    for values in ranked:
        if len(wins := _wins(values, first, second)):
            outcomes[repr(values["prompt"])].append(wins)
    if not outcomes:
        raise UserError(f"{named}: no prompt was answered by both policies.")
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


def _ranked_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows that have ranks, all of which say whose the responses are."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file.")
    rows = [row for row in load_rows(str(file)) if row.values.get("ranks")]
    for row in rows:
        if (reason := _what_is_wrong(row.values)) is not None:
            raise UserError(
                f"{file}, row {row.number}: {reason}. Wanted are rows as scripts/label.py makes "
                "them of what --by-hand has written."
            )
    return [row.values for row in rows]


def _what_is_wrong(values: Mapping[str, Any]) -> str | None:
    ranks, samples = values["ranks"], values.get("samples")
    if not isinstance(samples, list) or not all(_says_whose(sample) for sample in samples):
        return "its samples do not say whose the responses are (artifact_id and policy)"
    if not isinstance(ranks, list) or not all(isinstance(rank, int | float) for rank in ranks):
        return "its ranks are no list of numbers"
    if len(ranks) != len(samples):
        return f"{len(ranks)} ranks, but {len(samples)} samples"
    return None if "prompt" in values else "it has no prompt"


def _says_whose(sample: Any) -> bool:
    return isinstance(sample, dict) and all(
        isinstance(sample.get(name), str) for name in ("artifact_id", "policy")
    )


def _the_two(named: str, paths: Mapping[str, str], pair: Sequence[str]) -> tuple[str, str]:
    chosen = tuple(pair or paths)
    if missing := [each for each in chosen if each not in paths]:
        raise UserError(
            f"{named}: no responses of {missing[0]}, only of {', '.join(paths.values())}."
        )
    if len(chosen) != 2:
        raise UserError(
            f"{named}: responses of {len(chosen)} policies ({', '.join(paths.values())}). Name "
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
