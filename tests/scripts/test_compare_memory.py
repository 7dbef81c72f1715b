"""The pure parts of the comparison: means, ratios and table by numbers worked out by hand."""

import json
import subprocess
import sys

import pytest

from hydralign.data.splits import HashSplitter
from scripts import compare_memory
from scripts.compare_memory import figures

RUNS = {
    "hydralign-bf16": [figures(1.8, 0.4, 60.0, 512), figures(2.0, 0.6, 62.0, 512)],
    "trl-bf16": [figures(4.9, 0.5, 80.0, 512), figures(5.1, 0.5, 90.0, 512)],
    "trl-fp32": [figures(8.0, 0.5, 100.0, 512)],
}
# Means 1.9, 5.0 and 8.0; of the better TRL 1.9 / 5 = 0.38, 1 and 8 / 5 = 1.6.
TABLE = """\
| who | how | peak GB | of which libraries | seconds a step | of the better TRL |
| --- | --- | --- | --- | --- | --- |
| hydralign | bf16 base, fp32 adapters | 1.90 | 0.50 | 61 | 38% |
| TRL | bf16 networks, fp32 adapters | 5.00 | 0.50 | 85 | 100% |
| TRL | fp32 | 8.00 | 0.50 | 100 | 160% |"""


def test_runs_are_averaged_and_held_against_the_better_trl():
    rows = compare_memory.summarise(RUNS)
    assert [row["ratio"] for row in rows] == pytest.approx([0.38, 1.0, 1.6])
    assert rows[0]["seconds_per_step"] == 61.0
    assert compare_memory.format_table(rows) == TABLE


def test_without_trl_there_is_no_ratio():
    rows = compare_memory.summarise({"hydralign-bf16": RUNS["hydralign-bf16"]})
    assert rows[0]["ratio"] is None
    assert compare_memory.format_table(rows).endswith("| 61 | - |")


def test_both_sides_get_the_prompts_of_the_training_split(tmp_path):
    compare_memory.make_data(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    split_of = HashSplitter(compare_memory.SPLITS)
    training = [row["prompt"] for row in rows if split_of(row["prompt"]) == "train"]
    assert json.loads((tmp_path / "prompts.json").read_text()) == training
    assert len(set(training)) == 16
    assert len(rows) == 20


def test_a_missing_model_is_named_with_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="holds no model.*make_smollm2"):
        compare_memory.main(["--model", str(tmp_path)])


def test_the_process_that_starts_the_others_has_not_loaded_torch():
    code = "import sys, scripts.compare_memory; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
