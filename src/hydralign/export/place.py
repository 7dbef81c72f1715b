"""Where an export goes: a folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from hydralign.errors import UserError, disk_trouble


def check_free(target: Path) -> None:
    """Check that nothing lies where the export shall go.

    Raises:
        UserError: if something does.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is there already. Name another folder, or remove it: --to DIR.")


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Give a folder beside the target, whose files become the target's if all goes well.

    Args:
        target: resolved; must not exist, or be empty.

    Raises:
        UserError: if something lies in the way, or the disk cannot be written.
    """
    aside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    check_free(aside)
    try:
        with writing(target):
            aside.mkdir(parents=True, exist_ok=True)
        yield aside
        check_free(target)  # another export may have been faster
        with writing(target):
            _rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say of a disk that cannot be written what to do.

    Args:
        target: folder that was asked for.

    Raises:
        UserError: if the disk is full, or cannot be written.
    """
    try:
        yield
    except Exception as error:
        if (reason := disk_trouble(error)) is None:
            raise
        raise UserError(
            f"Cannot write {target}: {reason}. Nothing was left there. Make room, or choose "
            "another folder: --to DIR."
        ) from error


def _rename(aside: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(aside, target)
        return
    for path in aside.iterdir():  # the user may stand in the empty folder, so it stays the same one
        os.replace(path, target / path.name)


def check_room(model: PreTrainedModel, aside: Path) -> None:
    """Check that the disk takes a model's weights.

    Args:
        model: to be written.
        aside: the folder that it goes to.

    Raises:
        UserError: if it does not.
    """
    wanted = sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(aside).free
    if free < 1.02 * wanted:
        raise UserError(
            f"{aside.parent} has room for {free / 1e9:.2f} GB, and the model takes "
            f"{wanted / 1e9:.2f}. Make room, or choose another folder: --to DIR."
        )
