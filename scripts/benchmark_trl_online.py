"""TRL's trainers that learn from what the policy samples, for scripts/benchmark.py."""

from functools import partial
from typing import Any

from scripts.benchmark_inputs import SAMPLING
from scripts.benchmark_trl_task import CLASSIFIER, WRITER, Task, adapters_of, settings_of


def ppo(task: Task) -> Any:
    """Make the PPO trainer. In TRL's own example all weights of the value model train."""
    from datasets import Dataset
    from peft import get_peft_model
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    work = task.work
    ids = task.tokenizer([row["prompt"] for row in task.rows])["input_ids"]
    data = Dataset.from_dict({"input_ids": ids})
    value_model, reward_model = (task.network(CLASSIFIER) for _ in range(2))
    adapters = adapters_of(task, "SEQ_CLS")
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
            **settings_of(task),
            total_episodes=work.steps * work.rows,
            local_rollout_forward_batch_size=work.rows,
            num_ppo_epochs=SAMPLING["ppo"]["ppo_epochs"],
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
        peft_config=adapters_of(task, "CAUSAL_LM"),
    )


def grpo(task: Task) -> Any:
    """Make the GRPO trainer, with hydralign's loss."""
    from trl import GRPOConfig, GRPOTrainer

    # dapo: a step's tokens are its denominator. k3 is not weighted by the ratio.
    loss: dict[str, Any] = {
        "loss_type": "dapo",
        "scale_rewards": "group",
        "use_bias_correction_kl": False,
    }
    return _grouped(GRPOTrainer, partial(GRPOConfig, **loss), task)


def rloo(task: Task) -> Any:
    """Make the RLOO trainer."""
    from trl import RLOOConfig, RLOOTrainer

    return _grouped(RLOOTrainer, RLOOConfig, task)


def _grouped(trainer_class: Any, config_class: Any, task: Task) -> Any:
    """Make a trainer that compares the responses to a prompt.

    It reads a prompt once for each response, hydralign once for the group. Its reward model gets
    text, tokenised anew: on the tiny model's random responses not quite the tokens of the sample.
    """
    from datasets import Dataset

    work, told = task.work, SAMPLING[task.work.stage]
    task.watch.optimizer_steps = told["epochs"]
    model = task.network(WRITER)
    trainer = trainer_class(
        model=model,
        reward_funcs=task.network(CLASSIFIER),
        reward_processing_classes=task.tokenizer,
        args=config_class(
            **settings_of(task),
            max_steps=work.steps * told["epochs"],
            num_generations=told["group_size"],
            num_iterations=told["epochs"],
            max_completion_length=work.response_tokens,
            beta=told["kl_coef"],
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            log_completions=False,
            model_init_kwargs={"dtype": model.dtype},  # of the reference that it loads by itself
        ),
        train_dataset=Dataset.from_dict({"prompt": [row["prompt"] for row in task.rows]}),
        processing_class=task.tokenizer,
        callbacks=[task.watch],
        peft_config=adapters_of(task, "CAUSAL_LM"),  # without it, the policy is the reference
    )
    return _counting_responses(trainer, task.watch)


def _counting_responses(trainer: Any, watch: Any) -> Any:
    """Let the tokens be counted that a trainer sampled."""
    loss = trainer.compute_loss

    def counted(model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        watch.counted = int(inputs["completion_mask"].sum())  # the same in each pass over them
        return loss(model, inputs, *more, **named)

    trainer.compute_loss = counted
    return trainer
