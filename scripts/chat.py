"""Talk to the policy of a finished run, or to two of them side by side.

python scripts/chat.py RUN [RUN] [--temperature 0.7] [--top-p 0.9] [--top-k 50]
python scripts/chat.py RUN [RUN] --web                    the same on a page
python scripts/chat.py RUN < prompts.txt                  a prompt a line, each by itself

A RUN is the folder of a run, of a chain (its last policy), or an artifact. A model with a chat
template reads the dialogue; one trained on plain text goes on with the text so far. /help lists
the commands; Ctrl-C stops an answer.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydralign.errors import UserError
from hydralign.explain import run_script


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of policies")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy; 1")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus; 1 leaves all")
    parser.add_argument("--top-k", type=int, help="of the likeliest tokens; all")
    parser.add_argument("--seed", type=int, default=0, help="of the first answer; 0")
    parser.add_argument("--tokens", type=int, help="the most of an answer; as in training")
    parser.add_argument("--web", action="store_true", help="a page instead of the terminal")
    parser.add_argument("--host", default="127.0.0.1", help="of the page: address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="of the page; 0 takes a free one")
    parser.add_argument("--token", help="of the page: demanded; made up for other hosts")
    options = parser.parse_args(arguments)
    if len(options.runs) > 2:
        parser.error(f"{len(options.runs)} runs are named, wanted one or two")

    from hydralign.rollout.decoding import Decoding  # only now: these import torch
    from hydralign.run import quieten_libraries
    from hydralign.talk import open_speakers

    quieten_libraries()
    decoding = Decoding(options.temperature, options.top_p, options.top_k)
    speakers = open_speakers(options.runs, options.tokens)
    if options.web:
        on_a_page(speakers, decoding, options)
    else:
        in_the_terminal(speakers, decoding, options.seed)


def on_a_page(speakers: Sequence[Any], decoding: Any, options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from hydralign.chat.api import chat_app
        from hydralign.web.server import serve
    except ImportError as error:
        raise UserError(f"The page needs {error.name}: pip install -e '.[label]'") from error
    serve(
        chat_app(speakers, decoding, options.seed),
        host=options.host,
        port=options.port,
        token=options.token,
        say=lambda address: print(f"Open {address}    (Ctrl-C ends)", flush=True),
    )


def in_the_terminal(speakers: Sequence[Any], decoding: Any, seed: int) -> None:
    """Talk, or answer what comes through a pipe."""
    from rich.console import Console

    from hydralign.chat.session import Session
    from hydralign.chat.terminal import answer_lines, talk

    session, console = Session(speakers, decoding, seed), Console(highlight=False)
    if not sys.stdin.isatty():
        answer_lines(session, sys.stdin, console)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys recall what was typed
    talk(session, input, console)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels nobody asked for
    try:
        run_script(main)
    except KeyboardInterrupt:
        sys.exit(130)
