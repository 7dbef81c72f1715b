"""What only a process of its own can show: exit status, speed, signals, pipes, tracebacks."""

import resource
import signal
import time
from itertools import takewhile

import pytest

from hydralign import cli

from .conftest import ROOT, SFT, left_in, start


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("mistyped", "message"),
    [
        (
            "stage.ppo.kl_coeff=0.1",
            "stage.ppo.kl_coeff does not exist. Did you mean stage.ppo.kl_c",
        ),
        ("stage.sft.learning_rate=abc", "stage.sft.learning_rate=abc: wanted a number, such as"),
        ("data=moovie_reviews", "data=moovie_reviews does not exist. Did you mean movie_reviews?"),
    ],
)
def test_a_mistyped_command_fails_in_no_time_with_one_message(tmp_path, mistyped, message):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status, out, err = run("stage=rlhf", mistyped, f"hydra.run.dir={tmp_path}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (status, out) == (1, "")
    assert err.strip().startswith(message)
    assert len(err.strip().splitlines()) == 1
    # Of the processor, so that other work on the machine does not count: 0.6 seconds are usual.
    assert after.ru_utime - before.ru_utime < 5


def test_full_errors_show_the_traceback(tmp_path):
    given = ["stage=sft", "stage.steps=abc", f"hydra.run.dir={tmp_path}"]
    status, _, err = run(*given, env={cli.FULL_ERROR: "1"})
    assert status == 1
    assert "Traceback (most recent call last)" in err
    assert "UserError: stage.steps=abc: wanted a whole number" in err


def test_help_may_be_read_by_a_pipe_that_closes(tmp_path):
    process = start("--help")
    assert process.stdout.readline().startswith("hydralign: RLHF")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_to_go_on_and_goes_on(tmp_path, rows, number):
    folder = tmp_path / "run"
    given = [*SFT, f"data.path={rows}", f"outputs={tmp_path}", "stage.steps=100000"]
    caches = {"HYDRALIGN_CACHE": str(tmp_path / "cache")}

    def told(before):
        """Whether the first figures have been written, a few steps after the start."""
        return any(f.stat().st_size > 500 for f in set(folder.glob("events.*")) - before)

    def stopped(*more):
        before = set(folder.glob("events.*"))
        process = start(*given, *more, env=caches)
        try:
            said = list(takewhile(lambda x: "Batch plan:" not in x, process.stdout))
            while process.poll() is None and not told(before):
                time.sleep(0.1)
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == cli.INTERRUPTED
        assert err.strip() == (
            "Stopping after this step. Once more: stop at once.\n\n"
            "Stopped. No half-written artifact was left.\n"
            f"The same command with resume={folder} takes finished stages as they are and goes on "
            "with the rest."
        )
        assert left_in(tmp_path) == []
        return "".join(said)

    assert "Going on" not in stopped(f"hydra.run.dir={folder}")
    for resume in (folder, "auto"):
        assert f"Going on from {folder}/checkpoint.ckpt" in stopped(f"resume={resume}")


def test_ctrl_c_during_an_import_waits_for_its_end_where_nothing_swallows_it():
    imported = []

    def interrupted_import():
        with cli.interrupts_held():
            signal.raise_signal(signal.SIGINT)
            imported.append("torch")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted_import()
    assert imported == ["torch"]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_run_goes_where_it_is_told_and_says_nothing_on_the_error_channel_but_its_figures(
    tmp_path, rows
):
    folder = tmp_path / "told"
    given = [*SFT, f"data.path={rows}", f"hydra.run.dir={folder}"]
    status, out, err = run(*given, env={"HYDRALIGN_CACHE": str(tmp_path / "cache")})
    assert status == 0, err
    assert str(folder) in out
    assert {"artifact", "metrics.json", "train.log", ".hydra"} <= {p.name for p in folder.iterdir()}
    assert not (ROOT / "told").exists()
