"""From a run folder to `report.html` in it."""

from pathlib import Path

from tqdm import tqdm

from hydralign.errors import UserError
from hydralign.record import is_at_work
from hydralign.report.apart import REPORT
from hydralign.report.canvas import Picture
from hydralign.report.chain import chain_page
from hydralign.report.events import show_pictures
from hydralign.report.read import RunFolder, read_run
from hydralign.report.stage import stage_page
from hydralign.whole_file import whole_file


def write_report(folder: Path, *, stages_anew: bool = True) -> Path:
    """Draw the report of a run, or of a chain with those of its stages.

    Args:
        folder: of the run. Gets `report.html`, and the pictures for TensorBoard.
        stages_anew: whether stages of a chain that have a report get another.

    Returns:
        where the report lies.

    Raises:
        UserError: if the folder holds no run, or one that another process is busy with.
    """
    run = read_run(folder)
    if is_at_work(folder):
        raise UserError(
            f"{folder} holds a run that is still at work, which draws its report at its end. "
            "Until then its curves are in TensorBoard."
        )
    if not run.chain:
        return _write(folder, *stage_page(run))
    stages = _stages(run)
    for stage in tqdm(stages, "drawing", delay=2):
        if stages_anew or not (stage.path / REPORT).is_file():
            _write(stage.path, *stage_page(stage))
    return _write(folder, *chain_page(run, stages))


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
    with whole_file(path) as aside:
        aside.write_text(content, encoding="utf-8")
    return path
