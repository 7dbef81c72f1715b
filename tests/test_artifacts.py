import dataclasses
import json
from importlib.metadata import version

import pytest

from hydralign.artifacts import (
    Lineage,
    Manifest,
    check_files,
    check_lineage,
    digest,
    find_artifact,
    new_manifest,
    write_artifact,
    write_json,
)
from hydralign.errors import UserError

LINEAGE = Lineage(base="smol", quantization="none", lora="abc", template="chat")
COMMAND = "python train.py stage=sft model=smol"


def manifest(stage="sft", lineage=LINEAGE, **changed):
    fields = {
        "stage": stage,
        "lineage": lineage,
        "template_hash": "t",
        "config_hash": "c",
        "parents": {"policy": "0" * 32},
        "score_mean": 0.1 + 0.2,
        "score_std": 1 / 3,
        "metrics": {"sft/val_nll": 2.5},
    }
    return dataclasses.replace(new_manifest(**fields), **changed)


def write(folder, content, **changed):
    """An artifact with one file of weights."""
    record = manifest(**changed)
    write_artifact(folder, record, lambda aside: (aside / "weights").write_text(content))
    return dataclasses.replace(record, files=Manifest.read(folder).files)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_manifest_survives_the_round_trip(tmp_path):
    written = write(tmp_path / "run" / "artifact", "w")
    read = Manifest.read(tmp_path / "run" / "artifact")
    assert read == written
    # The SHA-256 of "w".
    w = "50e721e49c013f00c62cf59f2163542a9d8df02464efeb615d31051b0fddc326"
    assert read.files == {"weights": w}
    assert names(tmp_path / "run") == ["artifact"]
    assert names(tmp_path / "run" / "artifact") == ["manifest.json", "weights"]


def test_files_that_are_not_what_the_manifest_says_are_refused(tmp_path):
    write(tmp_path / "artifact", "right")
    record = Manifest.read(tmp_path / "artifact")
    check_files(tmp_path / "artifact", record)
    (tmp_path / "artifact" / "weights").write_text("wrong")
    with pytest.raises(UserError, match=r"weights is changed: it is not what stage=sft has left"):
        check_files(tmp_path / "artifact", record)
    (tmp_path / "artifact" / "weights").unlink()
    with pytest.raises(UserError, match="weights is missing"):
        check_files(tmp_path / "artifact", record)


def test_a_manifest_says_what_it_was_made_with():
    first, second = manifest(), manifest()
    assert first.id != second.id
    assert len(first.id) == 32
    for package in ("hydralign", "torch", "lightning", "transformers", "peft", "tokenizers"):
        assert first.versions[package] == version(package)
    assert abs(second.created - first.created) < 60


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail(aside):
        (aside / "weights").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_artifact(tmp_path / "artifact", manifest(), fail)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_artifact_as_it_was(tmp_path, error):
    old = write(tmp_path / "artifact", "old")

    def fail(aside):
        (aside / "weights").write_text("half")
        assert (tmp_path / "artifact" / "weights").read_text() == "old"
        raise error

    with pytest.raises(error):
        write_artifact(tmp_path / "artifact", manifest(), fail)
    assert names(tmp_path) == ["artifact"]
    assert (tmp_path / "artifact" / "weights").read_text() == "old"
    assert Manifest.read(tmp_path / "artifact") == old


def test_a_new_artifact_replaces_the_old_one_and_what_a_killed_run_left(tmp_path):
    write_artifact(
        tmp_path / "artifact", manifest(), lambda aside: (aside / "extra").write_text("")
    )
    (tmp_path / "artifact.partial").mkdir()
    (tmp_path / "artifact.partial" / "half").write_text("")
    new = write(tmp_path / "artifact", "new")
    assert names(tmp_path) == ["artifact"]
    assert names(tmp_path / "artifact") == ["manifest.json", "weights"]
    assert Manifest.read(tmp_path / "artifact") == new


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "metrics.json", {"a": 1.5})
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"a": object()})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": 1.5}
    assert names(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("content", ["", "{", '{"id": "x"}', "[]", '{"lineage": {"base": 1}}'])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        Manifest.read(tmp_path)


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path):
    with pytest.raises(UserError, match="is no artifact of a finished stage"):
        Manifest.read(tmp_path)


def test_the_newest_that_fits_is_found_at_any_depth(tmp_path):
    other = dataclasses.replace(LINEAGE, base="llama")
    write(tmp_path / "sft" / "a" / "artifact", "w", created=10.0)
    write(tmp_path / "rlhf" / "b" / "sft" / "artifact", "w", created=30.0)
    write(tmp_path / "sft" / "c" / "artifact", "w", created=20.0)
    write(tmp_path / "sft" / "d" / "artifact", "w", created=50.0, lineage=other)
    write(tmp_path / "reward" / "e" / "artifact", "w", created=60.0, stage="reward")
    found = find_artifact(tmp_path, "sft", LINEAGE, COMMAND)
    assert found == tmp_path / "rlhf" / "b" / "sft" / "artifact"


def test_half_written_artifacts_are_never_found(tmp_path):
    write(tmp_path / "a" / "artifact.partial", "w")
    (tmp_path / "b" / "artifact").mkdir(parents=True)  # no manifest
    with pytest.raises(UserError, match=r"No finished stage=sft under .* fits this run"):
        find_artifact(tmp_path, "sft", LINEAGE, COMMAND)


def test_what_does_not_fit_is_listed_with_the_command_that_makes_what_does(tmp_path):
    for field in ("base", "quantization", "lora", "template", "stopped_after"):
        other = dataclasses.replace(LINEAGE, **{field: "other"})
        write(tmp_path / field / "artifact", "w", lineage=other)
    with pytest.raises(UserError) as caught:
        find_artifact(tmp_path, "sft", LINEAGE, COMMAND)
    message = str(caught.value)
    assert message.endswith(f"Make one with: {COMMAND}")
    for field, wanted in dataclasses.asdict(LINEAGE).items():
        assert (
            f"{tmp_path / field / 'artifact'} has {field} 'other' instead of {wanted!r}" in message
        )


def test_where_there_is_nothing_the_command_is_given(tmp_path):
    for outputs in (tmp_path, tmp_path / "never made"):
        with pytest.raises(UserError, match=f"fits this run. Make one with: {COMMAND}"):
            find_artifact(outputs, "sft", LINEAGE, COMMAND)


def test_one_damaged_manifest_does_not_hide_the_others(tmp_path):
    write(tmp_path / "a" / "artifact", "w")
    (tmp_path / "b" / "artifact").mkdir(parents=True)
    (tmp_path / "b" / "artifact" / "manifest.json").write_text("{")
    assert find_artifact(tmp_path, "sft", LINEAGE, COMMAND) == tmp_path / "a" / "artifact"


def test_a_reward_model_on_another_base_is_refused(tmp_path):
    record = write(tmp_path, "w", stage="reward")
    check_lineage(tmp_path, record, LINEAGE, "stage.reward_model")
    wanted = dataclasses.replace(LINEAGE, base="llama", lora="none")
    with pytest.raises(UserError) as caught:
        check_lineage(tmp_path, record, wanted, "stage.reward_model")
    assert str(caught.value).startswith(
        f"stage.reward_model={tmp_path} does not fit this run: it has base 'smol' instead of "
        "'llama', lora 'abc' instead of 'none'."
    )


def test_digests_depend_on_content_and_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    values = [{"a": 1}, {"a": 2}, {"b": 1}, ["a", 1], {"a": "1"}, {"a": 1.5}, {}]
    assert len({digest(value) for value in values}) == len(values)
    assert {len(digest(value)) for value in values} == {16}
