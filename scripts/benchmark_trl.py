"""TRL's side of scripts/benchmark.py: its own trainers, as sparing as they take their networks."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmark_inputs import BETA, LORA, Work, figures
from scripts.benchmark_trl_online import grpo, ppo, rloo
from scripts.benchmark_trl_task import (
    CLASSIFIER,
    WRITER,
    Task,
    adapters_of,
    make_watch,
    settings_of,
)


def measure(work: Work, dtype: str, folder: Path) -> dict[str, float]:
    """Do a work with TRL on a CPU.

    Args:
        work: to do.
        dtype: of the networks; adapters are in fp32.
        folder: of the inputs.
    """
    from transformers import AutoTokenizer

    from hydralign.memory import peak_memory_gb

    rows = json.loads((folder / "train.json").read_text())[: work.prompts * work.steps]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / work.folder, padding_side="left")
    network = partial(_load, folder / work.folder, dtype)
    adapters = LORA if work.model == "smollm2" else None
    here = {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    watch = make_watch()
    run(Task(work, rows, tokenizer, network, adapters, here, watch))
    return figures(watch.seconds, watch.tokens, peak_memory_gb())


def run(task: Task) -> None:
    """Do a task with the trainer of its stage."""
    supervised = {"sft": _sft, "reward": _reward, "dpo": _dpo}
    make = supervised | {"ppo": ppo, "grpo": grpo, "rloo": rloo}
    make[task.work.stage](task).train()


def _load(folder: Path, dtype: str, kind: str) -> Any:
    import transformers

    extra = {"num_labels": 1} if kind == CLASSIFIER else {}
    return getattr(transformers, kind).from_pretrained(folder, dtype=dtype, **extra)


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
    model, adapters = task.network(WRITER), adapters_of(task, "CAUSAL_LM")
    return _supervised(SFTTrainer, SFTConfig, columns, model, adapters, task)


def _reward(task: Task) -> Any:
    from trl import RewardConfig, RewardTrainer

    model, adapters = task.network(CLASSIFIER), adapters_of(task, "SEQ_CLS")
    return _supervised(RewardTrainer, RewardConfig, _pairs(task.rows), model, adapters, task)


def _dpo(task: Task) -> Any:
    """Make the DPO trainer, whose reference passes are part of each step, as in hydralign."""
    from trl import DPOConfig, DPOTrainer

    model, adapters = task.network(WRITER), adapters_of(task, "CAUSAL_LM")
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
        args=config_class(**settings_of(task), max_steps=task.work.steps),
        train_dataset=Dataset.from_dict(columns),
        processing_class=task.tokenizer,
        callbacks=[task.watch],
        peft_config=adapters,
    )
    return _counting(trainer, task.watch)
