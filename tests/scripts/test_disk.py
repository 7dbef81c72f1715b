"""A folder that cannot be written: each script names its own way out, not that of train.py."""

import errno
import os
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DENIED = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x/y")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x/y")
COPY = "copy the run to a folder that can be written, and name the copy."


REPORT = ("report", "x", "report.write.write_report")
EXPORT = ("export", "x --to y", "exporter.export")


@pytest.mark.parametrize(
    ("script", "arguments", "works", "error", "advice"),
    [
        (*REPORT, DENIED, f"permission denied. C{COPY[1:]}"),
        (*REPORT, FULL, f"the disk is full. Free some space, or {COPY}"),
        (*EXPORT, DENIED, "permission denied. Choose another folder: --to DIR."),
    ],
)
def test_each_script_has_its_own_advice(
    script, arguments, works, error, advice, monkeypatch, tmp_path
):
    def fail(*_):
        raise error

    monkeypatch.setattr(f"hydralign.{works}", fail)
    monkeypatch.setattr(sys, "argv", [script, *arguments.split()])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert ended.value.code == f"Cannot write x/y: {advice}"
