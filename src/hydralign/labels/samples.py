"""Responses to be ranked, as `scripts/sample.py` or anybody writes them: a row each prompt.

A row has `prompt` (text or messages), `responses` (texts), and perhaps `samples`, an object each
response that says where it came from. Annotators never see `samples`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydralign.data.messages import text_or_messages
from hydralign.data.records import BadRow, Prompt, PromptText
from hydralign.data.report import RowReport
from hydralign.data.rows import holds, objects_of, value_of
from hydralign.data.sources import load_rows
from hydralign.errors import UserError

MOST_RESPONSES = 9
"""Each has a key of its own; and nobody ranks more."""


@dataclass(frozen=True)
class Sample:
    """A prompt with the responses to rank.

    Raises:
        BadRow: if the prompt is empty, there are too few or too many responses, two are equal, or
            a text cannot be written.
    """

    prompt: PromptText
    responses: tuple[str, ...]
    samples: tuple[dict[str, Any], ...] | None = None
    """Where each response came from."""

    def __post_init__(self) -> None:
        Prompt(self.prompt)  # refuses an empty one
        k = len(self.responses)
        if k < 2:
            raise BadRow(f"{k} {'response' if k == 1 else 'responses'}, wanted at least 2")
        if k > MOST_RESPONSES:
            raise BadRow(f"{k} responses, wanted at most {MOST_RESPONSES}")
        if not all(response.strip() for response in self.responses):
            raise BadRow("empty response")
        if len({response.strip() for response in self.responses}) < k:
            raise BadRow("two responses are the same")
        if self.samples is not None and len(self.samples) != k:
            raise BadRow(f"{k} responses but {len(self.samples)} samples")
        try:  # JSON may hold half of a pair of surrogates, which no page and no file can show
            texts = [prompt_json(self.prompt), self.responses, self.samples]
            json.dumps(texts, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise BadRow("text that is not Unicode: half of a pair of surrogates") from error

    @property
    def content(self) -> str:
        """The hash by which an item is known again, in whatever order its responses come."""
        text = json.dumps([prompt_json(self.prompt), sorted(self.responses)])
        return hashlib.sha256(text.encode()).hexdigest()


def prompt_json(prompt: PromptText) -> Any:
    """Return a prompt as JSON holds it: a text, or a list of messages."""
    return prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt]


def read_samples(file: Path, max_bad_rows: float = 0.05) -> tuple[list[Sample], RowReport]:
    """Read the samples of a file.

    Args:
        file: json, jsonl, csv or parquet.
        max_bad_rows: the largest bearable share of rows that cannot be used.

    Returns:
        the samples, and an account of the rows that are left out.

    Raises:
        UserError: if the file cannot be read, or the share is larger.
    """
    rows, report = load_rows(str(file)), RowReport(str(file))
    found: dict[str, int] = {}
    samples = []
    for row in rows:
        try:
            sample = _sample(row.values)
            if (first := found.setdefault(sample.content, row.number)) != row.number:
                raise BadRow(f"the same prompt and responses as row {first}")
        except BadRow as reason:
            report.bad(row.number, reason)
        else:
            samples.append(sample)
    if len(report.bad_rows) > max_bad_rows * len(rows):
        raise UserError(
            f"{report.summary(len(rows))}\nThat is more than --max-bad-rows {max_bad_rows:g} "
            "allows, and nothing was taken in. Mend the rows, or raise the limit to leave them out."
        )
    return samples, report


def _sample(values: dict[str, Any]) -> Sample:
    responses = value_of(values, "responses")
    if not isinstance(responses, list) or not all(isinstance(text, str) for text in responses):
        raise BadRow("column 'responses' holds no list of texts")
    samples = objects_of(values, "samples") if holds(values, "samples") else None
    return Sample(
        text_or_messages(values, "prompt"),
        tuple(responses),
        None if samples is None else tuple(samples),
    )
