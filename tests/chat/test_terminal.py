"""The program in a terminal of its own, and with its input from a file."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from hydralign.chat.session import Session
from hydralign.chat.terminal import answer_lines, talk
from hydralign.rollout.decoding import GREEDY, Decoding
from hydralign.talk import open_speakers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def speakers(finish, tmp_path):
    finish(tmp_path / "sft", "sft", seed=1)
    finish(tmp_path / "ppo", "ppo", seed=2)
    return open_speakers([tmp_path / "sft", tmp_path / "ppo"])


class Typist:
    """Types lines; an exception among them is raised instead."""

    def __init__(self, *lines):
        self.lines = iter(lines)

    def __call__(self, _):
        line = next(self.lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line


def test_lines_are_answered_each_by_itself(speakers):
    console = Console(width=80, highlight=False)
    session = Session(speakers[:1], GREEDY)
    lines = ["xy\n", "\n", "z\r\n", "/top-k 3\n", "xy\n", "/quit\n", "never\n"]
    with console.capture() as capture:
        answer_lines(session, iter(lines), console)
    alone = [Session(speakers[:1], GREEDY).ask(text) for text in ("xy", "z")]
    first, second = ("".join(piece for _, piece in pieces) for pieces in alone)
    settings = "temperature 0 (greedy), top-p 1, top-k 3, seed 2"
    assert capture.get() == f"{first}\n{second}\n{settings}\n{first}\n"


def test_two_stand_side_by_side(speakers):
    console = Console(width=60, highlight=False)
    with console.capture() as capture:
        answer_lines(Session(speakers, GREEDY), iter(["xy", "z"]), console)
    found = capture.get()
    assert found.count("─ sft ─") == found.count("─ ppo ─") == 2


def test_mistakes_and_interrupts_do_not_end_a_conversation(speakers):
    console = Console(width=80, highlight=False)
    session = Session(speakers[:1], Decoding())
    typist = Typist("/nothing", KeyboardInterrupt(), "x" * 99, "[bold]", "xy", "/quit", "never")
    with console.capture() as capture:
        talk(session, typist, console)
    found = capture.get()
    assert "There is no /nothing" in found
    assert "/quit or Ctrl-D ends" in found
    assert "fewer words" in found
    assert len(session.turns[0]) == 4
    assert list(typist.lines) == ["never"]


def test_an_interrupt_stops_the_answer_alone(speakers, monkeypatch):
    class Interrupted(Console):
        def print(self, *objects, **options):
            if options.get("end") == "":
                raise KeyboardInterrupt
            super().print(*objects, **options)

    session, console = Session(speakers[:1], Decoding()), Interrupted(width=80)
    with console.capture() as capture:
        talk(session, Typist("xy", "/help"), console)
    assert "(stopped)" in capture.get()
    assert "forget what was said" in capture.get()
    assert [turn.role for turn in session.turns[0]] == ["user", "assistant"]


@pytest.mark.slow
def test_the_program_in_a_terminal(finish, tmp_path):
    finish(tmp_path / "sft", "sft")
    master, slave = pty.openpty()
    command = [sys.executable, str(ROOT / "scripts/chat.py"), str(tmp_path), "--tokens", "20"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT)
    os.close(slave)

    def read_until(words):
        found, end = "", time.monotonic() + 60
        while words not in found:
            assert time.monotonic() < end, found
            found += os.read(master, 1000).decode()
        return found

    read_until("/help lists")
    read_until("> ")
    os.write(master, b"xyz\n")
    assert len(read_until("\n> ")) > 10
    process.send_signal(signal.SIGINT)
    read_until("Ctrl-D ends")
    os.write(master, b"/quit\n")
    assert process.wait(20) == 0
