"""Rank responses by hand, on a web page or in the terminal, into one SQLite file.

python scripts/label.py serve    FILE.sqlite --samples FILE.jsonl    the page, until Ctrl-C
python scripts/label.py terminal FILE.sqlite --annotator NAME        without a browser
python scripts/label.py status   FILE.sqlite                         counts and agreement
python scripts/label.py export   FILE.sqlite --to FILE.jsonl         for other tools

python train.py stage=reward data=labels data.path=FILE.sqlite       trains on the file itself

Samples are what scripts/sample.py writes: `prompt` and `responses` in each row.
"""

import argparse
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hydralign.data.label_database import opened_for_reading, read_rankings  # noqa: E402
from hydralign.errors import UserError  # noqa: E402
from hydralign.explain import run_script  # noqa: E402
from hydralign.labels.doubts import LAST, unsure_first  # noqa: E402
from hydralign.labels.export import FORMS, export  # noqa: E402
from hydralign.labels.progress import progress  # noqa: E402
from hydralign.labels.samples import read_samples  # noqa: E402
from hydralign.labels.store import LabelStore  # noqa: E402

OVERLAP, ANNOTATORS = 0.2, 2
"""What new items get, where nothing is said; what is said holds for all items."""


def serve(options: argparse.Namespace) -> None:
    """Serve the page."""
    try:
        from hydralign.labels.api import labelling_app
        from hydralign.web.server import serve as serve_app
    except ImportError as error:
        raise UserError(f"The page needs {error.name}: pip install -e '.[label]'") from error
    store = opened(options)
    try:
        serve_app(
            labelling_app(store),
            host=options.host,
            port=options.port,
            token=options.token,
            say=lambda address: print(f"Open {address}    (Ctrl-C ends)", flush=True),
        )
    finally:
        store.close()


def terminal(options: argparse.Namespace) -> None:
    """Rank in the terminal."""
    from hydralign.labels.terminal import rank_in_terminal

    store = opened(options)
    try:
        saved = rank_in_terminal(store, options.annotator.strip(), input)
        print(f"{saved} saved in {options.file}.")
    finally:
        store.close()


def opened(options: argparse.Namespace) -> LabelStore:
    """Open the file, and take in samples where some are named."""
    if options.samples is None and not options.file.exists():
        raise UserError(f"{options.file} is not there. To begin one: --samples FILE.jsonl")
    if options.samples is not None and not options.samples.exists():
        raise UserError(f"--samples {options.samples}: there is no such file.")
    samples, report = (
        ([], None)
        if options.samples is None
        else read_samples(options.samples, options.max_bad_rows)
    )
    store = LabelStore(options.file)
    overlap, annotators = options.overlap, options.annotators_per_item
    given = overlap is not None or annotators is not None
    overlap = OVERLAP if overlap is None else overlap
    annotators = ANNOTATORS if annotators is None else annotators
    if samples:
        new = store.add(samples, options.seed, overlap=overlap, annotators=annotators)
        print(f"{options.samples}: {new} new items, {len(samples) - new} there already.")
    if report is not None and report.bad_rows:
        print(report.summary(len(samples) + len(report.bad_rows)))
    if given:
        store.share_out(overlap, annotators)
    if options.reward_model is not None:
        put_in_order(store, options.reward_model)
    return store


def put_in_order(store: LabelStore, run: Path) -> None:
    """Put first what a run's reward model is least sure of."""
    from hydralign.finished import open_reward_model  # only now: it imports torch
    from hydralign.run import quieten_libraries

    quieten_libraries()
    priorities = unsure_first(store.items(), open_reward_model(run).scores)
    store.put_in_order(priorities)
    lost = sum(priority == LAST for priority in priorities.values())
    said = f"; {lost} it cannot read come last" if lost else ""
    print(f"{len(priorities)} items by how unsure the reward model of {run} is{said}.")


def status(options: argparse.Namespace) -> None:
    """Print counts and agreement."""
    found = progress(opened_for_reading(options.file))
    print(f"{found.rankings} of {found.wanted} rankings, of {found.items} items")
    for work in found.annotators:
        pace = "" if work.median_seconds is None else f", {work.median_seconds:.0f} s each (median)"
        print(f"  {work.annotator}: {work.rankings} rankings, {work.skips} skipped{pace}")
    alpha = "unknown" if found.agreement is None else f"{found.agreement:.3f}"
    print(f"agreement (Krippendorff's alpha, ordinal): {alpha}, on {found.compared_items} items")


def write(options: argparse.Namespace) -> None:
    """Write rankings for other tools."""
    rows = read_rankings(options.file)
    if not rows:
        raise UserError(f"{options.file} holds no ranking yet.")
    written = export(rows, options.to, options.form)
    print(f"{written} rows of {len(rows)} rankings in {options.to}")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    options = parser().parse_args(arguments)
    if options.what in (status, write) and not options.file.is_file():
        raise UserError(f"{options.file}: there is no such file.")
    options.what(options)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for command, named, does in (
        (serve, "serve", "the page"),
        (terminal, "terminal", "without a browser"),
        (status, "status", "counts and agreement"),
        (write, "export", "JSONL for other tools"),
    ):
        each = commands.add_parser(named, help=does, description=command.__doc__)
        each.set_defaults(what=command)
        each.add_argument("file", type=Path, help="ends in .sqlite")
        if command in (serve, terminal):
            add_items(each)
        if command is serve:
            each.add_argument("--host", default="127.0.0.1", help="address to listen on")
            each.add_argument("--port", type=int, default=8000, help="0 takes a free one")
            each.add_argument("--token", help="demanded of every request; made up for other hosts")
        elif command is terminal:
            each.add_argument("--annotator", required=True, help="your name")
        elif command is write:
            each.add_argument("--to", type=Path, required=True, help="the file to write")
            each.add_argument("--form", choices=list(FORMS), default="ranks")
    return made


def add_items(command: argparse.ArgumentParser) -> None:
    """Add what says which items there are, and who gets which."""
    command.add_argument("--samples", type=Path, help="prompts with responses to take in")
    command.add_argument("--seed", type=int, default=0, help="of the random order of new items")
    command.add_argument(
        "--reward-model", type=Path, metavar="RUN", help="begin where this one is least sure"
    )
    command.add_argument("--overlap", type=float, help=f"share ranked by several; {OVERLAP}")
    command.add_argument("--annotators-per-item", type=int, help=f"of that share; {ANNOTATORS}")
    command.add_argument("--max-bad-rows", type=float, default=0.05, help="share to leave out")


if __name__ == "__main__":
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels nobody asked for
    try:
        run_script(main, ROOT / "conf")
    except KeyboardInterrupt:
        sys.exit(130)
