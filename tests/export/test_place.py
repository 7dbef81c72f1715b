"""The folder of an export: whole or not there at all, and nobody else's touched."""

import os

import pytest

from hydralign.errors import UserError
from hydralign.export.place import writing, written_aside


def test_it_is_not_there_before_it_is_whole(tmp_path):
    target = tmp_path / "new" / "out"
    with written_aside(target) as aside:
        (aside / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_empty_folder_that_the_user_stands_in_stays_the_same(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    monkeypatch.chdir(target)
    with written_aside(target) as aside:
        (aside / "base").mkdir()
        (aside / "base/file").write_text("x")
    assert os.listdir() == ["base"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_others_have_beside_it_is_left_alone(tmp_path):
    theirs = tmp_path / "out.partial"
    theirs.mkdir()
    (theirs / "file").write_text("x")
    with written_aside(tmp_path / "out"):
        pass
    assert (theirs / "file").read_text() == "x"
    mine = tmp_path / f"other.{os.getpid()}.partial"
    mine.mkdir()
    (mine / "file").write_text("x")
    with (
        pytest.raises(UserError, match="partial is there already"),
        written_aside(tmp_path / "other"),
    ):
        pass
    assert (mine / "file").read_text() == "x"


def test_of_two_exports_to_one_folder_the_first_stays(tmp_path):
    target = tmp_path / "out"

    def export_twice():
        with written_aside(target):
            target.mkdir()
            (target / "first").write_text("x")

    with pytest.raises(UserError, match="is there already"):
        export_twice()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "first"]


def test_only_writing_is_taken_for_writing(tmp_path):
    denied = PermissionError(13, "Permission denied", "data.jsonl")
    with pytest.raises(PermissionError, match="data.jsonl"), written_aside(tmp_path / "out"):
        raise denied
    message = r"Cannot write .*out: permission denied. Nothing was left"
    with pytest.raises(UserError, match=message), writing(tmp_path / "out"):
        raise denied
    assert not any(tmp_path.iterdir())
