"""Evaluate one policy against another on the same prompts, by any scorer or by hand.

python scripts/evaluate.py RUN RUN                                 what they were trained against
python scripts/evaluate.py RUN RUN --scorer vader --scorer REWARD_RUN
python scripts/evaluate.py RUN RUN --by-hand pairs.jsonl           for people: scripts/label.py
python scripts/evaluate.py --ranked pairs.sqlite pairs.left_out.jsonl    what people made of them

A RUN is the folder of a run, of a chain (its last policy), or an artifact. Both policies answer at
temperature 1 and greedily. A win is a higher score of the second on the same prompt; ties are half.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydralign.data.splits import ALL, SPLIT_NAMES
from hydralign.evaluation_file import check_replaceable, write_evaluation
from hydralign.explain import run_script

CONF = Path(__file__).resolve().parents[1] / "conf"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of two policies")
    parser.add_argument(
        "--scorer",
        action="append",
        default=[],
        help="a reward model's folder, gold, a name as in rewards=, {scorer: ..., options: ...}",
    )
    parser.add_argument("--prompts", type=int, help="how many, drawn at random")
    parser.add_argument("--split", choices=(*SPLIT_NAMES, ALL), default="test")
    parser.add_argument("--data", nargs="+", default=[], help="overrides, as train.py takes them")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; 0")
    parser.add_argument("--own-templates", action="store_true", help="each reads its own prompts")
    parser.add_argument("--out", type=Path, help="scored.json, or ranked.json with --ranked")
    parser.add_argument("--by-hand", type=Path, metavar="FILE", help="write pairs to rank instead")
    parser.add_argument(
        "--ranked", nargs="+", type=Path, metavar="FILE", help="read rankings of such pairs"
    )
    options = parser.parse_args(arguments)
    if len(options.runs) not in ((0, 2) if options.ranked else (2,)):
        parser.error(f"{len(options.runs)} runs are named, wanted 2")
    if options.out is None:
        options.out = Path("ranked.json" if options.ranked else "scored.json")
    if not options.by_hand:
        check_replaceable(options.out)
    if options.ranked:
        report_ranked(options)
    elif options.by_hand:
        write_pairs(options)
    else:
        report_scored(options)


def report_scored(options: argparse.Namespace) -> None:
    """Compare two policies by scorers."""
    from hydralign import evaluate  # only now: it imports torch
    from hydralign.run import quieten_libraries

    quieten_libraries()
    question = evaluate.Question(
        scorers=options.scorer,
        prompts=options.prompts,
        split=options.split,
        data=options.data,
        seed=options.seed,
        own_templates=options.own_templates,
    )
    report = evaluate.evaluate(options.runs, CONF, question)
    write_evaluation(options.out, report)
    print(f"{report['prompts']} prompts\n{evaluate.table(report)}Written to {options.out}.")


def write_pairs(options: argparse.Namespace) -> None:
    """Write the answers of both policies for people to rank."""
    from hydralign import sample
    from hydralign.run import quieten_libraries
    from hydralign.sample_file import left_out_of

    quieten_libraries()
    wanted = sample.Wanted(
        per_prompt=2,
        prompts=options.prompts,
        split=options.split,
        data=options.data,
        seed=options.seed,
        as_drawn=True,
        own_templates=options.own_templates,
    )
    sample.sample(options.runs, options.by_hand, CONF, wanted)
    file = options.by_hand.with_suffix(".sqlite")
    print(f"Rank them: python scripts/label.py serve {file} --samples {options.by_hand}")
    left_out = left_out_of(options.by_hand)
    also = f" {left_out}" if left_out.exists() else ""
    print(f"Then: python scripts/evaluate.py --ranked {file}{also}")


def report_ranked(options: argparse.Namespace) -> None:
    """Say what people made of two policies."""
    from hydralign.by_hand import human_win_rate
    from hydralign.runs import find_policy

    pair = [find_policy(folder).manifest.id for folder in options.runs]
    found = human_win_rate(options.ranked, pair=pair, seed=options.seed)
    write_evaluation(options.out, asdict(found))
    print(
        f"{found.second} is preferred to {found.first} with a share of {found.win_rate:.3f} "
        f"({found.low:.3f} to {found.high:.3f}), ties counted half: {found.rankings} rankings of "
        f"{found.prompts} prompts, {found.ties:.0%} ties. Written to {options.out}."
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels nobody asked for
    run_script(main, CONF, "choose another file: --out FILE")
