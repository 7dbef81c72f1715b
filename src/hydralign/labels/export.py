"""Rankings as JSONL, in the forms that other tools read.

| form | a row | read by |
| --- | --- | --- |
| `ranks` | a ranking whole: `prompt`, `responses`, `ranks`, `annotator`, ... | `data=jsonl` |
| `pairs` | `prompt`, `chosen`, `rejected`: texts, or messages where the prompt is | most trainers |
| `messages` | the same, always as messages | trainers that apply a chat template |
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from hydralign.data.label_database import SUFFIX, is_database
from hydralign.data.rows import Row
from hydralign.errors import UserError, disk_errors
from hydralign.whole_file import whole_file

Values = dict[str, Any]
Form = Callable[[Values], Iterator[Values]]


def export(rows: Sequence[Row], file: Path, form: str) -> int:
    """Write rankings, in a file that is there whole or not at all.

    Args:
        rows: as `read_rankings` returns them.
        file: to write, its folder too; another one of that name is replaced.
        form: one of `FORMS`.

    Returns:
        rows written.

    Raises:
        UserError: if the file is a database, which would be lost, or cannot be written.
    """
    if file.suffix == SUFFIX or is_database(file):
        raise UserError(
            f"{file} is a database, or has the name of one, and what is written is JSON lines. "
            "Choose another file: --to FILE.jsonl."
        )
    written = [made for row in rows for made in FORMS[form](row.values)]
    lines = [f"{json.dumps(values, ensure_ascii=False)}\n" for values in written]
    with disk_errors(file, "--to"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as aside:
            aside.write_text("".join(lines), encoding="utf-8")
    return len(written)


def whole(values: Values) -> Iterator[Values]:
    """Return a ranking as it is."""
    yield values


def pairs(values: Values) -> Iterator[Values]:
    """Return every pair of a ranking that is no tie."""
    responses, ranks, prompt = values["responses"], values["ranks"], values["prompt"]
    as_messages = not isinstance(prompt, str)
    for (better, first), (worse, second) in permutations(zip(ranks, responses, strict=True), 2):
        if better < worse:
            sides = [
                _message("assistant", side) if as_messages else side for side in (first, second)
            ]
            yield {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]} | {
                "annotator": values["annotator"]
            }


def messages(values: Values) -> Iterator[Values]:
    """Return the same pairs, with the prompt as a message of the user where it is a text."""
    prompt = values["prompt"]
    turns = _message("user", prompt) if isinstance(prompt, str) else prompt
    return pairs(values | {"prompt": turns})


def _message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


FORMS: dict[str, Form] = {"ranks": whole, "pairs": pairs, "messages": messages}
"""By the name that the command line gives them."""
