"""Sweeps: a failed job is listed with its own error, the others run, and each returns a figure."""

import json
import math

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

import train
from hydralign import cli, config

from .conftest import ROOT, SFT, left_in


def test_a_failed_job_is_listed_and_does_not_stop_the_others(typed, tmp_path, rows, capsys):
    swept = ["seed=0,1", "stage.learning_rate=1e-3,abc", f"data.path={rows}"]
    message = typed(*SFT, *swept, f"hydra.sweep.dir={tmp_path}/sweep", flags=["-m"])
    title, *failed = message.split("\n\n")
    assert title == "Jobs of the sweep that failed: 2"
    for number, seed, text in ((1, 0, failed[0]), (3, 1, failed[1])):
        job, reason = text.split("\n")
        assert job.startswith(f"#{number}: stage=sft ")
        assert f" seed={seed} stage.learning_rate=abc" in job
        assert reason == "stage.learning_rate=abc: wanted a number, such as 0.5 or 1e-4."
    assert capsys.readouterr().err.count("This job failed, the sweep goes on. #") == 2
    # The path among the overrides and their length do no harm to the folders' names.
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [folder.name[:2] for folder in folders] == ["0-", "1-", "2-", "3-"]
    assert [left_in(folder) for folder in folders] == [["artifact"], [], ["artifact"], []]


def test_an_option_that_does_not_exist_stops_a_sweep_before_its_first_job(typed, tmp_path):
    sweep = f"hydra.sweep.dir={tmp_path}/sweep"
    message = typed("stage=sft", "model=tiny,tinny", sweep, flags=["-m"])
    assert message.startswith("model=tinny does not exist. Did you mean tiny?")
    assert not any(path.is_dir() for path in (tmp_path / "sweep").glob("*"))


def test_a_job_of_a_sweep_uses_one_device(typed, tmp_path, rows):
    sweep = [f"data.path={rows}", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep"]
    message = typed(*SFT, "hardware.devices=2", *sweep, flags=["-m"])
    assert "Jobs of the sweep that failed: 2" in message
    assert message.count("hardware.devices=2: the jobs of a sweep use one device each.") == 2


@pytest.fixture
def as_job(tmp_path):
    """Composes what Hydra hands to a job, and lets HydraConfig know of it."""

    def make(mode, *overrides):
        config.register()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            given = [f"hydra.mode={mode}", "hydra.job.num=0", *overrides]
            cfg = compose("train", given, return_hydra_config=True)
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(tmp_path)
            HydraConfig.instance().set_config(cfg.copy())
            del cfg["hydra"]
        return cfg

    yield make
    HydraConfig.instance().cfg = None


def test_a_job_returns_the_headline_figure_for_the_sweeper(as_job, tmp_path, rows):
    figure = train.main(as_job("MULTIRUN", *SFT, f"data.path={rows}"))
    assert figure == json.loads((tmp_path / "metrics.json").read_text())["sft/val_nll"]
    assert 0 < figure < 20


def test_a_failed_job_counts_as_nan(as_job):
    assert math.isnan(train.main(as_job("MULTIRUN", "stage=sft", "stage.steps=0")))
    assert len(cli.failures) == 1


def test_a_bug_in_a_job_of_a_sweep_shows_its_traceback(as_job, capsys):
    @cli.job
    def broken(cfg):
        raise KeyError("a bug")

    assert math.isnan(broken(as_job("MULTIRUN", "stage=sft")))
    assert "Traceback" in capsys.readouterr().err
    assert cli.failures[0].endswith("KeyError: 'a bug'")


def test_a_bug_in_a_run_is_raised_as_it_is(as_job):
    @cli.job
    def broken(cfg):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        broken(as_job("RUN", "stage=sft"))
