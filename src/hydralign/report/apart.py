"""Drawing in a process of its own.

What matplotlib takes, about 0.1 GB, would count in the memory of the stages to come; and whatever
goes wrong in drawing, the run has its result.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)

REPORT = "report.html"
SECONDS = 120
"""After which it is given up; it takes a few."""


def draw_apart(folder: Path) -> None:
    """Draw the report of a finished run, or say why there is none.

    Args:
        folder: of the run.
    """
    package = str(Path(__file__).parents[2])  # the code that runs here, wherever it was found
    known = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([package, *([known] if known else [])])
    command = [sys.executable, "-m", "hydralign.report", str(folder)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": path},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        if not done.returncode:
            log.info("Report: %s", folder / REPORT)
            return
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    log.warning(
        "The report could not be drawn: %s. The run is finished all the same; to try again: "
        "python scripts/report.py %s",
        reason,
        folder,
    )
