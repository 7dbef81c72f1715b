"""The pure parts of the benchmark: medians, ratios and table by numbers worked out by hand."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hydralign.data.examples import ComparisonExample, Pair
from hydralign.data.loaders import Step
from hydralign.data.splits import HashSplitter
from hydralign.models.tiny_tokenizer import trained_tokenizer
from scripts import benchmark, benchmark_hydralign, benchmark_inputs, benchmark_trl
from scripts.benchmark_inputs import figures, make_rows, overrides_of
from scripts.benchmark_trl_online import grpo, rloo
from scripts.benchmark_trl_task import Task, make_watch

MORE = {"generate_seconds": 1.0, "score_seconds": 2.0, "train_seconds": 7.0, "mfu": 0.5}
RUNS = {  # step seconds and tokens, the first of which do not count
    "hydralign": [
        figures([99.0, 10.0, 12.0, 8.0], [1, 500, 480, 480], 2.0, **MORE),
        figures([99.0, 10.0], [1, 400], 1.0, **MORE),
        figures([99.0, 10.0], [1, 600], 1.5, **MORE),
    ],
    "trl-bf16": [figures([99.0, s], [1, 500], 4.0) for s in (25.0, 50.0, 20.0)],
    "trl-fp32": [figures([99.0, s], [1, 500], 5.0) for s in (50.0, 100.0, 50.0)],
}
# hydralign 50, 40, 60 tokens/s; TRL bf16 20, 10, 25 and fp32 10, 5, 10. Pairs: 2.5, 4, 2.4.
TABLE = """\
| who | how | tokens/s | of TRL's | s a step | generate, score, train | peak GB | of TRL's | MFU |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| hydralign | hardware=cpu as it is | 50.0 | 2.50 | 10.00 | 1.0, 2.0, 7.0 | 1.50 | 38% | 50% |
| TRL | bf16 networks | 20.0 | 1.00 | 25.00 | -, -, - | 4.00 | 100% | - |
| TRL | fp32 | 10.0 | 0.50 | 50.00 | -, -, - | 5.00 | 125% | - |"""


def test_figures_are_medians_over_the_steps_but_the_first():
    assert RUNS["hydralign"][0] == {
        "seconds_per_step": 10.0,
        "tokens_per_second": 50.0,  # of 50, 40 and 60
        "peak_gb": 2.0,
        **MORE,
    }


def test_ratios_are_taken_pair_by_pair_against_the_better_trl():
    rows = benchmark.summarise(RUNS)
    assert [row["tokens_per_second_ratio"] for row in rows] == pytest.approx([2.5, 1.0, 0.5])
    assert [row["peak_gb_ratio"] for row in rows] == pytest.approx([0.375, 1.0, 1.25])
    assert benchmark.format_table(rows) == TABLE


def test_without_trl_there_is_no_ratio():
    rows = benchmark.summarise({"hydralign": RUNS["hydralign"]})
    assert rows[0]["tokens_per_second_ratio"] is None
    assert "| 50.0 | - |" in benchmark.format_table(rows)


def test_both_sides_get_the_rows_of_the_training_split(tmp_path):
    make_rows(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    split_of = HashSplitter(benchmark_inputs.SPLITS)
    training = [row for row in rows if split_of(row["prompt"]) == "train"]
    assert json.loads((tmp_path / "train.json").read_text()) == training
    assert len({row["prompt"] for row in rows}) == len(rows) == 192
    lengths = {len(text.split()) for row in rows for text in row["responses"]}
    assert lengths == set(range(4, 44))
    assert all(row["responses"][0] != row["responses"][1] for row in rows)
    assert all(len(training) >= work.rows for work in benchmark.WORKS.values())


@pytest.mark.parametrize("name", benchmark.WORKS)
def test_what_hydralign_is_told_composes(name, tmp_path):
    work = benchmark.WORKS[name]
    cfg = benchmark_hydralign.composed(overrides_of(work, tmp_path))
    steps = cfg.stage.rollouts if work.samples else cfg.stage.steps
    size = cfg.stage.minibatch_size if work.samples else cfg.stage.batch_size
    assert (steps, size) == (work.steps, work.rows)
    if work.samples:  # one optimizer step in each pass over the samples
        assert cfg.stage.rollout_batch_size * cfg.stage.get("group_size", 1) == work.rows
        assert cfg.data.max_response_tokens == work.response_tokens
    prepared = benchmark_hydralign.composed(overrides_of(work, tmp_path, "sft"))
    assert prepared.stage.steps == (work.steps if work.stage == "sft" else 1)
    if work.model == "smollm2":
        lora = {"r": cfg.model.lora.rank, "lora_alpha": cfg.model.lora.alpha}
        assert lora.items() <= benchmark_inputs.LORA.items()
        assert cfg.model.lora.target_modules == benchmark_inputs.LORA["target_modules"]


def test_the_tokens_of_a_step_are_counted_prompts_with_each_response():
    example = ComparisonExample([5, 6, 7], [[8, 1], [9, 9, 9, 1]], [Pair(0, 1, 1.0)])
    clock = benchmark_hydralign.make_clock()
    for index in range(2):
        step = Step([example] * (index + 1), [example] * 2, collate=None)
        clock.on_train_batch_start(None, None, step, index)
        clock.on_train_batch_end(None, None, None, step, index)
    assert clock.tokens == [12, 24]  # 3 + 2 and 3 + 4 for each
    assert len(clock.seconds) == 2


@pytest.mark.parametrize("name", [n for n, w in benchmark.WORKS.items() if w.stage == "dpo"])
def test_dpo_holds_on_to_its_reference_alike_on_both_sides(name, tmp_path):
    cfg = benchmark_hydralign.composed(overrides_of(benchmark.WORKS[name], tmp_path))
    ours = (cfg.stage.beta, cfg.stage.loss, cfg.stage.label_smoothing)
    assert ours == (benchmark_inputs.BETA, "sigmoid", 0.0)


@pytest.mark.parametrize("model", ["smollm2", "tiny"])
def test_trl_asks_its_reference_at_every_step(model, tmp_path, monkeypatch):
    given = {}

    class Trainer:
        def __init__(self, **options):
            given.update(options)

        def training_step(self, network, inputs):
            return 0.0

    monkeypatch.setattr("trl.DPOTrainer", Trainer)
    rows = [{"prompt": "a", "responses": [" b", " c"]}]
    work = benchmark.Work("dpo", model, rows=1, steps=3)
    adapters = benchmark_inputs.LORA if model == "smollm2" else None
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    task = Task(work, rows, None, lambda kind: object(), adapters, settings, None)
    benchmark_trl._dpo(task)
    config = given["args"]
    assert (config.beta, config.loss_type, config.label_smoothing) == (0.1, ["sigmoid"], 0.0)
    assert not config.precompute_ref_log_probs
    assert (config.max_steps, config.per_device_train_batch_size) == (3, 1)
    assert given["train_dataset"][0] == {"prompt": "a", "chosen": " b", "rejected": " c"}
    assert (given["ref_model"] is None) == (given["peft_config"] is not None) == (model != "tiny")
    assert given["ref_model"] is not given["model"]


@pytest.fixture
def grouped(tmp_path):
    """Return what makes TRL's trainer of a work, with a network of two layers in bfloat16."""
    texts = ["a film that is good", "a bad film"]
    tokenizer = trained_tokenizer(texts, 300, tmp_path / "cache")
    tokenizer.padding_side = "left"
    shape = {"vocab_size": 300, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "small")
    network = partial(benchmark_trl._load, tmp_path / "small", "bfloat16")
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    settings |= {"gradient_checkpointing": False}
    rows = [{"prompt": prompt} for prompt in ("a film", "a bad", "good", "that is", "is a", "bad")]

    def make(work, adapters, watch):
        task = Task(work, rows, tokenizer, network, adapters, settings, watch)
        return {"grpo": grpo, "rloo": rloo}[work.stage](task)

    return make


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("stage", ["grpo", "rloo"])
@pytest.mark.parametrize("adapters", [benchmark_inputs.LORA, None], ids=["lora", "all"])
def test_a_step_of_trl_is_a_rollout_with_all_passes_over_it(stage, adapters, grouped, tmp_path):
    work = benchmark.Work(stage, "tiny", rows=8, steps=3, response_tokens=5)
    watch = make_watch()
    trainer = grouped(work, adapters, watch)
    sampled, scores = [], []
    watched(trainer, "_generate", lambda found: sampled.append(sum(map(len, found[1]))))
    watched(trainer, "_calculate_rewards", lambda found: scores.append(len(found)))
    trainer.train()

    cfg = benchmark_hydralign.composed(overrides_of(work, tmp_path)).stage
    assert trainer.state.global_step == cfg.rollouts * cfg.epochs == 6
    assert scores == [cfg.rollout_batch_size * cfg.group_size] * cfg.rollouts == [8, 8, 8]
    assert watch.tokens == sampled
    assert all(8 <= tokens <= 8 * 5 for tokens in sampled)
    assert len(watch.seconds) == 3


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("stage", ["grpo", "rloo"])
@pytest.mark.parametrize("adapters", [benchmark_inputs.LORA, None], ids=["lora", "all"])
def test_both_sides_compare_the_responses_to_a_prompt_alike(stage, adapters, grouped, tmp_path):
    work = benchmark.Work(stage, "tiny", rows=8, steps=3, response_tokens=5)
    cfg = benchmark_hydralign.composed(overrides_of(work, tmp_path)).stage
    trainer = grouped(work, adapters, make_watch())
    args, drawn, reference = trainer.args, trainer.generation_config, trainer.ref_model
    assert (args.beta, args.num_generations) == (cfg.kl_coef, cfg.group_size)
    assert (args.epsilon, args.max_grad_norm) == (cfg.clip_range, cfg.max_grad_norm)
    assert (drawn.temperature, drawn.top_p, drawn.top_k) == (cfg.temperature, 1.0, 0)
    assert drawn.max_new_tokens == 5
    assert trainer.model.dtype == torch.bfloat16
    assert (reference is None) == (adapters is not None)
    assert reference is None or reference.dtype == torch.bfloat16
    if stage == "grpo":
        assert (cfg.denominator, cfg.scale_advantages, cfg.kl_estimator) == ("tokens", True, "k3")
        assert (args.loss_type, args.scale_rewards) == ("dapo", "group")
        assert not args.use_bias_correction_kl


def watched(thing, name, see):
    """Let what a method returns be seen."""
    method = getattr(thing, name)

    def wrapper(*arguments):
        found = method(*arguments)
        see(found)
        return found

    setattr(thing, name, wrapper)


def test_the_tiny_model_is_that_of_its_config(tmp_path, monkeypatch):
    class Source:
        def __init__(self, data):
            assert data.name == "movie_reviews"

        def training_texts(self):
            return ["a film that is good", "a film that is bad"]

    monkeypatch.setattr("hydralign.data_source.DataSource", Source)
    monkeypatch.setenv("HYDRALIGN_CACHE", str(tmp_path / "cache"))
    benchmark.make_tiny(tmp_path / "tiny")
    made = json.loads((tmp_path / "tiny/config.json").read_text())
    shape = benchmark_hydralign.composed(["stage=sft", "model=tiny"]).model.architecture
    assert (made["hidden_size"], made["vocab_size"]) == (shape.hidden_size, 4096)
    assert AutoTokenizer.from_pretrained(tmp_path / "tiny").eos_token is not None


def test_a_missing_model_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SMOLLM2", tmp_path)
    with pytest.raises(SystemExit, match="holds no model.*make_smollm2"):
        benchmark.main(["--works", "ppo-smollm2"])


def test_the_machine_multiplies():
    assert 1e8 < benchmark_hydralign.matrix_rate("float32") < 1e15


def test_the_process_that_starts_the_others_has_not_loaded_torch():
    code = "import sys; from scripts import benchmark, benchmark_hydralign, benchmark_trl; "
    code += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
