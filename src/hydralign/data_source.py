"""A data config as an object: which records it offers, and how they become batches."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hydra.utils import get_method, instantiate
from omegaconf import DictConfig

from hydralign.data.collate import (
    PromptBatch,
    collate_comparisons,
    collate_demonstrations,
    collate_prompts,
)
from hydralign.data.datasets import check_offered, load_records
from hydralign.data.encode import encode_records
from hydralign.data.encoder import Encoder
from hydralign.data.splits import Splits
from hydralign.data.templates import dialogue_text
from hydralign.models.codec import Codec
from hydralign.rewards.scorers import RuleScorer

COLLATE: dict[str, Callable[..., Any]] = {
    "demonstration": collate_demonstrations,
    "comparison": collate_comparisons,
    "prompt": collate_prompts,
}


class DataSource:
    """Reads rows and makes records of each kind once, and serves them to every stage that asks."""

    def __init__(self, data: DictConfig) -> None:
        """Read nothing yet.

        Args:
            data: the config group.
        """
        self.data = data
        self._mappings = {kind: instantiate(target) for kind, target in data.records.items()}
        self._rows: Any = None
        self._records: dict[str, Splits[Any]] = {}

    def check_offers(self, kinds: Sequence[str]) -> None:
        """Check that all kinds of records are on offer.

        Raises:
            UserError: if one is not; says which are, and for which stages.
        """
        for kind in kinds:
            check_offered(kind, self.data.name, self._mappings)

    def records(self, kind: str) -> Splits[Any]:
        """Return the records of one kind, by split."""
        if kind not in self._records:
            self._records[kind] = load_records(
                kind,
                name=self.data.name,
                source=self._read,
                mappings=self._mappings,
                fractions=dict(self.data.splits),
                origin=self.data.path,
                max_bad_rows=self.data.max_bad_rows,
            )
        return self._records[kind]

    def examples(self, kind: str, codec: Codec, most: int | None = None) -> Splits[Any]:
        """Return the records of one kind as tokens, by split.

        Args:
            kind: of record.
            codec: tokenizer and stop ids.
            most: records of each split that are needed; None is all.
        """
        data = self.data
        encoder = Encoder(
            codec.tokenizer,
            data.template,
            codec.stop_id,
            data.max_prompt_tokens,
            data.max_response_tokens,
            data.max_comparison_tokens,
        )
        limits = {"train": most, "validation": most, "test": most or data.max_test_records}
        return self.records(kind).map(
            lambda split, records: encode_records(
                drawn(records, limits[split]),
                encoder,
                origin=f"{data.path or data.name} ({split})",
                rating_gap=data.rating_gap.get(split, 0.0),
                max_bad_rows=data.max_bad_rows,
            )
        )

    def prompt_batches(
        self, examples: Sequence[Any], codec: Codec, *, batch_size: int
    ) -> list[PromptBatch]:
        """Return prompts in batches."""
        pieces = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
        return [collate_prompts(piece, piece, pad_id=codec.pad_id) for piece in pieces]

    def training_texts(self) -> list[str]:
        """Return the texts that a tokenizer may learn from: those of the training split."""
        return [
            dialogue_text(record.prompt) + record.response
            for record in self.records("demonstration").train
        ]

    def collate(self, kind: str, codec: Codec) -> Callable[..., Any]:
        """Return the function that makes batches of one kind of example."""
        return partial(COLLATE[kind], pad_id=codec.pad_id)

    def gold(self) -> RuleScorer | None:
        """Return the rule that scores responses and is never trained on, if there is one."""
        if self.data.gold is None:
            return None
        return RuleScorer(get_method(self.data.gold["_target_"]), "gold")

    def _read(self) -> Any:
        if self._rows is None:
            self._rows = instantiate(self.data.source)()
        return self._rows


def drawn(records: list[Any], most: int | None) -> list[Any]:
    """Draw at most that many records at random: the first of a sorted file are no sample."""
    if most is None or most >= len(records):
        return records
    return random.Random(0).sample(records, most)
