import dataclasses
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hydralign.artifacts import Manifest, new_manifest, write_artifact
from hydralign.errors import UserError
from hydralign.inputs import (
    config_hash,
    find_inputs,
    lineage,
    other_parents,
    parent_ids,
    read_manifest,
    stage_name,
)
from hydralign.record import settings_of
from hydralign.stages.ppo import PPO

BASE = {
    "model": {
        "name": "smol",
        "source": "hub/smol",
        "architecture": None,
        "vocab_size": None,
        "dtype": "float32",
        "quantization": "none",
        "double_quantization": True,
        "lora": {"rank": 16, "alpha": 32, "target_modules": "all-linear"},
    },
    "data": {
        "name": "chats",
        "path": None,
        "tokenizer_from": None,
        "template": "chat",
        "max_prompt_tokens": 9,
    },
    "stage": {"_target_": "hydralign.stages.ppo.PPO", "kl_coef": 0.1, "reward_model": None},
    "rewards": [{"scorer": "reward_model", "weight": 1.0, "options": {}}],
    "hardware": {"train_micro_batch_size": 8, "optimizer": "adamw"},
    "seed": 0,
    "stop_after": None,
}


def config(outputs, **changed):
    cfg = OmegaConf.merge(BASE, {"outputs": str(outputs)})
    for key, value in changed.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False)
    return cfg


def artifact(folder, stage, cfg, template_hash="t", created=1.0, parents=None):
    """A finished stage's folder without weights."""
    fields = {"stage": stage, "lineage": lineage(cfg), "template_hash": template_hash}
    fields |= {"config_hash": "c", "parents": parents or {}, "metrics": {}}
    record = new_manifest(score_mean=0.0, score_std=1.0, **fields)
    record = dataclasses.replace(record, created=created)
    write_artifact(folder, record, lambda _: None)
    return folder


def settings(policy=None, reward_model=None):
    paths = {"policy": policy, "reward_model": reward_model}
    return SimpleNamespace(**{name: path and str(path) for name, path in paths.items()})


def test_a_stage_is_named_after_its_module():
    assert stage_name(OmegaConf.create({"stage": {"_target_": "a.b.sft.SupervisedStage"}})) == "sft"


SAME = {"data__max_prompt_tokens": 10, "hardware__train_micro_batch_size": 1, "seed": 5}
OTHER = {"model__source": "hub/other", "model__lora": None, "model__lora__rank": 8}
OTHER |= {"data__template": "plain", "model__quantization": "nf4", "stop_after": 3}


@pytest.mark.parametrize("key", SAME)
def test_artifacts_fit_across_what_does_not_touch_the_network(tmp_path, key):
    assert lineage(config(tmp_path, **{key: SAME[key]})) == lineage(config(tmp_path))


@pytest.mark.parametrize("key", OTHER)
def test_artifacts_do_not_fit_another_base_adapter_or_template(tmp_path, key):
    assert lineage(config(tmp_path, **{key: OTHER[key]})) != lineage(config(tmp_path))


def test_a_network_from_scratch_belongs_to_its_data_and_architecture(tmp_path):
    scratch = {"model__source": None, "model__architecture": {"hidden_size": 8}}
    scratch |= {"model__vocab_size": 50}
    first = lineage(config(tmp_path, **scratch))
    assert first.base.startswith("smol from scratch ")
    assert first == lineage(config(tmp_path, **scratch))
    for change in (
        {"model__architecture": {"hidden_size": 9}},
        {"model__vocab_size": 51},
        {"data__name": "others"},
    ):
        assert lineage(config(tmp_path, **(scratch | change))) != first


def test_rankings_of_its_own_responses_fit_a_network_from_scratch(tmp_path):
    scratch = {"model__source": None, "model__architecture": {"hidden_size": 8}}
    labels = {"data__name": "labels", "data__path": "l.sqlite"}
    first = lineage(config(tmp_path, **scratch))
    assert lineage(config(tmp_path, **scratch, **labels)) != first
    assert lineage(config(tmp_path, **scratch, **labels, data__tokenizer_from="chats")) == first
    assert lineage(config(tmp_path, **scratch, **labels, data__tokenizer_from="rhymes")) != first


def test_another_tokenizer_makes_another_run(tmp_path):
    other = config(tmp_path, data__tokenizer_from="chats")
    assert settings_of(other)["data"]["tokenizer_from"] == "chats"
    assert config_hash(other, {}) != config_hash(config(tmp_path), {})


def test_a_base_that_a_run_has_made_anew_is_another(tmp_path):
    source = tmp_path / "base" / "artifact"
    source.mkdir(parents=True)
    cfg = config(tmp_path, model__source=str(source))
    plain = lineage(cfg), config_hash(cfg, {})
    assert plain[0].base == str(source)
    found = [plain]
    for _ in range(2):
        artifact(source, "sft", config(tmp_path))
        found.append((lineage(cfg), config_hash(cfg, {})))
        assert found[-1] == (lineage(cfg), config_hash(cfg, {}))
        assert found[-1][0].base == f"{source} {Manifest.read(source).id}"
    assert len({base.base for base, _ in found}) == len({made for _, made in found}) == 3


def test_a_folder_goes_by_its_place_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    short, long = (config(tmp_path, model__source=s) for s in ("base", str(tmp_path / "base")))
    assert (lineage(short), config_hash(short, {})) == (lineage(long), config_hash(long, {}))


def test_inputs_that_are_not_named_are_the_newest_that_fit(tmp_path):
    cfg = config(tmp_path)
    artifact(tmp_path / "1" / "artifact", "sft", cfg, created=1.0)
    policy = artifact(tmp_path / "2" / "artifact", "sft", cfg, created=2.0)
    reward_model = artifact(tmp_path / "3" / "artifact", "reward", cfg)
    found = find_inputs(cfg, PPO, settings(), {})
    assert found == {"policy": policy, "reward_model": reward_model}


def test_what_the_chain_has_made_goes_before_what_is_found_and_what_is_named_before_both(tmp_path):
    cfg = config(tmp_path)
    folders = {}
    for index, name in enumerate(("found", "made", "named")):
        for stage in ("sft", "reward"):
            path = tmp_path / name / stage / "artifact"
            folders[name, stage] = artifact(path, stage, cfg, created=-index)
    finished = {"sft": folders["made", "sft"]}
    found = find_inputs(cfg, PPO, settings(), finished)
    expected = {"policy": folders["made", "sft"], "reward_model": folders["found", "reward"]}
    assert found == expected
    found = find_inputs(cfg, PPO, settings(policy=folders["named", "sft"]), finished)
    assert found["policy"] == folders["named", "sft"]


def test_a_missing_input_names_the_stage_and_the_command(tmp_path):
    cfg = config(tmp_path)
    artifact(tmp_path / "1" / "artifact", "sft", cfg)
    with pytest.raises(
        UserError, match=r"stage=reward [\s\S]*python train.py stage=reward model=smol"
    ):
        find_inputs(cfg, PPO, settings(), {})


def test_a_named_artifact_on_another_base_is_refused_by_its_key(tmp_path):
    other = config(tmp_path, model__source="hub/other")
    policy = artifact(tmp_path / "1" / "artifact", "sft", config(tmp_path))
    reward_model = artifact(tmp_path / "2" / "artifact", "reward", other)
    wrong = rf"stage\.reward_model={reward_model} does not fit .*'hub/other' instead of 'hub/smol'"
    with pytest.raises(UserError, match=wrong):
        find_inputs(config(tmp_path), PPO, settings(policy, reward_model), {})


def test_a_named_folder_that_is_neither_artifact_nor_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"stage\.policy=.*neither the artifact"):
        find_inputs(config(tmp_path), PPO, settings(policy=tmp_path / "empty"), {})


def test_a_plain_hugging_face_folder_may_be_named(tmp_path):
    cfg = config(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    reward_model = artifact(tmp_path / "2" / "artifact", "reward", cfg)
    found = find_inputs(cfg, PPO, settings(policy=tmp_path / "plain"), {})
    assert found == {"policy": tmp_path / "plain", "reward_model": reward_model}
    assert read_manifest(tmp_path / "plain") is None


def test_inputs_with_different_tokenizers_are_refused(tmp_path):
    cfg = config(tmp_path)
    artifact(tmp_path / "1" / "artifact", "sft", cfg, template_hash="t1")
    artifact(tmp_path / "2" / "artifact", "reward", cfg, template_hash="t2")
    with pytest.raises(UserError, match="disagree on tokenizer or template: .*t1.*t2"):
        find_inputs(cfg, PPO, settings(), {})


CHANGES = {"model__name": "x", "data__max_prompt_tokens": 1, "stage__kl_coef": 0.2, "seed": 1}
CHANGES |= {"stop_after": 3, "hardware__optimizer": "adamw_8bit"}
CHANGES["rewards"] = [{"scorer": "vader", "weight": 1.0, "options": {}}]


@pytest.mark.parametrize("key", CHANGES)
def test_whatever_could_change_a_result_changes_its_hash(tmp_path, key):
    assert config_hash(config(tmp_path, **{key: CHANGES[key]}), {}) != config_hash(
        config(tmp_path), {}
    )


def test_a_reward_model_that_is_not_asked_is_refused(tmp_path):
    cfg = config(tmp_path, rewards=CHANGES["rewards"])
    stage = SimpleNamespace(inputs={"reward_model": "reward"})
    with pytest.raises(UserError, match="stage.reward_model is given, but rewards does not ask"):
        find_inputs(cfg, stage, SimpleNamespace(reward_model="x"), {})


def test_scorers_are_nothing_to_a_stage_that_asks_none(tmp_path):
    sft = {"_target_": "hydralign.stages.sft.SFT"}
    hashes = [
        config_hash(config(tmp_path, stage=sft, rewards=rewards), {})
        for rewards in (BASE["rewards"], CHANGES["rewards"])
    ]
    assert hashes[0] == hashes[1]


def test_the_machine_and_the_place_leave_the_hash_alone(tmp_path):
    here = config_hash(config(tmp_path), {})
    assert config_hash(config(tmp_path, hardware__train_micro_batch_size=1), {}) == here
    assert config_hash(config(tmp_path, hardware__optimizer="paged_adamw"), {}) == here
    assert config_hash(config(tmp_path / "elsewhere"), {}) == here
    assert config_hash(config(tmp_path, model__made_by="python train.py"), {}) == here


def test_a_parent_that_was_made_anew_changes_the_hash(tmp_path):
    cfg = config(tmp_path)
    folder = artifact(tmp_path / "1" / "artifact", "sft", cfg)
    before = config_hash(cfg, {"policy": folder})
    assert config_hash(cfg, {"policy": folder}) == before
    assert parent_ids({"policy": folder}) == {"policy": Manifest.read(folder).id}
    artifact(folder, "sft", cfg)
    assert config_hash(cfg, {"policy": folder}) != before


def test_a_reward_model_of_another_policy_is_told(tmp_path):
    cfg = config(tmp_path)
    first, second = (artifact(tmp_path / n / "artifact", "sft", cfg) for n in "12")
    parents = parent_ids({"policy": first})
    reward_model = artifact(tmp_path / "3" / "artifact", "reward", cfg, parents=parents)
    assert other_parents({"policy": first, "reward_model": reward_model}) == []
    assert other_parents({"reward_model": reward_model}) == []
    later = artifact(tmp_path / "4" / "artifact", "ppo", cfg, parents=parents)
    assert other_parents({"policy": later}) == []  # its own parent is no other input
    assert other_parents({"policy": second, "reward_model": reward_model}) == [
        "reward_model was made from another policy than the one taken here"
    ]


def test_a_parent_without_a_manifest_goes_by_its_path(tmp_path):
    assert parent_ids({"policy": tmp_path}) == {"policy": str(tmp_path)}
