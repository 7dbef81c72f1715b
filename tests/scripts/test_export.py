"""scripts/export.py: what it prints, and that mistakes get one message."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.export import main

ROOT = Path(__file__).parents[2]


def test_it_says_what_it_wrote_and_how_to_load_it(finish, tmp_path, capsys):
    finish(tmp_path / "run", "ppo", kind="lora")
    main([str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--merged"])
    said = capsys.readouterr().out
    assert f"Written to {tmp_path / 'out'}" in said
    assert "model.safetensors" in said
    assert "KL, nats per token" in said
    assert said.rstrip().endswith(f'AutoModelForCausalLM.from_pretrained("{tmp_path / "out"}")')


def test_two_forms_at_once_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--to", "out", "--adapter", "--merged"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mistake_is_one_message(tmp_path):
    command = [
        sys.executable,
        "scripts/export.py",
        str(tmp_path / "x"),
        "--to",
        str(tmp_path / "y"),
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.strip().splitlines()[-1].startswith(f"{tmp_path / 'x'}: there is no such")
    assert "Traceback" not in answer.stderr
