"""Disks that are full, folders that cannot be written, files in the way."""

import errno
import os
import resource

import pytest
from safetensors import SafetensorError

from hydralign import stage_run
from hydralign.explain import explain

from .conftest import SFT, left_in, start


@pytest.mark.parametrize("writes", ["save_role", "write_json"])
def test_a_disk_that_fills_up_at_the_end_of_a_run(typed, monkeypatch, tmp_path, rows, writes):
    write = getattr(stage_run, writes)

    def fill_up(*arguments):
        write(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(stage_run, writes, fill_up)
        message = typed(*SFT, f"data.path={rows}")
    folder = tmp_path / "run"
    assert message == (
        f"Cannot write {folder}: the disk is full. "
        "Free some space, or choose another folder: hydra.run.dir=DIR."
    )
    assert left_in(folder) == []
    # With room again the same command does the stage anew: what is there is not taken for whole.
    assert typed(*SFT, f"data.path={rows}") is None
    assert left_in(folder) == ["artifact"]


def test_a_limit_on_the_size_of_files_stops_the_weights_half_way(tmp_path, rows):
    # For want of a small disk, the kernel's own limit: tokenizer and logs fit in, weights do not.
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    wide = "model.architecture.hidden_size=128"
    given = [*SFT, f"data.path={rows}", wide, f"hydra.run.dir={tmp_path}/run"]
    process = start(*given, preexec_fn=limit, env={"HYDRALIGN_CACHE": str(tmp_path / "cache")})
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert said.strip() == (
        f"Cannot write {tmp_path}/run: the file would be larger than is allowed here. "
        "Choose another folder: hydra.run.dir=DIR."
    )
    assert left_in(tmp_path / "run") == []


def test_a_file_in_the_way_of_the_run_folder(typed, tmp_path):
    (tmp_path / "file").write_text("")
    message = typed("stage=sft", f"hydra.run.dir={tmp_path}/file/run")
    assert message == (
        f"Cannot write {tmp_path}/file/run: a file stands where a folder is needed. "
        "Choose another folder: hydra.run.dir=DIR."
    )


def test_a_cache_that_cannot_be_written_is_not_the_run_folders_fault(typed, tmp_path):
    (tmp_path / "cache").write_text("")
    message = typed("stage=sft", "model=tiny", "data=movie_reviews")
    assert message.startswith(f"Cannot write {tmp_path}/cache: a file stands where a folder ")
    assert message.endswith("another folder: the environment variable HYDRALIGN_CACHE=DIR.")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.EROFS,
            "x/y: the file system is read-only. Choose another folder: hydra.run.dir=DIR.",
        ),
        (errno.EACCES, "x/y: permission denied. Choose another folder: hydra.run.dir=DIR."),
        (errno.EDQUOT, "x/y: the disk quota is used up. Free some space, or choose another folder"),
    ],
)
def test_a_folder_that_cannot_be_written(number, words):
    assert explain(OSError(number, os.strerror(number), "x/y")).startswith(f"Cannot write {words}")


def test_a_full_disk_as_libraries_in_rust_tell_of_it():
    error = SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
    assert explain(error).startswith("Cannot write: the disk is full.")


def test_a_full_disk_behind_another_error():
    error = ValueError("Unable to configure handler 'file'")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert explain(error).startswith("Cannot write: the disk is full.")


@pytest.mark.parametrize("error", [OSError("?"), FileNotFoundError(2, "", "x"), KeyError("x")])
def test_a_bug_is_not_explained_away(error):
    assert explain(error) is None
