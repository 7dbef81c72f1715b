"""Tokens kept on disk: a large data set is tokenised once, and not at every start."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hydralign.data.encoder import Encoder
from hydralign.data.examples import (
    ComparisonExample,
    DemonstrationExample,
    Example,
    Pair,
    PromptExample,
)
from hydralign.data.pypi import cache_folder
from hydralign.data.records import BadRow, Comparison, Demonstration, Prompt, Record
from hydralign.data.report import RowReport
from hydralign.whole_file import whole_file

WORTH = 5000
"""Records from which on tokens are kept: fewer are tokenised in about a second."""
KEPT_BYTES = 4_000_000_000
"""Of all that is kept; what was not used for longest goes first."""

_log = logging.getLogger(__name__)


def remembered(
    make: Callable[[], list[Example]],
    records: Sequence[Record],
    encoder: Encoder,
    rating_gap: float,
    report: RowReport,
) -> list[Example]:
    """Make the examples of records, or take them from the cache with what was reported of them.

    A cache that cannot be read or written costs time, and nothing else.

    Args:
        make: makes them, and fills the report.
        records: of one kind.
        encoder: tokenizer, template and limits.
        rating_gap: pairs whose ratings differ by less are left out.
        report: gets the account of bad rows.
    """
    if len(records) < WORTH:
        return make()
    try:
        path = cache_folder() / "tokens" / f"{key_of(records, encoder, rating_gap)}.npz"
    except OSError as error:  # no room to write the tokenizer
        return _warned(error, report, make())
    examples = _read(path, type(records[0]), report)
    if examples is not None:
        return examples
    examples = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, examples, report)
        _trim(path.parent)
    except OSError as error:
        return _warned(error, report, examples)
    return examples


def _warned(error: OSError, report: RowReport, examples: list[Example]) -> list[Example]:
    _log.warning("%s: tokens cannot be kept for the next run: %s", report.origin, error)
    return examples


def key_of(records: Sequence[Record], encoder: Encoder, rating_gap: float) -> str:
    """Hash all that decides which tokens records become: themselves, the settings, the code."""
    settings = {
        field.name: getattr(encoder, field.name)
        for field in fields(encoder)
        if field.init and field.name != "tokenizer"
    }
    seen = None
    with suppress(BadRow):
        seen = encoder.prompt_text("x")  # a template may write the date
    found = hashlib.sha256(repr((settings, rating_gap, _code(), seen)).encode())
    with TemporaryDirectory() as folder:  # as it is saved: vocabulary, special tokens, template
        encoder.tokenizer.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            found.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    for record in records:
        found.update(repr(record).encode())
    return found.hexdigest()[:32]


@cache
def _code() -> str:
    """Tell the code that makes tokens: this room, and the libraries."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    found = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    return " ".join([found, *map(version, ("transformers", "tokenizers", "jinja2"))])


def _write(path: Path, examples: Sequence[Example], report: RowReport) -> None:
    flat = [_flat(example) for example in examples]
    lists = [ids for each, _ in flat for ids in each]
    lengths = np.array([len(ids) for ids in lists], dtype=np.int64)
    more = {
        "rest": [rest for _, rest in flat],
        "bad_rows": report.bad_rows,
        "counts": report.counts,
    }
    arrays: dict[str, Any] = {
        "ids": np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=lengths.sum()),
        "lengths": lengths,
        "lists": np.array([len(each) for each, _ in flat], dtype=np.int64),
        "more": np.frombuffer(json.dumps(more).encode(), dtype=np.uint8),
    }
    with whole_file(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)  # a zip file: it holds a checksum of each part


def _read(path: Path, kind: type[Record], report: RowReport) -> list[Example] | None:
    """Return the examples and fill the report; None if there is no file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("ids", "lengths", "lists", "more")}
        more = json.loads(arrays["more"].tobytes())
        examples = _examples(arrays, more["rest"], kind)
        bad_rows = [(row, reason) for row, reason in more["bad_rows"]]
        counts = dict(more["counts"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a damaged zip file raises whatever it likes
        _log.warning("%s is damaged (%r): tokens are made anew.", path, error)
        return None
    with suppress(OSError):
        os.utime(path)  # used last
    report.bad_rows += bad_rows
    report.counts.update(counts)
    _log.info("%s: tokens of %d records taken from %s", report.origin, len(examples), path)
    return examples


def _examples(arrays: dict[str, Any], rest: list[Any], kind: type[Record]) -> list[Example]:
    ids, ends = arrays["ids"], arrays["lengths"].cumsum().tolist()
    lists = [ids[start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]
    borders = arrays["lists"].cumsum().tolist()
    return [
        _RESTORE[kind](lists[start:end], more)
        for start, end, more in zip([0, *borders][: len(borders)], borders, rest, strict=True)
    ]


def _flat(example: Example) -> tuple[list[list[int]], Any]:
    """Part an example in lists of tokens and the rest, which fits into JSON."""
    if isinstance(example, DemonstrationExample):
        return [example.prompt_ids, example.response_ids], None
    if isinstance(example, ComparisonExample):
        pairs = [(pair.first, pair.second, pair.target, pair.gap) for pair in example.pairs]
        return [example.prompt_ids, *example.responses], pairs
    return [example.prompt_ids], (example.text, example.answer)


_RESTORE: dict[type[Record], Callable[[list[list[int]], Any], Example]] = {
    Demonstration: lambda lists, _: DemonstrationExample(*lists),
    Comparison: lambda lists, pairs: ComparisonExample(
        lists[0], lists[1:], [Pair(*pair) for pair in pairs]
    ),
    Prompt: lambda lists, rest: PromptExample(lists[0], *rest),
}
"""By kind of record, the way back from `_flat`."""


def _trim(folder: Path) -> None:
    """Remove what was not used for longest, where there is too much."""
    left = KEPT_BYTES
    with suppress(FileNotFoundError):  # another process does the same
        for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True):
            left -= file.stat().st_size
            if left < 0:
                file.unlink()
