"""Every YAML under conf/ composes, and what it names exists and takes what it is given."""

import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from hydralign import config

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.rglob("*.yaml"))


def options(group):
    return [name.partition("/")[2] for name in FILES if name.startswith(f"{group}/")]


MODELS, DATA, STAGES = options("model"), options("data"), options("stage")
HARDWARE, EXPERIMENTS, DEBUG = map(options, ("hardware", "experiment", "debug"))
# Every pair of model and stage, as stages take their rates from the model; the rest in turns.
COMBINATIONS = [
    (model, DATA[(i + j) % len(DATA)], stage, HARDWARE[(i + j) % len(HARDWARE)])
    for i, model in enumerate(MODELS)
    for j, stage in enumerate(STAGES)
]


@pytest.fixture(scope="module", autouse=True)
def _schema():
    config.register()


def composed(*overrides):
    """The config of these overrides, all values resolved, and what was chosen."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
    choices = {f"{group}/{name}" for group, name in cfg.hydra.runtime.choices.items() if name}
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]  # it wants a run folder
    OmegaConf.set_struct(cfg, True)
    OmegaConf.resolve(cfg)
    return cfg, choices


def overrides_of(model, data, stage, hardware):
    given = [f"model={model}", f"data={data}", f"stage={stage}", f"hardware={hardware}"]
    own_file = {"jsonl": ["data.path=mine.jsonl"], "labels": ["data.path=mine.sqlite"]}
    return [*given, *own_file.get(data, [])]


def stages_of(cfg):
    """The config of each stage, by name."""
    if "chain" in cfg.stage:
        return {name: cfg.stage[name] for name in cfg.stage.chain}
    return {"stage": cfg.stage}


def targets(node, where=""):
    """Every node of a config that names something to call."""
    if isinstance(node, DictConfig) and not node._is_none():
        if "_target_" in node:
            yield where, OmegaConf.to_container(node)
        for key in node:
            yield from targets(node[key], f"{where}.{key}")
    elif isinstance(node, ListConfig) and not node._is_none():
        for index, item in enumerate(node):
            yield from targets(item, f"{where}.{index}")


def check_targets(cfg):
    found = 0
    for where, node in targets(cfg):
        called = get_object(node.pop("_target_"))
        node.pop("_partial_", None)
        if where.startswith(".stage"):
            assert {field.name for field in dataclasses.fields(called.settings)} == set(node)
        else:
            inspect.signature(called).bind_partial(**node)
        found += 1
    return found


@pytest.mark.parametrize(("model", "data", "stage", "hardware"), COMBINATIONS)
def test_every_choice_composes_and_names_what_exists(model, data, stage, hardware):
    cfg, choices = composed(*overrides_of(model, data, stage, hardware))
    assert {f"model/{model}", f"data/{data}", f"stage/{stage}", f"hardware/{hardware}"} <= choices
    assert (cfg.model.name, cfg.data.name) == (model, data)
    # At least: the source of the rows, one kind of record, a stage, a logger.
    assert check_targets(cfg) >= 4
    for where, single in stages_of(cfg).items():
        settings = config.read_settings(single, where)
        found = get_class(single["_target_"])
        found.settings(**dataclasses.asdict(settings))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name):
    cfg, choices = composed(f"experiment={name}")
    assert f"experiment/{name}" in choices
    assert check_targets(cfg) >= 4
    for where, single in stages_of(cfg).items():
        config.read_settings(single, where)


@pytest.mark.parametrize("name", DEBUG)
def test_debug_wins(name):
    cfg, choices = composed("stage=sft", f"debug={name}")
    assert f"debug/{name}" in choices
    own = OmegaConf.load(CONF / f"debug/{name}.yaml")
    assert OmegaConf.merge(cfg, own) == cfg


def test_no_file_was_left_out():
    seen = {"train"}
    for combination in COMBINATIONS:
        model, data, stage, hardware = combination
        seen |= {f"model/{model}", f"data/{data}", f"stage/{stage}", f"hardware/{hardware}"}
    seen |= composed("stage=sft")[1]  # what is chosen by default: logger, help, logging
    seen |= {f"experiment/{name}" for name in EXPERIMENTS}
    seen |= {f"debug/{name}" for name in DEBUG}
    assert set(FILES) - seen == set()
    assert len(FILES) == len(list(CONF.rglob("*.y*ml"))) >= 21


COMMANDS = [
    (name, command)
    for name in FILES
    for command in re.findall(
        r"^# (python train\.py .*)$", (CONF / f"{name}.yaml").read_text(), re.M
    )
]


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_the_command_that_a_file_gives_chooses_that_file(name, command):
    overrides = shlex.split(command)[2:]
    cfg, choices = composed(*overrides)
    assert name == "train" or name in choices
    for where, single in stages_of(cfg).items():
        config.read_settings(single, where)


def test_files_that_make_a_whole_command_give_their_command():
    with_command = {name for name, _ in COMMANDS}
    wanted = [
        name for name in FILES if name.split("/")[0] in ("stage", "data", "experiment", "debug")
    ]
    assert set(wanted) - with_command == set()


def test_the_adapters_on_tiny_stand_on_what_one_command_leaves():
    full, bits = (
        composed("stage=rlhf", f"model={name}")[0].model for name in ("tiny_lora", "tiny_lora_4bit")
    )
    assert {key for key in full if full[key] != bits[key]} == {"name", "quantization"}
    assert (full.quantization, bits.quantization) == ("none", "nf4")
    assert (full.architecture, full.vocab_size) == (None, None)  # the source's own
    assert full.made_by.startswith("python train.py ")
    overrides = shlex.split(full.made_by)[2:]
    assert f"hydra.run.dir={full.source.removesuffix('/artifact')}" in overrides
    base, choices = composed(*overrides)
    assert "stage/sft" in choices  # no chain: it leaves artifact/ in the run folder itself
    assert (base.model.source, base.model.lora, base.data.name) == (None, None, "movie_reviews")


def parents():
    """Files that begin with another file of their group, with that file."""
    for name in FILES:
        first = OmegaConf.load(CONF / f"{name}.yaml").get("defaults", [None])[0]
        above = f"{name.rpartition('/')[0]}/{first}"
        if above in FILES:
            yield name, above


@pytest.mark.parametrize(("name", "above"), list(parents()))
def test_a_file_says_only_the_difference_from_its_parent(name, above):
    own, parent = (OmegaConf.load(CONF / f"{file}.yaml") for file in (name, above))
    assert [key for key in own if key in parent and own[key] == parent[key]] == []


def test_some_files_have_parents():
    assert dict(parents())["data/product_reviews"] == "data/movie_reviews"


FRESH_PROCESS = """
import sys
import train  # what the command line imports
from hydra import compose, initialize_config_dir
from hydralign import checks

with initialize_config_dir(sys.argv[1], version_base="1.3"):
    checks.check(compose("train", ["stage=rlhf", "model=tiny", "data=movie_reviews"]))
slow = {"torch", "lightning", "transformers", "peft", "datasets", "numpy"}
print(sorted(slow & set(sys.modules)))
"""


def test_composing_and_checking_need_no_torch():
    answer = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(CONF)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert (answer.stdout.strip(), answer.returncode) == ("[]", 0), answer.stderr[-2000:]
