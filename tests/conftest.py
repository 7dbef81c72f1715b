"""Networks small enough to train in a second, in both ways that a role can come: owning its network
("own") and as an adapter on one base ("lora")."""

import json
import string
from dataclasses import dataclass

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hydralign.artifacts import Lineage, new_manifest, write_artifact, write_json
from hydralign.data.templates import template_hash
from hydralign.models.adapters import LoraShape
from hydralign.models.assembly import (
    RoleSpec,
    StartingPoint,
    adapter_roles,
    own_roles,
    suit_machine,
)
from hydralign.models.codec import Codec, make_codec
from hydralign.models.loading import BaseModel
from hydralign.models.quantization import Quantization
from hydralign.models.saving import save_role
from hydralign.models.tiny_tokenizer import trained_tokenizer
from hydralign.rl.sequences import pad_sequences

EXPECTED_WARNINGS = (
    ".*is_gradient_checkpointing",  # transformers' own, at every adapter
    ".*fan_in_fan_out",  # peft, at every adapter on GPT-2
    ".*treespec",  # lightning's own
    "Found .* in eval mode",  # dropout is off anyway
    "You passed in a `val_dataloader` but have no",  # PPO
)
KINDS = ("own", "lora")
SHAPE = LoraShape(rank=3, alpha=6)
# Weights ten times as wide as usual, for logits that differ; dropout, for roles to switch off.
ARCHITECTURES = {
    "llama": {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    | {"attention_dropout": 0.3, "initializer_range": 0.2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2},
}
SCORE_MEAN, SCORE_STD = 0.3, 1.7
WORDS = ("good", "bad", "fine", "dull", "warm", "cold", "long", "short")


def pytest_configure(config):
    for message in EXPECTED_WARNINGS:
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@dataclass(frozen=True)
class Toys:
    """Makes roles that start as two saved artifacts: a policy and a reward model."""

    kind: str
    base: BaseModel
    codec: Codec
    starts: dict[str, StartingPoint]

    def roles(self, specs):
        """Roles by name; a spec is what a stage says of it."""
        torch.manual_seed(4)  # PEFT draws fresh adapters from the global generator
        size = {"vocab_size": len(self.codec.tokenizer), "seed": 4}
        if self.kind == "own":
            made = own_roles(self.base, specs, self.starts, **size)
        else:
            made = adapter_roles(self.base, SHAPE, specs, self.starts, **size)
        suit_machine(made, checkpoints=False, logits_mb=None, attention=None)
        return made

    def role(self, name, *, trained=False):
        """The policy or the reward model, by itself."""
        spec = RoleSpec(name, trained=trained, scalar=name == "reward_model")
        return self.roles({name: spec})[name]


def shake(parameters, seed):
    """Move weights off their start, so that no two networks agree by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="session")
def make_codec_of_letters():
    """Makes a codec of 47 tokens: <pad> 0, <bos> 1, <eos> 2, a 3 ... z 28, and some more."""

    def make(stop_tokens=()):
        tokens = ["<pad>", "<bos>", "<eos>", *string.ascii_lowercase, *".,:;!?()'-_+*/# \n0"]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
        tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
        return make_codec(tokenizer, stop_tokens)

    return make


@pytest.fixture(scope="session")
def make_toys(make_codec_of_letters, tmp_path_factory):
    """Makes each kind of toys once: `own`, `lora`, and `nf4` and `int8`: `lora` on such a base."""
    made = {}

    def make(kind, model_type="llama"):
        if (kind, model_type) in made:
            return made[kind, model_type]
        # Many stop tokens, because a network that knows nothing must meet one by chance.
        codec = make_codec_of_letters(stop_tokens=list("abcdefgh"))
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        architecture = ARCHITECTURES[model_type] | special | {"model_type": model_type}
        folder = tmp_path_factory.mktemp(f"{kind}-{model_type}")
        scratch = BaseModel(None, architecture, torch.float32)
        scratch.load(len(codec.tokenizer), seed=3).save_pretrained(folder / "base")
        bits = Quantization(kind, torch.float32) if kind in ("nf4", "int8") else None
        base = BaseModel(str(folder / "base"), None, torch.float32, bits)
        fresh, starts = Toys(kind, base, codec, {}), {}
        for seed, name in enumerate(("policy", "reward_model")):
            scalar = name == "reward_model"
            role = fresh.roles({name: RoleSpec(trained=True, scalar=scalar)})[name]
            shake(role.trained_parameters(), seed)
            (folder / name).mkdir()
            save_role(role, codec, folder / name)
            mean, std = (SCORE_MEAN, SCORE_STD) if scalar else (0.0, 1.0)
            starts[name] = StartingPoint(str(folder / name), mean, std)
        made[kind, model_type] = Toys(kind, base, codec, starts)
        return made[kind, model_type]

    return make


@pytest.fixture(params=KINDS)
def toys(request, make_toys):
    """Both kinds of toys, as Llamas."""
    return make_toys(request.param)


OWN_RECORDS = "hydralign.data.own_records."
PROMPTS_OF_A_FILE = {
    "source": {"_target_": "hydralign.data.sources.load_rows", "_partial_": True},
    "records": {
        kind: {"_target_": f"{OWN_RECORDS}{kind}", "_partial_": True}
        for kind in ("prompt", "comparison")
    },
    "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "max_prompt_tokens": 40,
    "max_response_tokens": 6,
    "max_comparison_tokens": 24,
}


@pytest.fixture(scope="session")
def finish(make_toys, rows):
    """Makes the folder of a finished run of the toys, as `run` leaves it."""

    def make(folder, stage, *, kind="own", seed=0, template="plain", parents=None, family="llama"):
        toys, name = make_toys(kind, family), "reward_model" if stage == "reward" else "policy"
        role = toys.role(name, trained=True)
        shake(role.trained_parameters(), seed)
        adapters = {"rank": SHAPE.rank, "alpha": SHAPE.alpha}
        model = {"name": kind, "source": toys.base.source, "stop_tokens": list("abcdefgh")}
        model |= {"quantization": kind if kind in ("nf4", "int8") else "none"}
        model |= {"lora": None if kind == "own" else adapters}
        data = {"name": "toy", "path": str(rows), "template": template} | PROMPTS_OF_A_FILE
        data["source"] = data["source"] | {"path": str(rows)}
        made = new_manifest(
            stage=stage,
            lineage=Lineage(toys.base.source, "none", kind, template),
            template_hash=template_hash(toys.codec.tokenizer, template),
            config_hash="c",
            parents=parents or {},
            score_mean=toys.starts[name].score_mean,
            score_std=toys.starts[name].score_std,
            metrics={},
        )
        write_artifact(folder / "artifact", made, lambda to: save_role(role, toys.codec, to))
        settings = {"model": model, "data": data, "stage": {}, "seed": 4}
        settings |= {"stop_after": None}
        hardware = {"accelerator": "cpu", "generation_batch_size": 5}
        write_json(folder / "run.json", {"settings": settings, "hardware": hardware})
        return made.id

    return make


# Uneven lengths, with pad (0) and stop tokens (2, 3) within the text.
PROMPTS = [[1, 9, 4], [22], [7, 0, 30, 46, 2], [11, 11], [45, 3, 28, 5]]
RESPONSES = [[6, 2, 13, 40], [0, 8, 19, 33, 21, 2], [17], [44, 5, 3], [12, 0]]


@pytest.fixture
def sequences():
    """Five prompts of one to five tokens with responses of one to six."""
    return pad_sequences(PROMPTS, RESPONSES, pad_id=0)


@pytest.fixture
def lone_sequences():
    """The same five, each in a batch of its own, without any padding."""
    pairs = zip(PROMPTS, RESPONSES, strict=True)
    return [pad_sequences([prompt], [response], pad_id=0) for prompt, response in pairs]


@pytest.fixture
def with_garbage():
    """Writes random ids into the padding of a batch."""

    def fill(sequences):
        ids = torch.randint(0, 47, sequences.sequence_ids.shape)
        ids = sequences.sequence_ids.where(sequences.attention_mask, ids)
        assert not torch.equal(ids, sequences.sequence_ids)
        return type(sequences)(ids, sequences.attention_mask, sequences.response_mask)

    return fill


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Rows that serve all three kinds of record."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [
        {
            "prompt": f"a {first} and {second}",
            "response": f" {second} film",
            "responses": [f" {first} film", f" {second} end", " so"],
            "ranks": [1, 2, 2],
        }
        for first in WORDS
        for second in WORDS
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, rows):
    """A random Llama of a few thousand parameters, in the form a hub would serve it."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = trained_tokenizer([rows.read_text()], 300, folder)
    shape = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"
