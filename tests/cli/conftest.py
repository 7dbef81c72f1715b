"""A data file and a model small enough to train in a second, and ways to type a command."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import train
from hydralign import cli

ROOT = Path(__file__).parents[2]
WORDS = ("good", "bad", "fine", "dull", "warm", "cold", "long", "short")
SMALL = [
    "model=tiny",
    "model.architecture.hidden_size=16",
    "model.architecture.intermediate_size=24",
    "model.architecture.num_hidden_layers=1",
    "model.vocab_size=300",
    "data=jsonl",
    "data.template=plain",
    "data.splits={train: 0.6, validation: 0.2, test: 0.2}",
    "data.max_prompt_tokens=12",
    "data.max_response_tokens=6",
    "report=false",
]
SFT = ["stage=sft", *SMALL, "stage.steps=2", "stage.batch_size=4"]


def good_rows():
    """Rows that serve all three kinds of record."""
    return [
        {
            "prompt": f"a {first} and {second}",
            "response": f" {second} film",
            "responses": [f" {first} film", f" {second} end", " so"],
            "ranks": [1, 2, 2],
        }
        for first in WORDS
        for second in WORDS
    ]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", good_rows())


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """Keep what a command line changes in its process from other tests, and caches from home."""
    monkeypatch.setenv("HYDRALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(cli.FULL_ERROR, "0")
    monkeypatch.setattr(cli, "failures", [])
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Runs train.py with arguments in this process; returns what it exits with, None if it ends."""

    def run(*overrides, flags=()):
        given = [*map(str, overrides)]
        if not any(override.startswith("outputs=") for override in given):
            given.append(f"outputs={tmp_path / 'outputs'}")
        if not any(override.startswith("hydra.") for override in given):
            given.append(f"hydra.run.dir={tmp_path / 'run'}")
        # Run as a script, Hydra looks for conf/ beside it; here it must be told.
        flags = [*map(str, flags), "--config-path", str(ROOT / "conf")]
        monkeypatch.setattr(sys, "argv", ["train.py", *given, *flags])
        try:
            cli.launch(train.main, ROOT / "conf")
        except SystemExit as stop:
            return stop.code.strip() if isinstance(stop.code, str) else stop.code
        return None

    return run


def start(*arguments, **options):
    """Start train.py as a user would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "train.py", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def left_in(folder):
    """Artifacts, whole or not, and what else was being written."""
    found = [*folder.rglob("artifact*"), *folder.rglob("*.partial")]
    return sorted(str(path.relative_to(folder)) for path in found)
