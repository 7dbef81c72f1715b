"""TRL's side of scripts/benchmark.py: its own trainers, as sparing as they take their networks."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmark_inputs import BETA, LORA, Work, figures

WRITER, CLASSIFIER = "AutoModelForCausalLM", "AutoModelForSequenceClassification"


@dataclass(frozen=True)
class Task:
    """A work, and what it is done with."""

    work: Work
    rows: Sequence[Any]
    tokenizer: Any
    network: Callable[[str], Any]
    """Makes a network, given the name of one of transformers' Auto classes."""
    adapters: Mapping[str, Any] | None
    """LoRA's settings; None trains all weights."""
    settings: Mapping[str, Any]
    """Of every trainer."""
    watch: Any


def measure(work: Work, dtype: str, folder: Path) -> dict[str, float]:
    """Do a work with TRL on a CPU.

    Args:
        work: to do.
        dtype: of the networks; adapters are in fp32.
        folder: of the inputs.
    """
    from transformers import AutoTokenizer

    from hydralign.memory import peak_memory_gb

    rows = json.loads((folder / "train.json").read_text())[: work.rows * work.steps]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / work.folder, padding_side="left")
    network = partial(_load, folder / work.folder, dtype)
    adapters = LORA if work.model == "smollm2" else None
    here = {"output_dir": str(folder / "trl"), "use_cpu": True, "bf16": False}
    here |= {} if work.stage == "ppo" else {"gradient_checkpointing": False}
    watch = make_watch()
    run(Task(work, rows, tokenizer, network, adapters, here, watch))
    return figures(watch.seconds, watch.tokens, peak_memory_gb())


def run(task: Task) -> None:
    """Do a task with the trainer of its stage."""
    make = {"sft": _sft, "reward": _reward, "dpo": _dpo, "ppo": _ppo}[task.work.stage]
    make(task).train()


def make_watch(synchronize: Callable[[], None] = lambda: None) -> Any:
    """Return a callback that takes the time of each step and counts its tokens.

    Args:
        synchronize: waits until what was started is done.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Takes the time of each step, and counts its tokens."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.tokens: list[float] = []
            self.counted = 0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            synchronize()
            now = time.perf_counter()
            self.seconds.append(now - self.started)
            self.tokens.append(self.counted)
            self.started, self.counted = now, 0

    return Watch()


def _settings(task: Task) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": task.work.rows,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **task.settings,
    }


def _load(folder: Path, dtype: str, kind: str) -> Any:
    import transformers

    extra = {"num_labels": 1} if kind == CLASSIFIER else {}
    return getattr(transformers, kind).from_pretrained(folder, dtype=dtype, **extra)


def _adapters(task: Task, kind: str) -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type=kind, **task.adapters) if task.adapters else None


def _counting(trainer: Any, watch: Any) -> Any:
    """Let a trainer's batches be counted, padding left out."""
    step = trainer.training_step

    def counted(model: Any, inputs: Any, *more: Any) -> Any:
        watch.counted += int(inputs["attention_mask"].sum())
        return step(model, inputs, *more)

    trainer.training_step = counted
    return trainer


def _sft(task: Task) -> Any:
    from trl import SFTConfig, SFTTrainer

    columns = {"prompt": [r["prompt"] for r in task.rows]}
    columns["completion"] = [r["response"] for r in task.rows]
    model, adapters = task.network(WRITER), _adapters(task, "CAUSAL_LM")
    return _supervised(SFTTrainer, SFTConfig, columns, model, adapters, task)


def _reward(task: Task) -> Any:
    from trl import RewardConfig, RewardTrainer

    model, adapters = task.network(CLASSIFIER), _adapters(task, "SEQ_CLS")
    return _supervised(RewardTrainer, RewardConfig, _pairs(task.rows), model, adapters, task)


def _dpo(task: Task) -> Any:
    """Make the DPO trainer, whose reference passes are part of each step, as in hydralign."""
    from trl import DPOConfig, DPOTrainer

    model, adapters = task.network(WRITER), _adapters(task, "CAUSAL_LM")
    # None: the policy without its adapter. hydralign's reference has one, that of the SFT policy.
    reference = None if adapters else task.network(WRITER)
    trainer = partial(DPOTrainer, ref_model=reference)
    config = partial(DPOConfig, beta=BETA, loss_type=["sigmoid"], precompute_ref_log_probs=False)
    return _supervised(trainer, config, _pairs(task.rows), model, adapters, task)


def _pairs(rows: Any) -> dict[str, list[str]]:
    return {
        "prompt": [row["prompt"] for row in rows],
        "chosen": [row["responses"][0] for row in rows],
        "rejected": [row["responses"][1] for row in rows],
    }


def _supervised(
    trainer_class: Any,
    config_class: Any,
    columns: dict[str, list[str]],
    model: Any,
    adapters: Any,
    task: Task,
) -> Any:
    """Make a trainer of rows that are there before it starts, and count its tokens."""
    from datasets import Dataset

    trainer = trainer_class(
        model=model,
        args=config_class(**_settings(task), max_steps=task.work.steps),
        train_dataset=Dataset.from_dict(columns),
        processing_class=task.tokenizer,
        callbacks=[task.watch],
        peft_config=adapters,
    )
    return _counting(trainer, task.watch)


def _ppo(task: Task) -> Any:
    """Make the PPO trainer. In TRL's own example all weights of the value model train."""
    from datasets import Dataset
    from peft import get_peft_model
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    work = task.work
    ids = task.tokenizer([row["prompt"] for row in task.rows])["input_ids"]
    data = Dataset.from_dict({"input_ids": ids})
    value_model, reward_model = (task.network(CLASSIFIER) for _ in range(2))
    adapters = _adapters(task, "SEQ_CLS")
    if adapters is not None:
        adapted: Any = get_peft_model(value_model, adapters)
        value_model = adapted.get_base_model()  # where the trainer finds its backbone and its score
    reward_model.requires_grad_(False)
    reference = None if adapters else task.network(WRITER)

    def count(network: Any, inputs: Any, named: Any) -> None:
        # The reward model sees prompts and responses.
        prompt_tokens = sum(map(len, ids)) / len(ids) * len(named["attention_mask"])
        task.watch.counted += int(named["attention_mask"].sum()) - prompt_tokens

    reward_model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    return PPOTrainer(
        args=PPOConfig(
            **_settings(task),
            total_episodes=work.steps * work.rows,
            local_rollout_forward_batch_size=work.rows,
            num_ppo_epochs=4,
            response_length=work.response_tokens,
            stop_token="eos",
            temperature=1.0,
            num_sample_generations=0,
        ),
        processing_class=task.tokenizer,
        model=task.network(WRITER),
        ref_model=reference,  # None: the policy without its adapter
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=data,
        eval_dataset=data,  # never used, but it wants one
        callbacks=[task.watch],
        peft_config=_adapters(task, "CAUSAL_LM"),
    )
