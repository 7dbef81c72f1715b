"""A model that was exported, beside the one of its run: the same held-out texts for both."""

from pathlib import Path
from typing import Any

from torch import Tensor

from hydralign.data_source import DataSource
from hydralign.errors import UserError
from hydralign.export.drift import Drift, own_logits, policy_drift, score_drift
from hydralign.export.recipe import Recipe
from hydralign.export.writing import score_shift
from hydralign.finished import Policy, RewardModel
from hydralign.rl.sequences import Sequences, pad_sequences

PROMPTS, AT_A_TIME, LONGEST = 32, 4, 64
"""Held-out prompts that policies answer, how many in one pass, and tokens of an answer."""
COMPARISONS, OF_EACH = 16, 4
"""Held-out comparisons, and responses of each, that reward models score."""


def measure(opened: Policy | RewardModel, recipe: Recipe, folder: Path) -> Drift:
    """Load what was exported as others will, and compare it with the run's own.

    Args:
        opened: the run's own.
        recipe: how others load it.
        folder: of the export.

    Raises:
        UserError: if its data holds nothing out.
    """
    plain = recipe.load(folder).eval()
    return _of_policy(opened, plain) if isinstance(opened, Policy) else _of_scores(opened, plain)


def _of_policy(opened: Policy, plain: Any) -> Drift:
    source, network = DataSource(opened.config.data), opened.role.network
    prompts = _held_out(source, "prompt", opened, PROMPTS)
    batches = source.prompt_batches(prompts, opened.codec, batch_size=AT_A_TIME)

    def logits(sequences: Sequences) -> Tensor:
        with opened.precision():
            return own_logits(network, sequences.to(opened.device))

    longest = min(LONGEST, opened.config.data.max_response_tokens)
    return policy_drift(logits, plain, batches, opened.codec.stop_ids, longest)


def _of_scores(opened: RewardModel, plain: Any) -> Drift:
    rows = [
        pad_sequences([example.prompt_ids], [response], opened.codec.pad_id)
        for example in _held_out(DataSource(opened.config.data), "comparison", opened, COMPARISONS)
        for response in example.responses[:OF_EACH]
    ]

    def scores(sequences: Sequences) -> Tensor:
        with opened.precision():
            return opened.role.scores(sequences.to(opened.device))

    return score_drift(scores, plain, rows, score_shift(opened.role))


def _held_out(source: DataSource, kind: str, opened: Policy | RewardModel, most: int) -> list[Any]:
    splits = source.examples(kind, opened.codec, most)
    if not (splits.test or splits.validation):
        raise UserError(
            f"data={opened.config.data.name} has no held-out {kind}s to compare the exported model "
            "with the run's own on: data.splits gave all of them to training."
        )
    return splits.test or splits.validation
