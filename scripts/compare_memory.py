"""Compare the peak memory of PPO on a CPU: hydralign and TRL 1.12.0 doing the same work.

python scripts/compare_memory.py [--model FOLDER] [--repeats 2] [--out FILE]

Both train LoRA adapters of rank 16 on all linear layers of SmolLM2-135M-Instruct, for two steps of
16 prompts x 32 response tokens and 4 epochs of one minibatch, all 16 rows in the network at a time.
Each measurement is a process of its own, and its peak that of the resident memory from its start
to its end. Needs the extra `test`, and the folder that scripts/make_smollm2.py makes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# No torch here: a process starts its peak at the memory of the one that it was forked from.
from hydralign import allocator
from hydralign.data.pypi import cache_folder
from hydralign.data.splits import HashSplitter

ROOT = Path(__file__).resolve().parents[1]
ROWS, RESPONSE_TOKENS, EPOCHS, STEPS = 16, 32, 4, 2
LORA: dict[str, Any] = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}

STOP, PAD = "<file_sep>", "<empty_output>"
"""Tokens that the model never samples, so that every response has its full length."""

SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
OPENINGS = [
    "Here is all that I know about {}:",
    "My grandmother used to say that {}",
    "Nobody in the village had ever asked about {} before, but",
    "What we call {} is",
]
SUBJECTS = (
    "the sea, an old bridge, bread, winter in the north, a lost letter, bees, glass, the moon"
)


@dataclass(frozen=True)
class Contestant:
    """Who does the work, and how."""

    who: str
    how: str
    overrides: tuple[str, ...] = ()
    """hydralign: what it is told besides the work."""
    dtype: str = "float32"
    """TRL: of the weights of its three networks."""
    checkpointing: bool = False
    """TRL: activations are computed anew in the backward pass."""
    environment: Mapping[str, str] = field(default_factory=dict)


AUTOCAST = {"ACCELERATE_MIXED_PRECISION": "bf16"}  # PPOConfig(bf16=True) reaches no Accelerator
# What hydralign's hardware=cpu asks of the C library, for TRL too.
RETURNED = allocator.ENVIRONMENT
KEPT = "hardware.return_freed_memory=false"
SPARING = ("hardware.gradient_checkpointing=true", "hardware.logits_mb=16")
FP32 = "model.dtype=float32"
CONTESTANTS = {
    "hydralign-bf16": Contestant("hydralign", "bf16 base, fp32 adapters"),
    "hydralign-bf16-kept": Contestant("hydralign", "bf16, freed memory kept", (KEPT,)),
    "hydralign-bf16-sparing": Contestant("hydralign", "bf16, checkpointing", SPARING),
    "hydralign-fp32": Contestant("hydralign", "fp32", (FP32,)),
    "trl-bf16": Contestant("TRL", "bf16 networks, fp32 adapters", dtype="bfloat16"),
    "trl-bf16-returned": Contestant(
        "TRL", "bf16, freed memory returned", dtype="bfloat16", environment=RETURNED
    ),
    "trl-fp32": Contestant("TRL", "fp32"),
    "trl-autocast": Contestant("TRL", "fp32, bf16 autocast", environment=AUTOCAST),
    "trl-bf16-checkpointing": Contestant(
        "TRL", "bf16, checkpointing by hand", dtype="bfloat16", checkpointing=True
    ),
}


def make_data(folder: Path) -> None:
    """Write 16 training prompts and a few held-out ones, each with responses to learn from.

    Args:
        folder: gets `rows.jsonl` with all of them, and `prompts.json` with those of training.
    """
    wanted = {"train": ROWS, "validation": 2, "test": 2}
    split_of = HashSplitter(SPLITS)
    prompts: dict[str, list[str]] = {name: [] for name in wanted}
    for prompt in (
        opening.format(subject) for subject in SUBJECTS.split(", ") for opening in OPENINGS
    ):
        prompts[split_of(prompt)].append(prompt)
    chosen = {name: prompts[name][:n] for name, n in wanted.items()}
    assert {name: len(texts) for name, texts in chosen.items()} == wanted
    first, second = " it is worth a second look.", " it is nothing to speak of."
    learned = {"response": first, "responses": [first, second], "ranks": [0, 1]}
    rows = [json.dumps({"prompt": text, **learned}) for texts in chosen.values() for text in texts]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "prompts.json").write_text(json.dumps(chosen["train"]))


def make_model(source: Path, folder: Path) -> None:
    """Make a folder of the same weights, with a tokenizer that stops at what is never sampled.

    Args:
        source: as scripts/make_smollm2.py makes it.
        folder: to make.
    """
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(source / name, folder)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings |= {"eos_token": STOP, "pad_token": PAD}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").symlink_to((source / "model.safetensors").resolve())


def overrides_of(stage: str, folder: Path) -> list[str]:
    """Return what hydralign is told for one of its stages.

    Args:
        stage: sft, reward or ppo.
        folder: with the data and the model; the stages find each other's results in it.
    """
    rollout = {"rollouts": STEPS, "rollout_batch_size": ROWS, "minibatch_size": ROWS}
    settings: dict[str, dict[str, int]] = {
        "sft": {"steps": 1, "batch_size": ROWS},
        "reward": {"steps": 1, "batch_size": ROWS},
        "ppo": rollout | {"ppo_epochs": EPOCHS, "warmup_rollouts": 0, "value_warmup_rollouts": 0},
    }
    return [
        *(f"stage={stage}", "model=smollm2_135m_lora", "data=jsonl", "hardware=cpu"),
        *(f"stage.{key}={value}" for key, value in settings[stage].items()),
        *(f"model.source={folder / 'model'}", f"outputs={folder / 'outputs'}"),
        *(f"data.path={folder / 'rows.jsonl'}", "data.template=plain"),
        *(f"data.splits.{name}={share}" for name, share in SPLITS.items()),
        f"data.max_response_tokens={RESPONSE_TOKENS}",
    ]


def prepare(source: Path, folder: Path, threads: int) -> None:
    """Make all that the measured runs start from: data, model, an SFT and a reward artifact.

    Args:
        source: folder of the model.
        folder: to make it in.
        threads: of the two stages.
    """
    make_data(folder)
    make_model(source, folder / "model")
    for stage in ("sft", "reward"):
        _run([ROOT / "train.py", *overrides_of(stage, folder)], threads, {})


def measure_hydralign(contestant: Contestant, folder: Path) -> dict[str, float]:
    """Run the PPO stage as train.py does.

    Args:
        contestant: what to tell it besides.
        folder: as `prepare` made it.
    """
    from hydra import compose, initialize_config_dir
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from hydralign import checks, config

    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [*overrides_of("ppo", folder), *contestant.overrides])
    checks.check(cfg)
    if cfg.hardware.return_freed_memory:
        allocator.return_freed_memory()
    from hydralign import run as runs  # only now: it imports torch
    from hydralign.memory import peak_memory_gb

    runs.forget_peak = lambda: None  # loading counts, as it does for TRL
    baseline = peak_memory_gb()
    run_dir = Path(tempfile.mkdtemp(dir=folder))
    runs.run(cfg, run_dir)
    peak = peak_memory_gb()
    events = EventAccumulator(str(run_dir))
    events.Reload()
    last = {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"]}
    seconds = sum(last[f"perf/{phase}_seconds"] for phase in ("generate", "score", "train"))
    planned = json.loads((run_dir / "plan.json").read_text())["peak_gb"]
    measured = figures(peak, baseline, seconds, last["rollout/response_length"] * ROWS)
    return measured | {"planned_gb": planned}


def measure_trl(contestant: Contestant, folder: Path) -> dict[str, float]:
    """Run TRL's PPOTrainer for the same steps.

    Args:
        contestant: its precision, and whether it checkpoints activations.
        folder: as `prepare` made it.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl.experimental.ppo import PPOTrainer

    from hydralign.memory import peak_memory_gb

    baseline = peak_memory_gb()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    ids = tokenizer(json.loads((folder / "prompts.json").read_text()))["input_ids"]
    data = Dataset.from_dict({"input_ids": ids})
    policy, value_model, reward_model = _trl_networks(contestant, folder / "model")
    watch = _trl_watch()
    reward_model.base_model.register_forward_pre_hook(watch.count, with_kwargs=True)
    trainer = PPOTrainer(
        args=_trl_config(folder),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,  # the policy without its adapter
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=data,
        eval_dataset=data,  # never used, but it wants one
        callbacks=[watch],
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
    )
    trainer.train()
    tokens = watch.tokens - sum(len(prompt) for prompt in ids)
    return figures(peak_memory_gb(), baseline, watch.seconds, tokens)


def _trl_networks(contestant: Contestant, model: Path) -> tuple[Any, Any, Any]:
    """Return policy, value model and reward model, as sparing as its PPO takes them.

    In TRL's own example all weights of the value model train; adapters on it cost far less.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    policy = AutoModelForCausalLM.from_pretrained(model, dtype=contestant.dtype)
    value_model, reward_model = (
        AutoModelForSequenceClassification.from_pretrained(
            model, dtype=contestant.dtype, num_labels=1
        )
        for _ in range(2)
    )
    adapted: Any = get_peft_model(value_model, LoraConfig(task_type="SEQ_CLS", **LORA))
    value_model = adapted.get_base_model()  # where the trainer finds its backbone and its score
    reward_model.requires_grad_(False)
    if contestant.checkpointing:  # PPOConfig(gradient_checkpointing=True) does nothing
        for network in (policy, value_model):
            network.gradient_checkpointing_enable({"use_reentrant": False})
    return policy, value_model, reward_model


def _trl_config(folder: Path) -> Any:
    from trl.experimental.ppo import PPOConfig

    return PPOConfig(
        output_dir=str(folder / "trl"),
        total_episodes=STEPS * ROWS,
        per_device_train_batch_size=ROWS,
        local_rollout_forward_batch_size=ROWS,
        num_ppo_epochs=EPOCHS,
        response_length=RESPONSE_TOKENS,
        temperature=1.0,
        num_sample_generations=0,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
    )


def _trl_watch() -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Takes the time of the last step, and counts the tokens that the reward model saw."""

        started = seconds = 0.0
        tokens = 0

        def count(self, network: Any, inputs: Any, named: Any) -> None:
            self.tokens = int(named["attention_mask"].sum())

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            now = time.perf_counter()
            self.seconds, self.started = now - self.started, now

    return Watch()


def figures(
    peak_gb: float, baseline_gb: float, seconds_per_step: float, response_tokens: float
) -> dict[str, float]:
    """Name what was measured.

    Args:
        peak_gb: of the whole process.
        baseline_gb: the same before there was a network, which is what the libraries take.
        seconds_per_step: of the last step.
        response_tokens: of the last step.
    """
    return {
        "peak_gb": peak_gb,
        "baseline_gb": baseline_gb,
        "seconds_per_step": seconds_per_step,
        "response_tokens": response_tokens,
    }


def measure(name: str, folder: Path, threads: int) -> dict[str, float]:
    """Measure a contestant in a process of its own.

    Args:
        name: of the contestant.
        folder: as `prepare` made it.
        threads: of its products; more than there are idle cores make them wait for each other.
    """
    command: list[str | Path] = [Path(__file__), "--measure", name, "--folder", folder]
    output = _run(command, threads, CONTESTANTS[name].environment)
    return json.loads(output.splitlines()[-1])


def _run(command: Sequence[str | Path], threads: int, environment: Mapping[str, str]) -> str:
    """Run Python in another process, without a GPU, and return what it prints.

    Raises:
        SystemExit: with the end of what it said, if it fails.
    """
    fixed = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **fixed, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(
            f"{' '.join(map(str, command))} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def summarise(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Return a row for each contestant: means over its runs, and the ratio to the better TRL.

    Args:
        runs: the figures of every run, by contestant.
    """
    rows: list[dict[str, Any]] = []
    for name, measured in runs.items():
        means = {key: statistics.mean(run[key] for run in measured) for key in measured[0]}
        rows.append({"who": CONTESTANTS[name].who, "how": CONTESTANTS[name].how, **means})
    best = min((row["peak_gb"] for row in rows if row["who"] == "TRL"), default=None)
    for row in rows:
        row["ratio"] = None if best is None else row["peak_gb"] / best
    return rows


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as a Markdown table.

    Args:
        rows: as `summarise` returns them.
    """
    lines = ["| who | how | peak GB | of which libraries | seconds a step | of the better TRL |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.0%}"
        lines.append(
            f"| {row['who']} | {row['how']} | {row['peak_gb']:.2f} | {row['baseline_gb']:.2f} "
            f"| {row['seconds_per_step']:.0f} | {ratio} |"
        )
    return "\n".join(lines)


def compare(source: Path, names: Sequence[str], repeats: int, threads: int) -> dict[str, Any]:
    """Measure all contestants in turn, as often as asked, and show the table.

    Args:
        source: folder of the model.
        names: of the contestants.
        repeats: measurements of each.
        threads: of each process.
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        prepare(source, Path(scratch), threads)
        for _ in range(repeats):
            for name in names:
                runs[name].append(measure(name, Path(scratch), threads))
                print(f"{name}: {json.dumps(runs[name][-1])}", flush=True)
    rows = summarise(runs)
    print(format_table(rows))
    return {"rows": rows, "runs": runs, "threads": threads}


def main(arguments: list[str] | None = None) -> None:
    """Compare, or measure one contestant in this very process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    model = cache_folder() / "SmolLM2-135M-Instruct"
    parser.add_argument("--model", type=Path, default=model, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of each; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--out", type=Path, help="JSON file for the table and every run")
    parser.add_argument("--measure", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        contestant = CONTESTANTS[options.measure]
        measured = measure_trl if contestant.who == "TRL" else measure_hydralign
        print(json.dumps(measured(contestant, options.folder)))
    elif not (options.model / "model.safetensors").is_file():
        sys.exit(f"{options.model} holds no model. Make it: python scripts/make_smollm2.py")
    else:
        found = compare(options.model, options.only, options.repeats, options.threads)
        if options.out:
            options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
