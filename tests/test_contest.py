"""Comparing policies: who takes part, and the best of n."""

import json

import pytest
import torch
from torch.testing import assert_close

from hydralign.artifacts import Lineage, new_manifest, write_artifact, write_json
from hydralign.contest import best_of, find_field, hold
from hydralign.errors import UserError
from hydralign.rl.sequences import pad_sequences
from hydralign.rollout.sampling import Responses
from hydralign.stages.evaluation import Answers


def responses(*texts):
    """One token for each letter."""
    ids = [[ord(letter) for letter in text] for text in texts]
    sequences = pad_sequences([[9]] * len(texts), ids, pad_id=0)
    finished = torch.tensor([len(text) > 1 for text in texts])
    prompts = tuple(f"p{text[0]}" for text in texts)
    return Responses(sequences, finished, prompts, texts, (None,) * len(texts))


def test_the_best_of_the_first_n_of_each_group_is_kept_across_batches():
    first, second = responses("ab", "a", "acc", "b", "bb", "bbb"), responses("c", "cc", "cd")
    scores = torch.tensor([0.1, 0.2, 0.9, 3.0, -1.0, 4.0, -0.5, -0.2, -0.1])
    answers = Answers([first, second], scores, scores * 10)
    two, three = best_of(answers, 3, 2), best_of(answers, 3, 3)
    assert (two.texts, three.texts) == (["a", "b", "cc"], ["acc", "bbb", "cd"])
    assert two.prompts == ["pa", "pb", "pc"]
    assert_close(two.scores, torch.tensor([0.2, 3.0, -0.2]))
    assert_close(three.gold, torch.tensor([9.0, 40.0, -1.0]))
    assert two.responses[0].finished.tolist() == [False, False]
    assert two.responses[1].sequences.response_ids.tolist() == [[ord("c"), ord("c")]]
    assert best_of(answers, 3, 1).texts == ["ab", "b", "c"]


def finished_run(folder, stage, **inputs):
    made = new_manifest(
        stage=stage,
        lineage=Lineage("b", "none", "none", "t"),
        template_hash="t",
        config_hash="c",
        parents={},
        score_mean=0.0,
        score_std=1.0,
        metrics={},
    )
    write_artifact(folder / "artifact", made, lambda _: None)
    write_json(folder / "run.json", {"inputs": {n: str(p) for n, p in inputs.items()}})
    return folder / "artifact"


def test_a_chain_gives_its_policies_and_what_they_started_from(tmp_path):
    sft = finished_run(tmp_path / "sft", "sft")
    reward = finished_run(tmp_path / "reward", "reward", policy=sft)
    finished_run(tmp_path / "dpo", "dpo", policy=sft)
    finished_run(tmp_path / "ppo", "ppo", policy=sft, reward_model=reward)
    found = find_field([tmp_path])
    assert (found.reference, found.reward_model) == (sft, reward)
    assert [run.name for run in found.runs] == ["dpo", "ppo"]


def test_runs_by_themselves_must_have_started_alike(tmp_path):
    starts = [finished_run(tmp_path / f"sft{i}", "sft") for i in range(2)]
    for start, name in zip(starts, ("ppo", "rloo"), strict=True):
        finished_run(tmp_path / name, name, policy=start)
    assert find_field([tmp_path / "ppo"]).reward_model is None
    with pytest.raises(UserError, match="did not start from the same policy: ppo from .*sft0"):
        find_field([tmp_path / "ppo", tmp_path / "rloo"])


def test_two_runs_of_a_stage_go_by_their_folders(tmp_path):
    sft = finished_run(tmp_path / "sft", "sft")
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, stage in zip(folders, ("ppo", "ppo", "dpo"), strict=True):
        finished_run(folder, stage, policy=sft)
    assert [run.name for run in find_field(folders).runs] == ["ppo (a)", "ppo (b)", "dpo"]
    other = finished_run(tmp_path / "other", "sft")
    finished_run(tmp_path / "b", "ppo", policy=other)
    with pytest.raises(UserError, match="did not start from the same policy"):
        find_field(folders)


def test_runs_with_other_judges_are_not_compared(tmp_path):
    sft = finished_run(tmp_path / "sft", "sft")
    for name in ("ppo", "rloo"):
        judge = finished_run(tmp_path / f"judge of {name}", "reward", policy=sft)
        finished_run(tmp_path / name, name, policy=sft, reward_model=judge)
    with pytest.raises(UserError, match="not scored by the same reward model: ppo by .*judge of"):
        find_field([tmp_path / "ppo", tmp_path / "rloo"])


def settings(folder, stage, **changed):
    """Say with what settings a run was made."""
    said = {"data": {"name": "d"}, "rewards": [{"scorer": "reward_model"}], "stage": stage}
    record = {"settings": said | changed, "hardware": {}}
    write_json(folder / "run.json", json.loads((folder / "run.json").read_text()) | record)


def test_what_scores_and_the_data_must_be_the_same(tmp_path):
    sft = finished_run(tmp_path / "sft", "sft")
    folders = [tmp_path / name for name in ("ppo", "rloo")]
    for folder in folders:
        finished_run(folder, folder.name, policy=sft)
        settings(folder, {"reward_model": None})
    with pytest.raises(UserError, match="Nothing can score the responses of ppo: name a run"):
        hold(find_field(folders))
    settings(folders[1], {"reward_model": None}, rewards=[{"scorer": "vader"}])
    with pytest.raises(UserError, match="ppo and rloo cannot be compared: rewards differs"):
        hold(find_field(folders))
    settings(folders[1], {"reward_model": None}, data={"name": "e"})
    with pytest.raises(UserError, match="ppo and rloo cannot be compared: data differs"):
        hold(find_field(folders))


def test_nothing_to_compare_is_told(tmp_path):
    finished_run(tmp_path / "sft", "sft")
    with pytest.raises(UserError, match="no finished run of dpo, ppo, grpo or rloo in "):
        find_field([tmp_path])
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        find_field([tmp_path / "nowhere"])
