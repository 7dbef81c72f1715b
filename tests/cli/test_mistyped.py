"""Mistyped commands, each told in a line or two, through train.py itself but for the process."""

import re
import sys

import pytest

OPTIONS = {
    "stage": ("stage=sfx", "sft"),
    "model": ("model=tinny", "tiny"),
    "data": ("data=moovie_reviews", "movie_reviews"),
    "hardware": ("hardware=gpu12gb", "gpu_12gb"),
    "logger": ("logger=tensorbord", "tensorboard"),
}

STAGES = "compare, dpo, grpo, ppo, reward, rlhf, rloo, sft"


@pytest.mark.parametrize("group", OPTIONS)
def test_an_unknown_option_names_the_nearest_and_lists_the_others(typed, group):
    mistyped, meant = OPTIONS[group]
    given = [mistyped] if group == "stage" else ["stage=sft", mistyped]
    message = typed(*given)
    assert message.startswith(
        f"{mistyped} does not exist. Did you mean {meant}? Options of {group}: "
    )
    assert meant in message.partition("Options")[2]


@pytest.mark.parametrize(
    ("mistyped", "message"),
    [
        # A group, a key of a group, of a stage, of a stage in a chain, of an adapter, of Hydra.
        ("modle=tiny", "modle does not exist. Did you mean model?"),
        ("experimnt=x", "experimnt does not exist. Did you mean experiment?"),
        ("hardware.device=2", "hardware.device does not exist. Did you mean hardware.devices?"),
        (
            "stage.ppo.kl_coeff=1",
            "stage.ppo.kl_coeff does not exist. Did you mean stage.ppo.kl_coef?",
        ),
        ("model.lora.rnk=3", "model.lora.rnk does not exist. Did you mean model.lora.rank?"),
        ("hydra.run.dirr=x", "hydra.run.dirr does not exist. Did you mean hydra.run.dir?"),
        # The right name in the wrong place.
        ("stage.kl_coef=1", "stage.kl_coef does not exist. Did you mean stage.ppo.kl_coef?"),
        ("devices=2", "devices does not exist. Did you mean hardware.devices?"),
        # Nothing looks like it.
        (
            "data.splits.xyz=1",
            "data.splits.xyz does not exist. Valid names: test, train, validation.",
        ),
        # What `+` adds, nothing would read.
        ("+hardware.devces=2", "hardware.devces does not exist. Did you mean devices?"),
        ("+stage.ppo.kl_coeff=1", "stage.ppo.kl_coeff does not exist. Did you mean kl_coef?"),
    ],
)
def test_an_unknown_key_names_the_nearest(typed, mistyped, message):
    assert typed("stage=rlhf", mistyped) == message


@pytest.mark.parametrize(
    ("mistyped", "message"),
    [
        ("hardware.devices=two", "hardware.devices=two: wanted a whole number, such as 1."),
        ("seed=abc", "seed=abc: wanted a whole number, such as 1."),
        ("model.vocab_size=many", "model.vocab_size=many: wanted a whole number, such as 1."),
        ("data.splits.train=most", "data.splits.train=most: wanted a number, such as 0.5 or 1e-4."),
        ("model.stop_tokens=x", "model.stop_tokens=x: wanted a list, such as [a,b]."),
        (
            "stage.learning_rate=abc",
            "stage.learning_rate=abc: wanted a number, such as 0.5 or 1e-4.",
        ),
        ("stage.steps=1.5", "stage.steps=1.5: wanted a whole number, such as 1."),
    ],
)
def test_a_value_of_the_wrong_type_says_which_is_wanted(typed, mistyped, message):
    assert typed("stage=sft", mistyped) == message


@pytest.mark.parametrize(
    ("mistyped", "message"),
    [
        ("stage.steps=0", "stage.steps=0: must be at least 1."),
        ("stage.learning_rate=-1", "stage.learning_rate=-1: must be at least 0."),
        (
            "hardware.generation_batch_size=0",
            "hardware.generation_batch_size=0: must be at least 1.",
        ),
        ("seed=-1", "seed=-1: must be at least 0."),
        ("validate_every=3", "validate_every=3.0: it is the share of a run between two looks"),
        ("stage.schedule=cosin", "stage.schedule=cosin does not exist. Did you mean cosine?"),
        ("model.dtype=bfloat", "model.dtype=bfloat does not exist. Did you mean bfloat16?"),
        (
            "hardware.accelerator=gpus",
            "hardware.accelerator=gpus does not exist. Did you mean gpu?",
        ),
        ("data.template=plane", "data.template=plane does not exist. Did you mean plain?"),
        ("data.splits.train=0.5", "data.splits={'train': 0.5,"),
        ("model.source=/nowhere", "model.source=/nowhere: there is no such folder."),
    ],
)
def test_a_value_out_of_bounds_is_told_before_anything_is_read(typed, mistyped, message):
    assert typed("stage=sft", *mistyped.split()).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], f"No stage is chosen: stage=OPTION. Options of stage: {STAGES}."),
        (["stage="], f"stage= does not exist. Options of stage: {STAGES}."),
        (["stage=null"], "stage=null: a group needs one of its options."),
        (["stage", "sft"], "'stage' sets nothing: write key=value or group=option."),
        (["stage=sft", "data.splits={train:1"], "'data.splits={train:1' cannot be read: "),
        (["stage=sft", "~stage.steps"], "stage.steps is missing: stage.steps=VALUE."),
        (
            ["stage=sft", "model=tiny", "model.lora.rank=8"],
            "model.lora.rank=8: model.lora is null in this config, so there is nothing to set in ",
        ),
        (["stage=rlhf", "stage.chain=[sft,rewrd]"], "stage.rewrd does not exist. Did you mean "),
        (
            ["stage=ppo", "stage.minibatch_size=24"],
            "stage.minibatch_size=24 does not divide the responses of a rollout: "
            "stage.rollout_batch_size=64.",
        ),
        (
            ["stage=rloo", "stage.group_size=3"],
            "stage.group_size=3 does not divide stage.minibatch_size=64: the responses to one ",
        ),
        (
            ["stage=grpo", "stage.rollout_batch_size=12"],
            "stage.minibatch_size=64 does not divide the responses of a rollout: "
            "stage.rollout_batch_size=12 x group_size=8.",
        ),
        (["stage=grpo", "rewards=[]"], "rewards=[]: something must score the responses, such as "),
        (
            ["stage=grpo", "rewards=[{scorer: exact_numbr}]"],
            "rewards: there is no scorer 'exact_numbr'. Did you mean exact_number? Or write the ",
        ),
        (
            ["stage=grpo", "rewards=[{scorer: nowhere.to.be.found}]"],
            "rewards: there is no scorer 'nowhere.to.be.found'.",
        ),
        (["stage=grpo", "stage.group_size=1"], "stage: group_size=1: a group has at least 2 "),
        (["stage=grpo", "stage.kl_estimator=k1"], "stage: kl_estimator=k1 does not exist. Choose "),
        (["stage=grpo", "stage.denominator=rows"], "stage: denominator=rows: choose tokens or "),
        (["stage=ppo", "stage.rollouts=2"], "stage: value_warmup_rollouts=4 leaves the policy "),
        (
            ["stage=sft", "hardware.devices=3"],
            "hardware.devices=3 does not divide stage.batch_size=32: every device takes the same ",
        ),
        (
            ["stage=ppo", "stage.minibatch_size=32", "hardware.devices=5"],
            "hardware.devices=5 does not divide stage.minibatch_size=32",
        ),
        (
            ["stage=sft", "model=tiny", "model.dtype=bfloat16"],
            "model.dtype=bfloat16 with all weights training would round small updates away.",
        ),
        (
            ["stage=sft", "model=tiny", "model.quantization=nf4"],
            "model.quantization=nf4 freezes the base, so nothing would train.",
        ),
        (
            ["stage=sft", "model.quantization=nf3"],
            "model.quantization=nf3 does not exist. Did you mean nf4?",
        ),
        (["stage=ppo", "stage.minibatch_size=0"], "stage.minibatch_size=0: must be at least 1."),
        (
            ["stage=rlhf", "hardware.train_micro_batch_size=0"],
            "hardware.train_micro_batch_size=0: must be at least 1.",
        ),
    ],
)
def test_a_command_that_makes_no_sense(typed, arguments, message):
    assert typed(*arguments).startswith(message)


YAMLS = {
    "misspelt": (
        "defaults: [tiny]\nlearnin_rate: 1",
        "In 'model/mine': model.learnin_rate does not",
    ),
    "wrong_type": (
        "defaults: [tiny]\nvocab_size: many",
        "In 'model/mine': model.vocab_size: wanted a",
    ),
    "no_parent": (
        "defaults: [tinny]",
        "In 'model/mine': model=tinny does not exist. Did you mean tiny?",
    ),
    "no_yaml": ("lora: {rank: 3", "A config file is not YAML: "),
    "no_name": ("source: x", "model.name is not set: model.name=VALUE."),
    "loose_end": (
        "defaults: [tiny]\nlearning_rate: ${model.x}",
        "model.learning_rate: Interpolation",
    ),
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_mistake_in_a_yaml_of_ones_own(typed, tmp_path, name):
    text, message = YAMLS[name]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(text)
    found = typed("stage=sft", "model=mine", flags=["--config-dir", tmp_path])
    assert found.startswith(message)


def test_what_the_machine_lacks_is_told(typed, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = typed("stage=sft", "hardware.optimizer=paged_adamw")
    assert message.startswith("hardware.optimizer=paged_adamw moves memory to and from a CUDA card")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # importing it fails
    message = typed("stage=sft", "model=llama7b_lora")
    assert message.startswith("model.quantization=nf4 needs bitsandbytes, which does not run here")


def test_the_config_is_printed_with_what_was_chosen(typed, capsys):
    assert typed("stage=sft", "stage.steps=3", flags=["--cfg", "job"]) is None
    printed = capsys.readouterr().out
    assert re.search(r"^stage:\n(  .*\n)*  steps: 3\n", printed, re.MULTILINE)
    assert "hydra:" not in printed


@pytest.mark.parametrize("chosen", [[], ["stage=sft"]])
def test_help_lists_every_group_and_key(typed, capsys, chosen):
    assert typed(*chosen, flags=["--help"]) == 0
    printed = capsys.readouterr().out
    assert "\nstage: compare, dpo, grpo, ppo, reward, rlhf, rloo, sft\n" in printed
    assert "\nhardware: cpu, gpu_12gb, gpu_16gb, gpu_24gb, gpu_8gb, multi_gpu\n" in printed
    assert "\nmodel: gpt2, llama3.1_8b_lora," in printed
    assert "train_micro_batch_size: 64" in printed
    assert ("kl_coef: " in printed) == (chosen == [])  # the chain shows the keys of all stages
    indent = 4 if chosen == [] else 2
    assert re.search(rf"^ {{{indent}}}steps: \d+$", printed, re.MULTILINE)
