"""TRL's side of scripts/benchmark.py: its own trainers, as sparing as they take their networks."""

import json
import time
from pathlib import Path
from typing import Any

from scripts.benchmark_inputs import BETA, LORA, Work, figures


def measure(work: Work, dtype: str, folder: Path) -> dict[str, float]:
    """Do a work with TRL.

    Args:
        work: to do.
        dtype: of the networks; adapters are in fp32.
        folder: of the inputs.
    """
    from transformers import AutoTokenizer

    from hydralign.memory import peak_memory_gb

    rows = json.loads((folder / "train.json").read_text())[: work.rows * work.steps]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / work.folder, padding_side="left")
    make = {"sft": _sft, "reward": _reward, "dpo": _dpo, "ppo": _ppo}[work.stage]
    watch = _watch()
    trainer = make(work, dtype, folder, rows, tokenizer, watch)
    trainer.train()
    return figures(watch.seconds, watch.tokens, peak_memory_gb())


def _watch() -> Any:
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
            now = time.perf_counter()
            self.seconds.append(now - self.started)
            self.tokens.append(self.counted)
            self.started, self.counted = now, 0

    return Watch()


def _settings(work: Work, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": work.rows,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _load(work: Work, dtype: str, folder: Path, kind: str) -> Any:
    import transformers

    extra = {"num_labels": 1} if kind.endswith("SequenceClassification") else {}
    loaded: Any = getattr(transformers, kind).from_pretrained(
        folder / work.folder, dtype=dtype, **extra
    )
    return loaded


def _adapters(work: Work, task: str) -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type=task, **LORA) if work.model == "smollm2" else None


def _counting(trainer: Any, watch: Any) -> Any:
    """Let a trainer's batches be counted, padding left out."""
    step = trainer.training_step

    def counted(model: Any, inputs: Any, *more: Any) -> Any:
        watch.counted += int(inputs["attention_mask"].sum())
        return step(model, inputs, *more)

    trainer.training_step = counted
    return trainer


def _sft(work: Work, dtype: str, folder: Path, rows: Any, tokenizer: Any, watch: Any) -> Any:
    from trl import SFTConfig, SFTTrainer

    columns = {"prompt": [r["prompt"] for r in rows], "completion": [r["response"] for r in rows]}
    model = _load(work, dtype, folder, "AutoModelForCausalLM")
    adapters = _adapters(work, "CAUSAL_LM")
    sides = (work, folder, tokenizer, watch)
    return _supervised(SFTTrainer, SFTConfig, columns, model, adapters, *sides)


def _reward(work: Work, dtype: str, folder: Path, rows: Any, tokenizer: Any, watch: Any) -> Any:
    from trl import RewardConfig, RewardTrainer

    model = _load(work, dtype, folder, "AutoModelForSequenceClassification")
    adapters = _adapters(work, "SEQ_CLS")
    sides = (work, folder, tokenizer, watch)
    return _supervised(RewardTrainer, RewardConfig, _pairs(rows), model, adapters, *sides)


def _dpo(work: Work, dtype: str, folder: Path, rows: Any, tokenizer: Any, watch: Any) -> Any:
    """Make the DPO trainer, whose reference passes are part of each step, as in hydralign."""
    from functools import partial

    from trl import DPOConfig, DPOTrainer

    model = _load(work, dtype, folder, "AutoModelForCausalLM")
    adapters = _adapters(work, "CAUSAL_LM")
    # None: the policy without its adapter. hydralign's reference has one, that of the SFT policy.
    reference = None if adapters else _load(work, dtype, folder, "AutoModelForCausalLM")
    trainer = partial(DPOTrainer, ref_model=reference)
    config = partial(DPOConfig, beta=BETA, loss_type=["sigmoid"], precompute_ref_log_probs=False)
    sides = (work, folder, tokenizer, watch)
    return _supervised(trainer, config, _pairs(rows), model, adapters, *sides)


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
    work: Work,
    folder: Path,
    tokenizer: Any,
    watch: Any,
) -> Any:
    """Make a trainer of rows that are there before it starts, and count its tokens."""
    from datasets import Dataset

    settings = _settings(work, folder) | {"max_steps": work.steps, "gradient_checkpointing": False}
    trainer = trainer_class(
        model=model,
        args=config_class(**settings),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        callbacks=[watch],
        peft_config=adapters,
    )
    return _counting(trainer, watch)


def _ppo(work: Work, dtype: str, folder: Path, rows: Any, tokenizer: Any, watch: Any) -> Any:
    """Make the PPO trainer. In TRL's own example all weights of the value model train."""
    from datasets import Dataset
    from peft import get_peft_model
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    ids = tokenizer([row["prompt"] for row in rows])["input_ids"]
    data = Dataset.from_dict({"input_ids": ids})
    value_model, reward_model = (
        _load(work, dtype, folder, "AutoModelForSequenceClassification") for _ in range(2)
    )
    adapters = _adapters(work, "SEQ_CLS")
    if adapters is not None:
        adapted: Any = get_peft_model(value_model, adapters)
        value_model = adapted.get_base_model()  # where the trainer finds its backbone and its score
    reward_model.requires_grad_(False)
    reference = None if adapters else _load(work, dtype, folder, "AutoModelForCausalLM")

    def count(network: Any, inputs: Any, named: Any) -> None:
        # The reward model sees prompts and responses.
        prompt_tokens = sum(map(len, ids)) / len(ids) * len(named["attention_mask"])
        watch.counted += int(named["attention_mask"].sum()) - prompt_tokens

    reward_model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    return PPOTrainer(
        args=PPOConfig(
            **_settings(work, folder),
            total_episodes=work.steps * work.rows,
            local_rollout_forward_batch_size=work.rows,
            num_ppo_epochs=4,
            response_length=32,
            stop_token="eos",
            temperature=1.0,
            num_sample_generations=0,
        ),
        processing_class=tokenizer,
        model=_load(work, dtype, folder, "AutoModelForCausalLM"),
        ref_model=reference,  # None: the policy without its adapter
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=data,
        eval_dataset=data,  # never used, but it wants one
        callbacks=[watch],
        peft_config=_adapters(work, "CAUSAL_LM"),
    )
