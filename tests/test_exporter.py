"""Exports, loaded by the lines of their own cards in a process that cannot import hydralign."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import AutoTokenizer
from transformers.cache_utils import DynamicCache

from hydralign import export_check, exporter
from hydralign.artifacts import write_json
from hydralign.data.encoder import Encoder
from hydralign.errors import UserError
from hydralign.export import place, writing
from hydralign.exporter import Wanted, export
from hydralign.finished import open_policy, open_reward_model

FORMS = {
    "own": ("own", "llama", None),
    "lora": ("lora", "llama", "adapter"),
    "lora-merged": ("lora", "llama", "merged"),
    "lora-merged-gpt2": ("lora", "gpt2", "merged"),
    "nf4": ("nf4", "llama", "adapter"),
    "nf4-merged": ("nf4", "llama", "merged"),
    "int8-merged": ("int8", "llama", "merged"),
}
PROMPTS = ["a warm film", "so", "xyz is (good)!"]
RESPONSES = ["z", "ij", "ijk lmnop"]

FRESH_PROCESS = """
import json, sys
sys.modules["hydralign"] = None  # an import of it fails from here on

def loaded(lines):
    names = {}
    exec(lines, names)
    return names["tokenizer"], names["model"].eval()

cases, prompts, responses = json.loads(sys.argv[1])
answers = {}
for name, (policy_lines, scorer_lines) in cases.items():
    tokenizer, policy = loaded(policy_lines)
    said = []
    for prompt in prompts:
        batch = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        ids = policy.generate(**batch, do_sample=False)
        said.append([batch["input_ids"][0].tolist(), ids[0, batch["input_ids"].shape[1]:].tolist()])
    settings = policy.generation_config.to_dict()
    tokenizer, scorer = loaded(scorer_lines)
    texts = [prompts[0] + response + tokenizer.eos_token for response in responses]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    scores = scorer(**batch).logits.squeeze(-1).tolist()
    modules = sorted({type(m).__module__.split(".")[0] for m in policy.modules()})
    answers[name] = [said, settings, scores, modules]
print(json.dumps(answers))
"""


def lines_of(folder):
    """The Python that a card says loads it."""
    card = (folder / "README.md").read_text()
    return re.search(r"```python\n(.*?)```", card, re.S).group(1).replace("FOLDER", str(folder))


@pytest.fixture(scope="module")
def exported(finish, tmp_path_factory):
    """Folders of runs and exports, by form and stage."""
    folders = {}
    for name, (kind, family, form) in FORMS.items():
        run, out = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("out")
        for stage in ("ppo", "reward"):
            finish(run / stage, stage, kind=kind, family=family)
            found = export(run / stage, out / stage, Wanted(form))
            folders[name, stage] = run / stage, out / stage, found
    return folders


@pytest.fixture(scope="module")
def fresh(exported):
    """What plain libraries make of all of them; one process, as it takes seconds."""
    cases = {name: [lines_of(exported[name, s][1]) for s in ("ppo", "reward")] for name in FORMS}
    said = json.dumps([cases, PROMPTS, RESPONSES])
    command = [sys.executable, "-I", "-W", "ignore", "-c", FRESH_PROCESS, said]
    answer = subprocess.run(command, capture_output=True, check=False, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return json.loads(answer.stdout)


@torch.no_grad()
def greedy(policy, prompt_ids, most):
    """The likeliest token each time, each pass over the whole text."""
    ids = list(prompt_ids)
    for _ in range(most):
        text = torch.tensor([ids])
        places = torch.arange(len(ids)).unsqueeze(0)
        mask = torch.ones_like(text, dtype=torch.bool)
        logits = policy.role.next_token_logits(text, mask, places, DynamicCache())
        ids.append(int(logits.argmax()))
        if ids[-1] in policy.codec.stop_ids:
            break
    return ids[len(prompt_ids) :]


@pytest.mark.parametrize("name", FORMS)
def test_a_policy_says_the_same_in_a_fresh_process(name, exported, fresh):
    policy = open_policy(exported[name, "ppo"][0])
    asked = [policy.encoder().prompt_ids(prompt) for prompt in PROMPTS]
    expected = [[ids, greedy(policy, ids, 6)] for ids in asked]
    assert fresh[name][0] == expected
    assert len({tuple(said) for _, said in expected}) > 1


@pytest.mark.parametrize("name", FORMS)
def test_a_reward_model_gives_equal_scores_in_a_fresh_process(name, exported, fresh):
    run, out, _ = exported[name, "reward"]
    expected = torch.tensor(open_reward_model(run).scores(PROMPTS[0], RESPONSES))
    card = (out / "README.md").read_text()
    shift = float(re.search(r"`logit ([-+][\d.]+)`", card).group(1))
    assert shift == pytest.approx(-0.3 / 1.7, rel=1e-4)
    assert_close(torch.tensor(fresh[name][2]) + shift, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize("name", FORMS)
def test_it_samples_as_in_training_and_holds_nothing_of_ours(name, exported, fresh):
    _, settings, _, modules = fresh[name]
    assert settings["eos_token_id"] == [2, 3, 4, 5, 6, 7, 8, 9, 10]  # <eos>, a to h
    assert (settings["do_sample"], settings["temperature"], settings["top_k"]) == (True, 1.0, 0)
    assert (settings["max_new_tokens"], settings["pad_token_id"]) == (6, 0)
    assert set(modules) <= {"torch", "transformers", "peft", "bitsandbytes"}
    out = exported[name, "ppo"][1]
    written = "".join(path.read_text() for path in out.rglob("*.json"))
    assert "hydralign" not in written
    assert "grouped" not in written
    assert not list(out.parent.glob("*.partial"))


@pytest.mark.parametrize(("name", "stage"), [(n, s) for n in FORMS for s in ("ppo", "reward")])
def test_in_fp32_there_is_no_drift_but_rounding(name, stage, exported):
    drift = exported[name, stage][2].drift
    assert drift.size < (1e-6 if stage == "ppo" else 1e-4)
    if stage == "ppo":
        assert drift.figures["share of equal greedy responses"] == 1
        assert drift.figures["largest difference of logits"] < 1e-3


def test_an_adapter_of_a_local_base_has_it_beside(exported):
    out = exported["lora", "ppo"][1]
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(out / "base")
    assert (out / "base/model.safetensors").is_file()
    merged = {path.name for path in exported["lora-merged", "ppo"][1].iterdir()}
    assert merged == {"README.md", "config.json", "generation_config.json", "model.safetensors"} | {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


def test_the_card_says_what_it_is(exported):
    card = (exported["nf4", "ppo"][1] / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["pipeline_tag"]) == ("peft", "text-generation")
    assert "base_model" not in front  # a local folder is none
    assert "its linear layers kept in nf4" in card
    whole = (exported["own", "reward"][1] / "README.md").read_text()
    front = yaml.safe_load(whole.split("---")[1])
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-classification")


def test_bf16_is_smaller_and_drifts(exported, tmp_path):
    run, whole, _ = exported["lora-merged", "ppo"]
    found = export(run, tmp_path / "out", Wanted("merged", "bfloat16", 1.0, "apache-2.0"))
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path / "out", whole)]
    assert sizes[0] < 0.6 * sizes[1]
    assert found.drift.size > 1e-6
    assert "license: apache-2.0" in (tmp_path / "out/README.md").read_text()
    assert "--to" not in found.summary()
    with pytest.raises(UserError, match=r"departs from that of .* by .* \(KL, nats per token\)"):
        export(run, tmp_path / "other", Wanted("merged", "bfloat16", 1e-9))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bits_that_others_compute_otherwise_are_told_apart(finish, tmp_path):
    """bitsandbytes rounds the inputs of 8-bit layers as well; merged it does not happen."""
    finish(tmp_path / "run", "ppo", kind="int8")
    found = export(tmp_path / "run", tmp_path / "out", Wanted("adapter", max_drift=1e9))
    assert found.drift.size > 1e-6


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("own", Wanted("adapter"), "is no adapter: all its weights were trained"),
        ("lora", Wanted(None, "bfloat16"), "--dtype is for merged models"),
    ],
)
def test_a_form_that_the_run_does_not_have(name, wanted, message, exported, tmp_path):
    with pytest.raises(UserError, match=message):
        export(exported[name, "ppo"][0], tmp_path / "out", wanted)
    assert not any(tmp_path.iterdir())


def test_what_is_whole_already_may_be_asked_for_merged(exported, tmp_path):
    export(exported["own", "ppo"][0], tmp_path / "out", Wanted("merged"))
    files = [
        (f / "model.safetensors").read_bytes()
        for f in (tmp_path / "out", exported["own", "ppo"][1])
    ]
    assert files[0] == files[1]


def test_wishes_that_nobody_can_have():
    with pytest.raises(UserError, match="--dtype int3: use float32 or bfloat16"):
        Wanted(dtype="int3")
    for number in (-1.0, float("nan")):
        with pytest.raises(UserError, match="--max-drift .*: a number of 0 or more"):
            Wanted(max_drift=number)


def test_a_base_that_is_not_where_it_was(finish, tmp_path):
    finish(tmp_path / "run", "ppo", kind="lora")
    said = json.loads((tmp_path / "run/run.json").read_text())
    said["settings"]["model"]["source"] = "somewhere/else/now"
    write_json(tmp_path / "run/run.json", said)
    with pytest.raises(UserError, match=r"was trained on the base .*/base, but what is found at "):
        export(tmp_path / "run", tmp_path / "out", Wanted())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_reward_model_that_plain_libraries_have_no_class_for(
    form, finish, make_toys, tmp_path, monkeypatch
):
    finish(tmp_path / "run", "reward", kind="lora")
    base = Path(make_toys("lora").base.source) / "config.json"
    before = base.read_bytes()
    monkeypatch.delattr(exporter, "open_reward_model")  # it is told before anything is loaded
    try:
        write_json(base, json.loads(before) | {"model_type": "granite"})
        with pytest.raises(UserError, match="The granite family of transformers has no classifier"):
            export(tmp_path / "run", tmp_path / "out", Wanted(form))
    finally:
        base.write_bytes(before)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(exported, tmp_path):
    (tmp_path / "mine").write_text("x")
    for target in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UserError, match="is there already"):
            export(exported["own", "ppo"][0], target, Wanted())
    assert (tmp_path / "mine").read_text() == "x"
    (tmp_path / "empty").mkdir()
    export(exported["own", "ppo"][0], tmp_path / "empty", Wanted())
    assert (tmp_path / "empty/model.safetensors").is_file()


def test_a_disk_that_is_too_small_or_fills_up_leaves_nothing(exported, tmp_path, monkeypatch):
    run = exported["own", "ppo"][0]
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr(place.shutil, "disk_usage", lambda _: usage(1000))
        with pytest.raises(UserError, match=r"has room for 0.00 GB, and the model takes 0.00"):
            export(run, tmp_path / "out", Wanted())
    assert not any(tmp_path.iterdir())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter, "model_card", full)
    with pytest.raises(UserError, match=r"Cannot write .*out: the disk is full. Nothing was left"):
        export(run, tmp_path / "out", Wanted())
    assert not any(tmp_path.iterdir())


def test_the_folder_one_stands_in(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = export(exported["own", "ppo"][0], Path(), Wanted())
    assert f'from_pretrained("{tmp_path}")' in found.summary()
    assert Path("model.safetensors").is_file()


def test_what_is_damaged_or_not_there(exported, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        export(tmp_path / "none", tmp_path / "out", Wanted())
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="holds no artifact of a finished stage"):
        export(tmp_path / "nothing", tmp_path / "out", Wanted())
    shutil.copytree(exported["own", "ppo"][0], tmp_path / "run")
    (tmp_path / "run/artifact/config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json is changed"):
        export(tmp_path / "run", tmp_path / "out", Wanted())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def chat_that_writes_its_beginning(make_toys, monkeypatch):
    """As in Llama 3: the template writes <bos>, and so does the tokenizer."""
    tokenizer = make_toys("own").codec.tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", "<bos>{{ messages[0]['content'] }}")
    backend = tokenizer.backend_tokenizer
    monkeypatch.setattr(
        backend, "post_processor", TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    )


def test_a_chat_begins_once(chat_that_writes_its_beginning, finish, tmp_path, monkeypatch):
    finish(tmp_path / "run", "reward", template="chat")
    found = export(tmp_path / "run", tmp_path / "out", Wanted())
    assert found.drift.size < 1e-4
    card = (tmp_path / "out/README.md").read_text()
    assert "tokenizer.eos_token, add_special_tokens=False)`" in card
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("<bos>a")["input_ids"] == [1, 1, 3]  # what others had without the option
    monkeypatch.setattr(export_check, "text_options", lambda _: {})
    with pytest.raises(UserError, match="departs from that of"):
        export(tmp_path / "run", tmp_path / "other", Wanted())


def test_padding_that_others_take_for_text_is_too_much_drift(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "plain_pad_id", lambda *_: 1)  # it is 0
    with pytest.raises(UserError, match="departs from that of"):
        export(exported["own", "reward"][0], tmp_path / "out", Wanted())


def test_responses_that_no_text_gives_are_compared_as_tokens(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(Encoder, "whole_text", lambda *_: None)
    run, _, usual = exported["own", "reward"]
    found = export(run, tmp_path / "out", Wanted())
    assert found.drift.figures["responses"] == usual.drift.figures["responses"] > 1
    assert found.drift.size < 1e-4


def test_a_chain_that_stopped_after_its_first_stage_is_not_exported(finish, tmp_path):
    finish(tmp_path / "chain" / "sft", "sft")
    write_json(tmp_path / "chain" / "run.json", {"unfinished": True, "process": os.getpid()})
    with pytest.raises(UserError, match="stopped before its end"):
        export(tmp_path / "chain", tmp_path / "out", Wanted())
    assert not (tmp_path / "out").exists()
