"""A finished chain of all stages, and run folders made by hand."""

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from hydralign import config
from hydralign.outcomes import Judged, PairOutcomes, PolicyOutcomes, Shown
from hydralign.report.write import write_report
from hydralign.run import run

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
STAGES = ("sft", "reward", "dpo", "ppo", "grpo", "rloo")
GROUPS = ("rollouts=2", "rollout_batch_size=2", "group_size=2", "minibatch_size=2", "epochs=1")
SMALL = {
    "sft": ("steps=20", "batch_size=4", "warmup_steps=1"),
    "reward": ("steps=20", "batch_size=2", "warmup_steps=1"),
    "dpo": ("steps=20", "batch_size=2", "warmup_steps=1"),
    "ppo": ("rollouts=3", "rollout_batch_size=4", "minibatch_size=2", "ppo_epochs=1")
    + ("value_warmup_rollouts=1", "warmup_rollouts=1"),
    "grpo": GROUPS,
    "rloo": GROUPS,
}


def composed(rows, tiny_llama, *more):
    """The config of all stages in a chain, on a model of a few thousand parameters."""
    chosen = ["model=llama7b_lora", f"model.source={tiny_llama}", "model.quantization=none"]
    chosen += ["model.dtype=float32", "data=jsonl", f"data.path={rows}", "data.template=plain"]
    chosen += ["data.splits={train: 0.6, validation: 0.2, test: 0.2}"]
    chosen += ["data.max_response_tokens=6", "stage=compare", "report=false", "samples_every=2"]
    chosen += [f"stage.{stage}.{setting}" for stage in STAGES for setting in SMALL[stage]]
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*chosen, *more])


@pytest.fixture(scope="session")
def finished(tiny_llama, rows, tmp_path_factory):
    """A finished chain of all six stages, without reports. Not to be changed."""
    folder = tmp_path_factory.mktemp("compare")
    run(composed(rows, tiny_llama), folder)
    return folder


@pytest.fixture(scope="session")
def drawn(finished, tmp_path_factory):
    """A copy of it with all reports, and a comparison. Not to be changed."""
    folder = tmp_path_factory.mktemp("drawn") / "chain"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("artifact"))
    rows = [{"name": "best of <4>", "win_rate": 0.75, "kl_per_sequence": 0.636}]
    (folder / "comparison.json").write_text(json.dumps({"rows": rows}))
    write_report(folder)
    return folder


@pytest.fixture
def chain(drawn, tmp_path):
    """A copy of that, to be changed; only its first stage and grpo belong to the chain."""
    shutil.copytree(drawn, tmp_path / "chain")
    path = tmp_path / "chain/run.json"
    record = json.loads(path.read_text())
    record["settings"]["stage"]["chain"] = ["sft", "grpo"]
    path.write_text(json.dumps(record))
    return tmp_path / "chain"


@pytest.fixture
def bare(tmp_path):
    """The folder of a run that has left nothing but its record."""
    stage = {"_target_": "hydralign.stages.ppo.PPO", "rollouts": 3}
    record = {"settings": {"model": {"name": "m"}, "data": {"name": "d"}, "stage": stage}}
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/run.json").write_text(json.dumps(record))
    return tmp_path / "bare"


@pytest.fixture
def pairs():
    """Two comparisons: of the first all three pairs, of the second one."""
    return PairOutcomes(
        unit="points",
        log_odds=2.0,
        scores=[1.0, 0.5, 0.5, -1.0, 0.0],
        lengths=[5, 3, 4, 7, 7],
        preferred=[0, 0, 1, 3],
        other=[1, 2, 2, 4],
        prompts=[0, 0, 0, 1],
        gaps=[1.0, 2.0, 3.0, None],
    )


@pytest.fixture
def policy():
    """Three prompts, of which the texts of one are kept."""
    return PolicyOutcomes(
        before=Judged([0.0, 1.0, -1.0], None, [6, 6, 5], [False, False, True]),
        after=Judged([2.0, 1.0, 0.0], None, [3, 2, 4], [True, True, True]),
        kl=[4.0, 0.5, -0.5],
        shown=[Shown("a <b>film</b>", "<script>document.title = 'before'</script>", AFTER)],
    )


AFTER = [("<script>", 1.0), ("document.title = 'after'", -3.0), ("</script>", 9.0)]
