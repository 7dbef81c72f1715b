"""A run's result comes before its report, and what is said of its making stays."""

import errno
import json
import os
import sys

import pytest

from hydralign import outcomes
from hydralign.artifacts import Manifest
from hydralign.record import close_record, read_record, write_record
from hydralign.run import run
from tests.report.conftest import composed


@pytest.fixture
def cfg(rows, tiny_llama):
    return composed(rows, tiny_llama, "stage.chain=[sft,reward]")


def test_outcomes_that_cannot_be_written_cost_no_result(cfg, tmp_path, monkeypatch, caplog):
    stood = []

    def full(path, *given, **more):
        stood.append((tmp_path / "reward/artifact/manifest.json").is_file())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(outcomes, "write_json", full)
    figure = run(cfg, tmp_path)
    assert stood == [True]
    assert Manifest.read(tmp_path / "reward/artifact").metrics["reward/pair_accuracy"] == figure
    assert "No space left on device" in caplog.text
    assert read_record(tmp_path / "reward")["unfinished"] is False

    # Asked for again, nothing trains, so nothing is said of this process.
    before = {stage: read_record(tmp_path / stage) for stage in ("sft", "reward")}
    monkeypatch.setattr(sys, "argv", ["elsewhere.py", "hardware.logits_mb=1"])
    cfg.hardware.logits_mb += 1
    assert run(cfg, tmp_path) == figure
    assert {stage: read_record(tmp_path / stage) for stage in before} == before


def test_only_the_record_of_the_same_run_is_kept(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "first"])
    write_record(tmp_path, cfg, {}, fingerprint="a", data="rows", unfinished=True)
    monkeypatch.setattr(sys, "argv", ["train.py", "second"])
    close_record(tmp_path, cfg, {}, "a")
    said = read_record(tmp_path)
    assert (said["command"][1], said["data"], said["unfinished"]) == ("first", "rows", False)
    close_record(tmp_path, cfg, {}, "b")
    said = read_record(tmp_path)
    assert (said["command"][1], said["fingerprint"], said["unfinished"]) == ("second", "b", False)
    assert "data" not in said
    (tmp_path / "run.json").write_text(json.dumps(said)[:9])
    close_record(tmp_path, cfg, {}, "b")
    assert read_record(tmp_path)["command"][1] == "second"
