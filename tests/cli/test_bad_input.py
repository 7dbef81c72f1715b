"""What bad input gets: one message that says what, where and what to do, and no artifact.

| bad input | through train.py, here unless a file is named | function by function |
| --- | --- | --- |
| a missing column | test_rows_that_cannot_be_used | data/test_sources.py, data/test_mappings.py |
| an empty response | test_rows_that_cannot_be_used | data/test_records.py, data/test_mappings.py |
| a row that is not JSON | test_rows_that_cannot_be_used | data/test_sources.py |
| an empty file | test_rows_that_cannot_be_used | data/test_sources.py |
| ranks of another length | test_a_bad_ranking_stops_a_chain_... | data/test_records.py |
| only ties | test_a_bad_ranking_stops_a_chain_... | data/test_records.py |
| a prompt over the limit | test_rows_that_cannot_be_used | data/test_encode.py |
| too few rows | test_too_few_rows | data/test_loaders.py, data/test_datasets.py |
| no such file, no file at all | test_a_file_that_is_not_there | data/test_sources.py |
| records that the data lacks | test_the_data_does_not_offer_... | data/test_datasets.py |
| sizes that do not divide | test_mistyped.py: out_of_bounds, no_sense | data/test_loaders.py |
| no earlier run | test_an_input_that_is_missing_... | test_inputs.py, test_artifacts.py |
| no base made yet | test_a_base_that_is_still_to_be_made | |
| another base | test_a_reward_model_on_another_base_... | test_inputs.py, test_artifacts.py |
| no network, corrupt download | test_a_first_fetch_that_fails | data/test_pypi.py |
| a full disk | test_disk.py | |
| a read-only folder, a file in the way | test_disk.py | |
| Ctrl-C | test_process.py | data/test_pypi.py |
"""

import json

import pytest

from hydralign.artifacts import Lineage, new_manifest, write_artifact
from hydralign.data import pypi

from .conftest import SFT, SMALL, good_rows, left_in, write_rows


def changed(**values):
    """Rows of which every third has other values."""
    return [row | values if i % 3 == 0 else row for i, row in enumerate(good_rows())]


def without(column):
    return [{k: v for k, v in row.items() if k != column} for row in good_rows()]


BAD = {
    "missing column": (
        without("response"),
        "64 of 64 rows cannot be used.\n  row 1: no column 'response'; found prompt, responses,",
    ),
    "empty response": (changed(response=" "), "22 of 64 rows cannot be used.\n  row 1: empty resp"),
    "long prompt": (changed(prompt="a " * 99), "the prompt has more than max_prompt_tokens=12 tok"),
    "not JSON": (None, "line 2 is not JSON: "),
    "empty file": ([], "has no rows."),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_cannot_be_used(typed, tmp_path, name):
    values, words = BAD[name]
    path = tmp_path / "mine.jsonl"
    if values is None:
        path.write_text(json.dumps(good_rows()[0]) + "\n{oops\n")
    else:
        write_rows(path, values)
    message = typed(*SFT, f"data.path={path}")
    assert message.startswith(str(path))
    assert words in message
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([1, 2], "row 1: 3 responses but 2 ranks"), ([1, 1, 1], "row 1: only ties")],
)
def test_a_bad_ranking_stops_a_chain_before_its_first_stage(typed, tmp_path, ranks, words):
    path = write_rows(tmp_path / "mine.jsonl", changed(ranks=ranks))
    message = typed("stage=rlhf", *SMALL, f"data.path={path}")
    assert words in message
    assert not (tmp_path / "run" / "sft").exists()


def test_too_few_rows(typed, tmp_path):
    path = write_rows(tmp_path / "mine.jsonl", good_rows()[:12])
    message = typed(*SFT, f"data.path={path}", "stage.batch_size=50")
    assert "training examples do not fill one step of batch_size=50." in message
    path = write_rows(tmp_path / "mine.jsonl", good_rows()[:3])
    message = typed(
        *SFT,
        f"data.path={path}",
        "stage.batch_size=1",
        "data.splits.train=0.98",
        "data.splits.validation=0.01",
        "data.splits.test=0.01",
    )
    assert message.startswith("data=jsonl: the validation split has no demonstration left.")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [],
            "data=jsonl needs a file of yours (.json, .jsonl, .csv, .parquet, .sqlite): data."
            "path=FILE.",
        ),
        (["data.path=gone.jsonl"], "data.path=gone.jsonl: there is no such file (looked in "),
        (["data.path=/tmp"], "/tmp: cannot read a folder."),
    ],
)
def test_a_file_that_is_not_there(typed, given, message):
    assert typed(*SFT, *given).startswith(message)


@pytest.mark.parametrize("stage", ["reward", "rlhf"])
def test_the_data_does_not_offer_what_a_stage_wants(typed, stage):
    message = typed(f"stage={stage}", "data=alpaca")
    assert message.startswith("data=alpaca offers no comparison records")
    assert "It offers\n  demonstration, for supervised fine-tuning" in message


def test_an_input_that_is_missing_is_named_with_this_runs_own_command(typed, rows):
    given = ["stage=ppo", *SMALL, f"data.path={rows}", "stage.kl_coef=0.1", "seed=3"]
    message = typed(*given)
    assert message.startswith("No finished stage=sft under ")
    command = message.partition("Make one with: ")[2]
    assert command.startswith("python train.py stage=sft model=tiny ")
    # Quoted for a shell where it must be, and with what makes the artifact fit.
    assert "data.splits={train:" in command.replace("'", "")
    assert f"data.path={rows}" in command
    assert "seed=3" in command
    assert "kl_coef" not in command


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("ppo", "stage.policy"),
        ("grpo", "stage.policy"),
        ("rloo", "stage.policy"),
        ("rlhf", "stage.ppo.reward_model"),
    ],
)
def test_an_input_that_is_not_there(typed, tmp_path, rows, stage, key):
    message = typed(f"stage={stage}", *SMALL, f"data.path={rows}", f"{key}={tmp_path}/gone")
    assert message.startswith(f"{key}={tmp_path}/gone: there is no such folder.")


@pytest.mark.parametrize("model", ["tiny_lora", "tiny_lora_4bit"])
def test_a_base_that_is_still_to_be_made(typed, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)  # where the base is sought
    message = typed("stage=rlhf", f"model={model}", "data=movie_reviews")
    assert message == (
        "model.source=outputs/tiny_base/artifact: there is no such folder. Make the one of "
        f"model={model} with: python train.py stage=sft model=tiny data=movie_reviews "
        "hydra.run.dir=outputs/tiny_base"
    )


def test_a_reward_model_on_another_base_than_the_policys(typed, tmp_path):
    for stage, base in (("sft", "the/base"), ("reward", "another/base")):
        manifest = new_manifest(
            stage=stage,
            lineage=Lineage(base=base, quantization="none", lora="none", template="plain"),
            template_hash="t",
            config_hash="c",
            parents={},
            score_mean=0.0,
            score_std=1.0,
            metrics={},
        )
        write_artifact(tmp_path / stage / "artifact", manifest, lambda folder: None)
    given = ["stage=ppo", "model=llama7b", "model.source=the/base", "data=movie_reviews"]
    reward_model = f"stage.reward_model={tmp_path}/reward/artifact"
    message = typed(*given, f"stage.policy={tmp_path}/sft/artifact", reward_model)
    assert message.startswith(
        f"{reward_model} does not fit this run: it has base 'another/base' instead of 'the/base'."
    )
    # Sought instead of named, it is listed as found.
    message = typed(*given, f"stage.policy={tmp_path}/sft/artifact", f"outputs={tmp_path}")
    assert f"{tmp_path}/reward/artifact has base 'another/base' instead of 'the/base'" in message


@pytest.mark.parametrize("broken", ["no network", "corrupt download"])
def test_a_first_fetch_that_fails(typed, monkeypatch, tmp_path, broken):
    def pip(command, what):
        if broken == "no network":
            return 1, "WARNING: Retrying\nERROR: no route to host\n"
        with open(f"{command[command.index('-d') + 1]}/vaderSentiment-3.3.2.tar.gz", "wb") as file:
            file.write(b"half of it")
        return 0, ""

    monkeypatch.setattr(pypi, "_run_with_clock", pip)
    message = typed("stage=sft", "model=tiny", "data=movie_reviews")
    if broken == "no network":
        assert message.startswith(
            "pip could not fetch vaderSentiment==3.3.2:\n  ERROR: no route to"
        )
    else:
        assert message.startswith("What pip fetched as vaderSentiment==3.3.2 is not the archive ")
    assert f"by hand: {tmp_path}/cache/vaderSentiment-3.3.2.tar.gz" in message
    assert list((tmp_path / "cache").iterdir()) == []
    assert left_in(tmp_path) == []


def test_a_run_that_never_began_cannot_go_on(typed, tmp_path):
    assert typed("stage=sft", f"resume={tmp_path}") == (
        f"resume={tmp_path}: no run has begun there (run.json is missing). Name the folder of a "
        "run that stopped, or resume=auto."
    )
    assert typed("stage=sft", "resume=auto") == (
        f"resume=auto: no run under {tmp_path}/outputs stopped with the same settings. Name its "
        "folder (resume=DIR), or leave resume out to begin."
    )
    assert typed("stage=sft", "resume=auto", flags=["-m"]) == (
        "resume is for one run. A sweep goes on with hydra.sweep.dir=DIR."
    )
