"""Draw the report of a finished run anew.

python scripts/report.py RUN_DIR [RUN_DIR ...]

Writes report.html into each folder, drawn from what the run has left there, and its pictures for
TensorBoard. A chain gets one that links to those of its stages.
"""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

from hydralign.explain import run_script  # noqa: E402
from hydralign.report.write import write_report  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    for folder in parser.parse_args(arguments).runs:
        print(write_report(folder))


if __name__ == "__main__":
    run_script(
        main, ROOT / "conf", "copy the run to a folder that can be written, and name the copy"
    )
