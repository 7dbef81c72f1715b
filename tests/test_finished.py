"""Finished runs: which artifact a folder stands for, and what it opens as."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hydralign.artifacts import write_json
from hydralign.errors import UserError
from hydralign.finished import open_policies, open_policy, open_reward_model
from hydralign.rl.sequences import pad_sequences
from hydralign.runs import Run, find_policy, find_reward_model, find_runs, told_apart


def test_a_run_its_stage_and_its_artifact_stand_for_the_same(finish, tmp_path):
    finish(tmp_path / "sft", "sft")
    named = [tmp_path, tmp_path / "sft", tmp_path / "sft" / "artifact"]
    assert [find_policy(folder).artifact for folder in named] == [tmp_path / "sft/artifact"] * 3
    assert find_policy(tmp_path).folder == tmp_path / "sft"


def test_a_chain_stands_for_the_policy_that_no_other_started_from(finish, tmp_path):
    sft = finish(tmp_path / "sft", "sft")
    finish(tmp_path / "reward", "reward", parents={"policy": sft})
    finish(tmp_path / "ppo", "ppo", parents={"policy": sft})
    assert find_policy(tmp_path).stage == "ppo"
    assert find_reward_model(tmp_path).artifact == tmp_path / "reward/artifact"
    assert [run.name for run in find_runs(tmp_path)] == ["ppo", "reward", "sft"]
    finish(tmp_path / "dpo", "dpo", parents={"policy": sft})
    with pytest.raises(UserError, match=r"several policies. Name one: .*/dpo, .*/ppo, .*/sft\."):
        find_policy(tmp_path)


def test_runs_of_a_stage_are_told_apart_by_as_much_of_the_folder_as_it_takes():
    paths = [("ppo", "a/ppo"), ("ppo", "b/ppo"), ("ppo", "c/mine"), ("dpo", "a/dpo")]
    runs = [Run(stage, stage, Path(path) / "artifact") for stage, path in paths]
    names = [run.name for run in told_apart(runs)]
    assert names == ["ppo (a/ppo)", "ppo (b/ppo)", "ppo (mine)", "dpo"]


def test_a_chain_that_stopped_does_not_stand_for_its_first_policy(finish, tmp_path):
    sft = finish(tmp_path / "sft", "sft")
    write_json(tmp_path / "run.json", {"unfinished": True, "process": os.getpid()})
    said = rf"stopped before.* resume={tmp_path}\. Or name .*/sft\."
    with pytest.raises(UserError, match=said):
        find_policy(tmp_path)
    finish(tmp_path / "reward", "reward", parents={"policy": sft})
    with pytest.raises(UserError, match=said):
        find_policy(tmp_path)
    assert find_policy(tmp_path / "sft").stage == "sft"


def test_what_is_not_there_is_told(finish, tmp_path):
    finish(tmp_path / "reward", "reward")
    finish(tmp_path / "sft", "sft")
    (tmp_path / "stopped").mkdir()
    for find, name, message in (
        (find_policy, "nowhere", "nowhere: there is no such folder"),
        (find_policy, "stopped", "stopped holds no artifact of a finished stage"),
        (find_policy, "reward", "reward/artifact is a reward model, and a policy is wanted"),
        (find_reward_model, "sft", r"A reward model is wanted.*only .*/sft \(stage=sft\)"),
    ):
        with pytest.raises(UserError, match=message):
            find(tmp_path / name)
    write_json(tmp_path / "stopped/run.json", {"unfinished": True})
    with pytest.raises(UserError, match=f"stopped before its end.* resume={tmp_path}/stopped"):
        find_policy(tmp_path / "stopped")


def test_an_artifact_without_its_settings_or_with_others_is_told(finish, tmp_path):
    finish(tmp_path / "sft", "sft")
    record = tmp_path / "sft/run.json"
    said = json.loads(record.read_text())
    said["settings"]["model"]["colour"] = "red"
    write_json(record, said)
    with pytest.raises(UserError, match=r"run.json was written by another version: .*colour"):
        open_policy(tmp_path / "sft")
    record.unlink()
    with pytest.raises(UserError, match=r"run.json is missing or damaged"):
        open_policy(tmp_path / "sft")


def test_a_damaged_artifact_is_told(finish, tmp_path):
    finish(tmp_path / "sft", "sft")
    (tmp_path / "sft/artifact/tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.json is changed"):
        open_policy(tmp_path / "sft")


@pytest.mark.parametrize("kind", ["own", "lora", "nf4"])
def test_an_opened_policy_computes_what_was_saved(finish, make_toys, tmp_path, kind):
    toys = make_toys(kind)
    finish(tmp_path / "sft", "sft", kind=kind, seed=7)
    finish(tmp_path / "ppo", "ppo", kind=kind, seed=8)
    other, policy = open_policies([find_policy(tmp_path / name) for name in ("ppo", "sft")])
    sequences = pad_sequences([[1, 9, 4], [22]], [[6, 2], [0, 8, 19]], pad_id=0)
    expected = toys.role("policy", trained=True)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in expected.trained_parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        assert_close(policy.role(sequences), expected(sequences))
        assert (policy.role(sequences) - other.role(sequences)).abs().max() > 0.01
    shared = policy.role.network.language_model is other.role.network.language_model
    assert shared == (kind != "own")
    assert policy.codec.stop_ids == toys.codec.stop_ids
    assert policy.encoder().template == "plain"


@pytest.mark.parametrize("kind", ["own", "lora"])
def test_an_opened_reward_model_scores_text_as_tokens(finish, tmp_path, kind):
    finish(tmp_path / "reward", "reward", kind=kind)
    model = open_reward_model(tmp_path)
    scores = model.scores("xyz", ["ij", "ijklm"])
    # <bos> is 1, <eos> 2, a 3 and so on.
    asked, said = [[1, 26, 27, 28]] * 2, [[11, 12, 2], [11, 12, 13, 14, 15, 2]]
    sequences = pad_sequences(asked, said, pad_id=0)
    with torch.no_grad():
        assert_close(torch.tensor(scores), model.role.scores(sequences))
    assert abs(scores[0] - scores[1]) > 1e-3
    assert model.role.head.std.item() == pytest.approx(1.7)
