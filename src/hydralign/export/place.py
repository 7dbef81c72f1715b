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
    """Give a folder beside the target, which becomes the target if all goes well.

    Raises:
        UserError: if the disk is full, or cannot be written.
    """
    aside = target.with_name(f"{target.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        os.replace(aside, target)
    except Exception as error:
        if (reason := disk_trouble(error)) is None:
            raise
        raise UserError(
            f"Cannot write {target}: {reason}. Nothing was left there. Make room, or choose "
            "another folder: --to DIR."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
