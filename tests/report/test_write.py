"""From a run folder to its report, for every stage, and for folders that lack something."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from hydralign.errors import UserError
from hydralign.outcomes import write_outcomes
from hydralign.report import apart
from hydralign.report.apart import draw_apart
from hydralign.report.read import Answer, read_run
from hydralign.report.write import write_report
from hydralign.run import run
from hydralign.summary import markdown_cell
from scripts import report as script
from tests.report.conftest import ROOT, STAGES, composed

PAIRS = {"calibration", "margins", "length"}
POLICY = {"score_against_root_kl", "held_out"}
PICTURES = {
    "sft": {"curves_policy"},
    "reward": {"curves_reward", *PAIRS},
    "dpo": {"curves_dpo", "curves_policy", *PAIRS},
    "ppo": {"curves_reward", "curves_value", "curves_kl", "time", *POLICY},
    "grpo": {"curves_reward", "curves_kl", "time", *POLICY},
    "rloo": {"curves_reward", "curves_kl", "time", *POLICY},
}


def pictures(folder):
    """What TensorBoard shows as pictures, with how often."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag.removeprefix("report/"): len(events.Images(tag)) for tag in events.Tags()["images"]}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_report(drawn, stage):
    content = (drawn / stage / "report.html").read_text()
    shown = pictures(drawn / stage)
    assert set(shown) >= PICTURES[stage] | {"memory", "time"}
    assert content.count("<img ") == len(shown)
    assert "Batch plan: " in content
    assert "<h2>Missing</h2>" not in content
    assert ("<h2>Alarms</h2>" in content) == (stage in ("ppo", "grpo", "rloo"))
    assert "How it was made" in content
    assert "transformers" in content
    assert len(content) < 3_000_000
    assert not re.search(r"(?:src|href)=\"(?!data:)", content)


@pytest.mark.slow
def test_drawn_anew_pictures_are_there_once_and_curves_are_as_before(chain):
    before = read_run(chain / "sft").curves
    write_report(chain / "sft")
    assert set(pictures(chain / "sft").values()) == {1}
    assert read_run(chain / "sft").curves == before


def test_a_chain_links_to_the_reports_of_its_stages(drawn):
    content = (drawn / "report.html").read_text()
    links = re.findall(r'href="([^"]+)"', content)
    assert links == [f"{stage}/report.html" for stage in STAGES]
    assert all((drawn / link).is_file() for link in links)
    assert "best of &lt;4&gt;" in content
    assert "0.64" in content
    assert set(pictures(drawn)) == {"score_against_root_kl"}


def test_watched_answers_are_read_as_they_were_written(bare):
    answers = [
        Answer("a | b", "one\rtwo\x85three\u2028four", "+1.00"),
        Answer("c\nd\u2029", "\x0b\x0c\x1c", ""),
        Answer("", "", "-0.25"),
    ]
    rows = [f"| {' | '.join(map(markdown_cell, answer))} |" for answer in answers]
    with SummaryWriter(str(bare)) as writer:
        writer.add_text("rollout/samples", "\n".join(["| a | b | c |", "| - | - | - |", *rows]), 4)
    assert read_run(bare).answers == {4: answers}


@pytest.mark.slow
def test_a_chain_that_stopped_says_what_is_not_there(chain):
    (chain / "grpo/run.json").unlink()
    content = write_report(chain, stages_anew=False).read_text()
    assert "grpo/ holds no run" in content
    assert 'href="sft/report.html"' in content


@pytest.mark.slow
def test_a_folder_of_an_earlier_version_says_what_is_missing(chain):
    folder = chain / "grpo"
    (folder / "evaluation.json").unlink()
    record = json.loads((folder / "run.json").read_text())
    for later in ("batch_plan", "seconds", "alarms"):
        del record[later]
    (folder / "run.json").write_text(json.dumps(record))
    content = write_report(folder).read_text()
    assert "evaluation.json is missing" in content
    assert "rollout 0" in content  # the watched prompts stand in
    assert {"score_against_root_kl", "time"} <= set(pictures(folder))


@pytest.mark.slow
def test_what_is_damaged_is_told_and_the_rest_is_drawn(chain):
    folder = chain / "reward"
    (folder / "plan.json").write_text("{")
    (folder / "metrics.json").write_text("[1]")
    (folder / "evaluation.json").write_text('{"preferred": 3}')
    for events in folder.glob("events.*"):
        events.write_bytes(b"\0" * 50)
    content = write_report(folder).read_text()
    for told in ("plan.json cannot be read", "metrics.json is damaged", "evaluation.json cannot"):
        assert told in content
    assert "there are no curves" in content


def test_a_run_that_left_nothing_but_its_record_has_a_report(bare):
    content = write_report(bare).read_text()
    assert "<h1>ppo</h1>" in content
    assert "plan.json is missing" in content
    assert "metrics.json is missing" in content


def test_an_interval_may_end_at_zero(bare):
    found = {"ppo/win_rate": 0.01, "ppo/win_rate_low": 0.0, "ppo/win_rate_high": 0.02}
    (bare / "metrics.json").write_text(json.dumps(found))
    assert "95 %: 0.000 to 0.020" in write_report(bare).read_text()


def test_pairs_with_ratings_are_shown_by_rating_gap(bare, pairs):
    write_outcomes(bare, pairs)
    content = write_report(bare).read_text()
    assert {"rating_gap", *PAIRS} == set(pictures(bare))
    assert "the longer response is preferred: by people" in content


@pytest.mark.parametrize(
    "record",
    [None, "{", "[]", "{}", '{"settings": {"stage": 3}}', '{"settings": {"stage": {}}}'],
)
def test_a_folder_without_a_run_is_told(tmp_path, record):
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    with pytest.raises(UserError, match=r"holds no run: run\.json.* Name the folder of a run"):
        write_report(tmp_path)


def test_the_folder_of_a_run_at_work_is_left_alone(bare):
    record = json.loads((bare / "run.json").read_text())
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        at_work = record | {"process": other.pid, "unfinished": True}
        (bare / "run.json").write_text(json.dumps(at_work))
        os.utime(bare / "run.json", (time.time() + 1,) * 2)  # its start is known to 0.01 s only
        with pytest.raises(UserError, match="bare holds a run that is still at work"):
            write_report(bare)
    finally:
        other.kill()
        other.wait()
    assert [path.name for path in bare.iterdir()] == ["run.json"]
    assert "not finished" in write_report(bare).read_text()  # stopped: nobody writes there


def test_the_script_says_so_without_a_traceback(tmp_path):
    command = [sys.executable, "scripts/report.py", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path} holds no run: run.json is missing.")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_script_draws_the_stages_of_a_chain_anew(chain, capsys):
    (chain / "sft/report.html").write_text("old")
    script.main([str(chain), str(chain / "sft")])
    assert capsys.readouterr().out.split() == [
        f"{chain}/report.html",
        f"{chain}/sft/report.html",
    ]
    assert (chain / "sft/report.html").read_text() != "old"


@pytest.mark.slow
def test_a_run_draws_its_report_at_the_end(finished, rows, tiny_llama, chain, caplog):
    caplog.set_level("INFO")
    (chain / "sft/report.html").unlink()
    (chain / "sft/artifact").mkdir()
    for file in (finished / "sft/artifact").iterdir():
        (chain / "sft/artifact" / file.name).write_bytes(file.read_bytes())
    cfg = composed(rows, tiny_llama, "report=true", "stage.chain=[sft]")
    run(cfg, chain)
    assert "Already done" in caplog.text  # by a version that drew no report
    assert f"Report: {chain / 'sft/report.html'}" in caplog.text
    assert f"Report: {chain / 'report.html'}" in caplog.text
    record = json.loads((chain / "sft/run.json").read_text())
    assert record["unfinished"] is False
    assert set(record["seconds"]) == {"build", "train", "test"}
    assert record["batch_plan"].startswith("20 optimizer steps of 4 demonstrations")


def test_a_report_that_cannot_be_drawn_is_a_warning(bare, caplog, monkeypatch):
    (bare / "report.html").mkdir()
    draw_apart(bare)
    assert "The report could not be drawn: " in caplog.text
    assert list(bare.glob("*.partial")) == []
    assert f"python scripts/report.py {bare}" in caplog.text
    caplog.clear()
    monkeypatch.setattr(apart, "SECONDS", 0.01)
    draw_apart(bare)
    assert "timed out" in caplog.text
