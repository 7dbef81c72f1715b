"""From records to examples: tokens within the length limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from hydralign.data.encoder import Encoder
from hydralign.data.examples import (
    ComparisonExample,
    DemonstrationExample,
    Example,
    PromptExample,
)
from hydralign.data.pairs import preference_pairs
from hydralign.data.records import BadRow, Comparison, Demonstration, Prompt, PromptText, Record
from hydralign.data.report import RowReport
from hydralign.data.token_cache import remembered
from hydralign.errors import UserError

_TOGETHER = 256
"""Records whose texts are tokenised at once: more are no faster, and take memory meanwhile."""


@dataclass(frozen=True)
class _Encoding:
    """How one pass over records encodes them, and where it says what it lost."""

    encoder: Encoder
    rating_gap: float
    report: RowReport


def encode_records(
    records: Sequence[Record],
    encoder: Encoder,
    *,
    origin: str,
    rating_gap: float = 0.0,
    max_bad_rows: float = 0.05,
) -> list[Any]:
    """Tokenise records of one kind.

    A demonstration's long response is cut, without a stop token: cut text does not end there. A
    compared response that is too long is left out, for cutting would change what was compared.

    Args:
        records: demonstrations, comparisons or prompts.
        encoder: tokenizer, template and limits.
        origin: the data set and its split, for messages.
        rating_gap: pairs whose ratings differ by less are left out.
        max_bad_rows: the largest bearable share of records that cannot be used.

    Returns:
        an example for each record that can be used, in the same order.

    Raises:
        UserError: if too many records cannot be used, or none is left of some.
    """
    report = RowReport(origin)
    encoding = _Encoding(encoder, rating_gap, report)
    examples = remembered(lambda: _encoded(records, encoding), records, encoder, rating_gap, report)
    report.close(len(records), max_bad_rows)
    if records and not examples:
        lost = "; ".join(f"{n} {what}" for what, n in report.counts.items())
        raise UserError(f"{origin}: nothing is left of {len(records)} records ({lost}).")
    return examples


def _encoded(records: Sequence[Record], encoding: _Encoding) -> list[Example]:
    encoder, report = encoding.encoder, encoding.report
    examples: list[Example] = []
    bar = tqdm(records, desc=f"encoding {report.origin}", delay=2, leave=False)
    for index, record in enumerate(bar):
        if index % _TOGETHER == 0:
            encoder.read_ahead(map(_asked, records[index : index + _TOGETHER]))
        try:
            example = _ENCODE[type(record)](record, encoding)
        except BadRow as reason:
            report.bad(record.row, reason)
        else:
            examples += [] if example is None else [example]
    return examples


def _asked(record: Record) -> tuple[PromptText, tuple[str, ...]]:
    """Return the texts of a record: its prompt and its responses."""
    if isinstance(record, Demonstration):
        return record.prompt, (record.response,)
    return record.prompt, record.responses if isinstance(record, Comparison) else ()


def _demonstration(record: Demonstration, encoding: _Encoding) -> DemonstrationExample:
    encoder = encoding.encoder
    prompt_ids = encoder.prompt_ids(record.prompt)
    response_ids = encoder.response_ids(record.prompt, record.response)
    if len(response_ids) > encoder.max_response_tokens:
        response_ids = response_ids[: encoder.max_response_tokens]
        encoding.report.count("responses cut to max_response_tokens")
    return DemonstrationExample(prompt_ids, response_ids)


def _comparison(record: Comparison, encoding: _Encoding) -> ComparisonExample | None:
    encoder, report = encoding.encoder, encoding.report
    prompt_ids = encoder.prompt_ids(record.prompt)
    responses = [encoder.response_ids(record.prompt, text) for text in record.responses]
    limit = encoder.max_comparison_tokens or encoder.max_response_tokens
    kept = [index for index, ids in enumerate(responses) if len(ids) <= limit]
    if len(kept) < len(responses):
        report.count(
            f"compared responses of over {limit} tokens left out", len(responses) - len(kept)
        )
    try:
        pairs = preference_pairs(_choose(record, kept), encoding.rating_gap)
    except BadRow:  # fewer than two are left, or only ties
        pairs = []
    if not pairs:
        report.count("comparisons dropped: no pair of responses left")
        return None
    return ComparisonExample(prompt_ids, [responses[index] for index in kept], pairs)


def _choose(record: Comparison, kept: Sequence[int]) -> Comparison:
    ratings = record.ratings
    return replace(
        record,
        responses=tuple(record.responses[index] for index in kept),
        ranks=tuple(record.ranks[index] for index in kept),
        ratings=None if ratings is None else tuple(ratings[index] for index in kept),
    )


def _prompt(record: Prompt, encoding: _Encoding) -> PromptExample:
    encoder = encoding.encoder
    text = encoder.prompt_text(record.prompt)
    return PromptExample(encoder.prompt_ids(record.prompt), text, record.answer)


_ENCODE: dict[type[Record], Callable[[Any, _Encoding], Example | None]] = {
    Demonstration: _demonstration,
    Comparison: _comparison,
    Prompt: _prompt,
}
