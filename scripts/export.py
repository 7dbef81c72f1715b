"""Take a finished model away, in the form that plain transformers and peft load.

python scripts/export.py RUN_DIR --to DIR                all weights, or of a LoRA run the adapter
python scripts/export.py RUN_DIR --to DIR --merged       the adapter merged into its base

RUN_DIR is a run, a chain (its last policy) or a stage's folder within one, such as RUN_DIR/reward.
What was written is loaded again by plain libraries and compared with the run's own model on
held-out texts; where it departs too far, nothing is written. docs/export.md says more.
"""

import argparse
import logging
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

from hydralign.explain import run_script  # noqa: E402


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, export, and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    form = parser.add_mutually_exclusive_group()
    for name, meaning in (("adapter", "as it is"), ("merged", "folded into its base")):
        form.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, help=f"LoRA: {meaning}"
        )
    parser.add_argument("--dtype", help="of merged weights: float32 or bfloat16; that of the run")
    parser.add_argument(
        "--max-drift",
        type=float,
        metavar="X",
        help="that is allowed: of a policy, nats per token (0.01); of a reward model, standard "
        "deviations of its scores (0.05)",
    )
    parser.add_argument("--licence", help="for the model card, such as apache-2.0")
    options = parser.parse_args(arguments)

    from hydralign.exporter import Wanted, export  # only now: it imports torch
    from hydralign.run import quieten_libraries

    quieten_libraries()
    wanted = Wanted(options.form, options.dtype, options.max_drift, options.licence)
    print(export(options.run, options.to, wanted).summary())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_script(main, ROOT / "conf", "choose another folder: --to DIR")
