"""Sample responses for people to rank: several to each prompt, from one policy or more.

python scripts/sample.py RUN [RUN ...] --per-prompt 4 --temperatures 0.7 1.0 --prompts 300
python scripts/sample.py RUN --data data=jsonl data.path=FILE       other prompts than the run's own

A RUN is the folder of a run, of a chain (its last policy), or an artifact. Each policy answers at
each temperature; the responses of a prompt are dealt to them as evenly as can be, and no two are
the same. Called again after a stop, it goes on. With ranks added, a row is one of data=jsonl.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

CONF = Path(__file__).resolve().parents[1] / "conf"

from hydralign.data.splits import ALL, SPLIT_NAMES  # noqa: E402
from hydralign.explain import run_script  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of policies")
    parser.add_argument("--per-prompt", type=int, default=4, help="responses in all; 4")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0], help="1.0")
    parser.add_argument("--prompts", type=int, help="how many, drawn at random; all")
    parser.add_argument("--split", choices=(*SPLIT_NAMES, ALL), default="train")
    parser.add_argument("--data", nargs="+", default=[], help="overrides, as train.py takes them")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; 0")
    parser.add_argument("--own-templates", action="store_true", help="each reads its own prompts")
    parser.add_argument("--out", type=Path, default=Path("samples.jsonl"), help="samples.jsonl")
    options = parser.parse_args(arguments)

    from hydralign import sample  # only now: it imports torch
    from hydralign.run import quieten_libraries

    quieten_libraries()
    sample.sample(
        options.runs,
        options.out,
        CONF,
        sample.Wanted(
            per_prompt=options.per_prompt,
            temperatures=options.temperatures,
            prompts=options.prompts,
            split=options.split,
            data=options.data,
            seed=options.seed,
            own_templates=options.own_templates,
        ),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels nobody asked for
    run_script(main, CONF, "choose another file: --out FILE")
