"""The file that an evaluation ends in; nothing that others have written is replaced by it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydralign.artifacts import write_json
from hydralign.errors import UserError, disk_errors

OURS = {"written_by": "scripts/evaluate.py"}


def check_replaceable(path: Path) -> None:
    """Check that nothing is lost where an evaluation is to go.

    Raises:
        UserError: if something else lies there.
    """
    if not path.exists():
        return
    try:
        ours = OURS.items() <= json.loads(path.read_text()).items()
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(
            f"{path} is there, and no evaluation. Choose another file, or remove it: --out FILE."
        )


def write_evaluation(path: Path, report: Mapping[str, Any]) -> None:
    """Write an evaluation, in place of an earlier one if there is one.

    Raises:
        UserError: if something else lies there, or the disk does not take it.
    """
    check_replaceable(path)
    with disk_errors(path, "--out FILE"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**OURS, **report})
