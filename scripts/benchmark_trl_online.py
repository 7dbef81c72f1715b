"""TRL's trainers that learn from what the policy samples, for scripts/benchmark.py."""

from typing import Any

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
        peft_config=adapters_of(task, "CAUSAL_LM"),
    )
