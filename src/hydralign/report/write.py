"""From a run folder to `report.html` in it."""

import os
from pathlib import Path

from tqdm import tqdm

from hydralign.errors import UserError
from hydralign.report.apart import REPORT
from hydralign.report.canvas import Picture
from hydralign.report.chain import chain_page
from hydralign.report.events import show_pictures
from hydralign.report.read import RunFolder, read_run
from hydralign.report.stage import stage_page


def write_report(folder: Path, *, stages_anew: bool = True) -> Path:
    """Draw the report of a run, or of a chain with those of its stages.

    Args:
        folder: of the run. Gets `report.html`, and the pictures for TensorBoard.
        stages_anew: whether stages of a chain that have a report get another.

    Returns:
        where the report lies.

    Raises:
        UserError: if the folder holds no run.
    """
    run = read_run(folder)
    if not run.chain:
        return _write(folder, *stage_page(run))
    stages = _stages(run)
    for stage in tqdm(stages, "drawing", delay=2):
        if stages_anew or not (stage.path / REPORT).is_file():
            _write(stage.path, *stage_page(stage))
    links = {stage.stage: f"{stage.path.name}/{REPORT}" for stage in stages}
    return _write(folder, *chain_page(run, stages, links))


def _stages(run: RunFolder) -> list[RunFolder]:
    found = []
    for name in run.chain:
        try:
            found.append(read_run(run.path / name))
        except UserError:  # not begun, or damaged; the chain's report says so
            continue
    return found


def _write(folder: Path, content: str, pictures: list[Picture]) -> Path:
    show_pictures(folder, pictures)
    path = folder / REPORT
    aside = path.with_name(f"{REPORT}.{os.getpid()}.partial")
    aside.write_text(content, encoding="utf-8")
    aside.replace(path)
    return path
