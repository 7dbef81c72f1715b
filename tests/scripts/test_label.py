"""The command line of the labelling script: what it says, and what it does with bad input."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hydralign.data import label_database
from hydralign.errors import UserError
from hydralign.labels.items import Submission
from hydralign.labels.store import LabelStore
from hydralign.web.server import listen
from scripts import label

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "l.sqlite"


@pytest.fixture
def samples(tmp_path):
    rows = [{"prompt": f"p{i}", "responses": ["a", "b"]} for i in range(10)]
    (tmp_path / "s.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path / "s.jsonl"


def wanted(file):
    store = LabelStore(file)
    (total,) = store._database.execute("SELECT sum(wanted) FROM items").fetchone()
    store.close()
    return total


def run(*arguments):
    label.main([str(argument) for argument in arguments])


def terminal(monkeypatch, file, *more, typed="q"):
    monkeypatch.setattr("builtins.input", lambda _: typed)
    run("terminal", file, "--annotator", "Ann", *more)


def test_samples_are_taken_in_once_and_shared_out(monkeypatch, capsys, file, samples):
    terminal(monkeypatch, file, "--samples", samples)
    assert f"{samples}: 10 new items, 0 there already." in capsys.readouterr().out
    assert wanted(file) == 12  # 0.2 of 10 items by two
    terminal(monkeypatch, file, "--overlap", "0.5", "--annotators-per-item", "3")
    assert wanted(file) == 20
    terminal(monkeypatch, file)
    assert wanted(file) == 20
    terminal(monkeypatch, file, "--samples", samples)  # nothing new, and nothing said
    assert wanted(file) == 20
    terminal(monkeypatch, file, "--samples", samples, "--overlap", "0")
    assert "0 new items, 10 there already." in capsys.readouterr().out
    assert wanted(file) == 10


def test_status_and_export(monkeypatch, capsys, file, samples, tmp_path):
    terminal(monkeypatch, file, "--samples", samples, "--overlap", "1", typed="1=2")
    store = LabelStore(file)
    for ranks in ([0, 1], None):
        store.save(Submission(store.next("Bea").item, "Bea", ranks, seconds=4.0))
    store.close()
    capsys.readouterr()
    run("status", file)
    shown = capsys.readouterr().out
    assert "11 of 20 rankings, of 10 items" in shown
    assert "  Bea: 1 rankings, 1 skipped, 4 s each (median)" in shown
    assert "on 1 items" in shown
    run("export", file, "--to", tmp_path / "x.jsonl", "--form", "pairs")
    assert "1 rows of 11 rankings" in capsys.readouterr().out  # the others are ties
    (row,) = (tmp_path / "x.jsonl").read_text().splitlines()
    assert json.loads(row)["annotator"] == "Bea"


def test_status_only_reads(monkeypatch, capsys, file, samples):
    terminal(monkeypatch, file, "--samples", samples, typed="1=2")
    before = file.read_bytes()
    connect = label_database.connect
    # Permissions would not stop the root of a container.
    monkeypatch.setattr(label_database, "connect", lambda file, mode: connect(file, "ro"))
    monkeypatch.setattr("hydralign.labels.store.connect", lambda file, mode: connect(file, "ro"))
    run("status", file)
    assert "10 of 12 rankings, of 10 items" in capsys.readouterr().out
    assert file.read_bytes() == before


def test_export_never_replaces_the_database(monkeypatch, file, samples):
    terminal(monkeypatch, file, "--samples", samples, typed="1=2")
    with pytest.raises(UserError, match="is a database"):
        run("export", file, "--to", file)
    run("status", file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "FILE"], "is not there. To begin one: --samples FILE.jsonl"),
        (["status", "FILE"], "there is no such file"),
        (["export", "FILE", "--to", "x.jsonl"], "there is no such file"),
        (["serve", "FILE", "--samples", "none.jsonl"], "--samples none.jsonl: there is no such"),
        (["serve", "FILE", "--samples", "some/none"], "--samples some/none: there is no such file"),
        (
            ["serve", "FILE", "--samples", "SAMPLES", "--annotators-per-item", "0"],
            "--annotators-per-item 0: wanted at least 1",
        ),
        (["serve", "FILE", "--samples", "SAMPLES", "--token", "x"], "--token: wanted"),
        (["serve", "FILE", "--samples", "SAMPLES", "--overlap", "2"], "--overlap 2"),
        (["terminal", "FILE", "--samples", "SAMPLES", "--annotator", " "], "name is empty"),
    ],
)
def test_bad_input(file, samples, arguments, said):
    names = {"FILE": file, "SAMPLES": samples}
    with pytest.raises(UserError, match=said):
        run(*(names.get(argument, argument) for argument in arguments))


def test_a_reward_model_chooses_the_order(monkeypatch, capsys, file, samples):
    def scores(prompt, responses):
        return [0.0, abs(int(prompt[1:]) - 4)]  # p4 is even

    opened = SimpleNamespace(scores=scores)
    monkeypatch.setattr("hydralign.finished.open_reward_model", lambda folder: opened)
    terminal(monkeypatch, file, "--samples", samples, "--reward-model", "runs/reward")
    shown = capsys.readouterr().out
    assert "10 items by how unsure the reward model of runs/reward is." in shown
    assert shown.index("p4") < shown.index("saved in")


def test_no_reward_model_there(file, samples, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        run("serve", file, "--samples", samples, "--reward-model", tmp_path / "none")


def test_nothing_ranked_yet(monkeypatch, file, samples, tmp_path):
    terminal(monkeypatch, file, "--samples", samples)
    with pytest.raises(UserError, match="holds no ranking yet"):
        run("export", file, "--to", tmp_path / "x.jsonl")


def test_a_port_in_use_is_one_line_and_no_traceback(file, samples):
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "scripts/label.py", "serve", file, "--samples", samples]
        ended = subprocess.run([*command, "--port", port], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"Cannot listen on 127.0.0.1, port {port}: another program listens there. Choose another "
        "one: --port NUMBER.\n"
    )
