import pytest

from hydralign.whole_file import whole_file


def test_what_was_there_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with whole_file(path) as aside:
        aside.write_text("after")
        assert path.read_text() == "before"
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "after")]


def test_half_a_file_never_takes_its_place(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(OSError, match="full"):
        write_half(path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "before")]


def write_half(path):
    with whole_file(path) as aside:
        aside.write_text("aft")
        raise OSError("full")
