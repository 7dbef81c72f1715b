import hashlib

import pytest

from hydralign.data import pypi
from hydralign.errors import UserError

CONTENT = b"a source archive"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Pip:
    """Stands in for pip: writes what it is told to, and counts."""

    def __init__(self, content=CONTENT, code=0, output=""):
        self.content, self.code, self.output, self.calls = content, code, output, 0

    def __call__(self, command, what):
        self.calls += 1
        assert command[1:4] == ["-m", "pip", "download"]
        assert "thing==1.0" in command
        if self.content is not None:
            folder = command[command.index("-d") + 1]
            with open(f"{folder}/thing-1.0.tar.gz", "wb") as file:
                file.write(self.content)
        return self.code, self.output


def fetch(monkeypatch, pip, sha256=SHA256):
    monkeypatch.setattr(pypi, "_run_with_clock", pip)
    return pypi.fetch_archive("thing", "1.0", sha256)


def test_an_archive_is_fetched_once(cache, monkeypatch):
    pip = Pip()
    assert fetch(monkeypatch, pip) == fetch(monkeypatch, pip) == cache / "thing-1.0.tar.gz"
    assert (cache / "thing-1.0.tar.gz").read_bytes() == CONTENT
    assert pip.calls == 1
    assert [file.name for file in cache.iterdir()] == ["thing-1.0.tar.gz"]


def test_a_corrupt_file_in_the_cache_is_fetched_again(cache, monkeypatch):
    cache.mkdir()
    (cache / "thing-1.0.tar.gz").write_bytes(b"half of it")
    assert fetch(monkeypatch, Pip()).read_bytes() == CONTENT


def test_a_corrupt_download_never_reaches_the_cache(cache, monkeypatch):
    pip = Pip(content=b"abc")
    with pytest.raises(UserError) as caught:
        fetch(monkeypatch, pip, sha256="00ff")
    message = str(caught.value)
    assert "SHA-256 expected: 00ff" in message
    # SHA-256 of "abc", from FIPS 180-2, appendix B.1.
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in message
    assert f"by hand: {cache / 'thing-1.0.tar.gz'}" in message
    assert list(cache.iterdir()) == []
    assert pip.calls == 1


def test_without_a_network_the_way_around_is_named(cache, monkeypatch):
    with pytest.raises(UserError) as caught:
        fetch(monkeypatch, Pip(content=None, code=1, output="first\nERROR: no route to host\n"))
    message = str(caught.value)
    assert "pip could not fetch thing==1.0" in message
    assert "ERROR: no route to host" in message
    assert f"by hand: {cache / 'thing-1.0.tar.gz'}" in message
    assert list(cache.iterdir()) == []


def test_a_command_is_run_to_its_end_with_all_it_says():
    code, output = pypi._run_with_clock(["sh", "-c", "echo out; echo err >&2; exit 3"], "trying")
    assert (code, sorted(output.split())) == (3, ["err", "out"])


def test_an_interrupted_fetch_leaves_nothing(cache, monkeypatch):
    def interrupted(command, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(monkeypatch, interrupted)
    assert list(cache.iterdir()) == []


def test_the_cache_stands_in_the_home_folder_unless_told(monkeypatch):
    monkeypatch.setenv("HYDRALIGN_CACHE", "")
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(pypi.cache_folder()) == "/somewhere/.cache/hydralign"
