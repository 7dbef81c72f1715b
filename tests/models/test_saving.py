"""What is saved, opened by plain transformers and peft in a process that knows no hydralign."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hydralign.errors import UserError
from hydralign.models.assembly import RoleSpec, StartingPoint
from hydralign.models.loading import is_scorer, load_scorer
from hydralign.models.saving import save_role
from hydralign.rl.sequences import pad_sequences

NAMES = ["own-llama", "lora-llama", "own-gpt2", "lora-gpt2"]  # GPT-2 ties its embeddings
PROMPT, RESPONSES = "the film", ["was dull", "is, i think, good!", "z"]

FRESH_PROCESS = """
import json, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

folders, texts = json.loads(sys.argv[1])
answers = {}
for name, folder in folders.items():
    tokenizer = AutoTokenizer.from_pretrained(folder["policy"], padding_side="right")
    if name.startswith("own"):
        policy = AutoModelForCausalLM.from_pretrained(folder["policy"])
        reward_model = AutoModelForSequenceClassification.from_pretrained(folder["reward_model"])
    else:
        policy = AutoModelForCausalLM.from_pretrained(folder["base"])
        policy = PeftModel.from_pretrained(policy, folder["policy"])
        reward_model = AutoModelForSequenceClassification.from_pretrained(
            folder["base"], num_labels=1, pad_token_id=tokenizer.pad_token_id
        )
        reward_model = PeftModel.from_pretrained(reward_model, folder["reward_model"])
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        answers[name] = {
            "ids": batch["input_ids"].tolist(),
            "logits": policy.eval()(**batch).logits.tolist(),
            "scores": reward_model.eval()(**batch).logits.squeeze(-1).tolist(),
            "chat": tokenizer.apply_chat_template(
                [{"role": "user", "content": "hi"}], tokenize=False
            ),
            "stop": tokenizer.eos_token, "pad": tokenizer.pad_token,
            "module": [m for m in sys.modules if m.startswith("hydralign")],
        }
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def fresh_process(make_toys):
    """What plain libraries make of the saved roles; one process for all, as it takes seconds."""
    folders = {}
    for name in NAMES:
        toys = make_toys(*name.split("-"))
        folders[name] = {role: start.folder for role, start in toys.starts.items()}
        folders[name]["base"] = toys.base.source
    texts = [PROMPT + response + "<eos>" for response in RESPONSES]
    answer = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, json.dumps([folders, texts])],
        capture_output=True,
        check=False,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return json.loads(answer.stdout)


@pytest.fixture(params=NAMES)
def toys(request, make_toys):
    return make_toys(*request.param.split("-"))


@pytest.fixture
def found(request, fresh_process, toys):
    """What the fresh process made of these toys."""
    return fresh_process[request.node.callspec.params["toys"]]


@pytest.fixture
def rows(toys):
    """The same texts as `Sequences`."""
    tokenizer = toys.codec.tokenizer
    prompt = tokenizer(PROMPT)["input_ids"]
    responses = [[*tokenizer(response)["input_ids"], 2] for response in RESPONSES]
    return pad_sequences([prompt] * len(responses), responses, toys.codec.pad_id)


def test_tokenizer_and_chat_template_travel_along(found, rows):
    assert found["ids"] == rows.sequence_ids.tolist()
    assert (found["chat"], found["stop"], found["pad"]) == ("[hi]", "<eos>", "<pad>")
    assert found["module"] == []


def test_a_policy_has_equal_logprobs_in_a_fresh_process(found, toys, rows):
    logits = torch.tensor(found["logits"])
    logprobs = logits.log_softmax(-1)[:, rows.prompt_length - 1 : -1]
    expected = logprobs.gather(-1, rows.response_ids.unsqueeze(-1)).squeeze(-1)
    mask = rows.response_mask
    assert_close(toys.role("policy")(rows)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_a_reward_model_has_equal_scores_in_a_fresh_process(found, toys, rows):
    raw = torch.tensor(found["scores"])
    scores = toys.role("reward_model").scores(rows)
    assert_close(scores, (raw - 0.3) / 1.7, rtol=1e-5, atol=1e-5)
    assert scores.std() > 0.01  # they tell the rows apart


def test_a_reward_model_that_is_saved_again_stays_what_it_is(toys, rows, tmp_path):
    role = toys.role("reward_model", trained=True)
    with torch.no_grad():
        role.head.weight += 1
    save_role(role, toys.codec, tmp_path)
    start = StartingPoint(str(tmp_path), role.head.mean.item(), role.head.std.item())
    again = type(toys)(toys.kind, toys.base, toys.codec, {"reward_model": start})
    assert_close(again.role("reward_model").scores(rows), role.scores(rows), rtol=1e-6, atol=1e-6)
    value_model = again.roles({"value_model": RoleSpec("reward_model", scalar=True)})["value_model"]
    assert_close(value_model.scores(rows), role.scores(rows), rtol=1e-6, atol=1e-6)


def test_a_scalar_role_on_a_policy_starts_with_a_new_head(toys, rows):
    spec = {"reward_model": RoleSpec("policy", trained=True, scalar=True, new_head=True)}
    fresh = toys.roles(spec)["reward_model"]
    assert (fresh.head.mean.item(), fresh.head.std.item()) == (0.0, 1.0)
    assert 0 < fresh.head.weight.std() < 0.3  # 1 / sqrt(33) = .17
    assert torch.equal(toys.roles(spec)["reward_model"].head.weight, fresh.head.weight)


def test_an_artifact_of_the_wrong_kind_is_refused(toys):
    with pytest.raises(UserError, match="holds no reward model"):
        toys.roles({"reward_model": RoleSpec("policy", scalar=True)})
    with pytest.raises(UserError, match="holds a reward model; a language model is wanted"):
        toys.roles({"policy": RoleSpec("reward_model")})


def test_full_models_are_told_apart_by_their_form(make_toys):
    folders = {name: start.folder for name, start in make_toys("own").starts.items()}
    assert is_scorer(folders["reward_model"])
    assert not is_scorer(folders["policy"])
    config = json.loads(Path(folders["reward_model"], "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert load_scorer(folders["reward_model"], torch.float32)[1].shape == (1, 32)


def test_an_adapter_holds_one_role_and_no_base(make_toys):
    toys = make_toys("lora")
    weights = load_file(Path(toys.starts["reward_model"].folder, "adapter_model.safetensors"))
    assert len(weights) == 28 + 1  # two matrices for each of seven layers in two blocks; the head
    assert {name.rpartition(".lora_")[0] == "" for name in weights} == {True, False}
    config = json.loads(Path(toys.starts["policy"].folder, "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == toys.base.source
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (3, 6, True)
