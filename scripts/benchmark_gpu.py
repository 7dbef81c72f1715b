"""Time hydralign and TRL 1.12.0 on one GPU, on random weights of true size: nothing is downloaded.

python scripts/benchmark_gpu.py [--works ppo-7b ...] [--pairs 2] [--out outputs/benchmark_gpu.json]

Same shapes, rows, lengths, epochs and optimizer on both sides, every measurement a process of its
own, in the order A B A B, the first step of each not timed. 7B in 4 bits, 1B in bfloat16, LoRA on
both. PPO keeps its activations on both sides, SFT computes them anew. Beside the speeds: the share
of the card's rate of products that a step reaches (MFU), and of its bandwidth that decoding does,
if each token reads all weights once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hydralign import allocator  # noqa: E402
from scripts.benchmark_inputs import LORA, Work, figures, settings_of  # noqa: E402

LENGTHS = {"ppo": (64, 64), "sft": (256, 256)}
"""Tokens of prompts and responses."""

WORKS = {
    "ppo-7b": Work("ppo", "llama7b_lora", rows=16, steps=3, response_tokens=64),
    "sft-7b": Work("sft", "llama7b_lora", rows=16, steps=4),
    "ppo-1b": Work("ppo", "llama3.2_1b_lora", rows=16, steps=4, response_tokens=64),
    "sft-1b": Work("sft", "llama3.2_1b_lora", rows=16, steps=6),
}


def composed(work: Work, scratch: Path) -> Any:
    """Compose the config of a work; it sees each row in one micro-batch."""
    from scripts import random_models

    names = ("train_micro_batch_size", "score_micro_batch_size", "generation_batch_size")
    sizes = [f"hardware.{name}={work.rows}" for name in names]
    sizes += [f"hardware.gradient_checkpointing={str(not work.samples).lower()}"]
    lengths = LENGTHS[work.stage]
    rows = random_models.write_rows(scratch / "rows.jsonl", lengths)
    more = [*sizes, *(f"stage.{key}={value}" for key, value in settings_of(work).items())]
    return random_models.composed(work.model, "gpu_24gb", work.stage, rows, lengths, more)


def measure_hydralign(work: Work, scratch: Path) -> dict[str, float]:
    """Run a stage on random weights.

    Args:
        work: to do.
        scratch: folder for its files.
    """
    import torch

    from hydralign.memory import forget_peak, peak_memory_gb
    from scripts.benchmark_hydralign import make_clock, phases
    from scripts.random_models import built

    cfg = composed(work, scratch)
    module, data, _, trainer = built(cfg, scratch)
    torch.cuda.empty_cache()
    forget_peak()

    clock = make_clock(synchronize=torch.cuda.synchronize)
    trainer.callbacks.insert(0, clock)
    trainer.fit(module, data)
    more: dict[str, float] = {}
    if work.samples:
        clock.tokens = [work.rows * work.response_tokens] * work.steps  # none of them stops
        more = phases(scratch)
        weights = sum(_bytes(module.policy.network.language_model))
        read = weights * work.response_tokens / more["generate_seconds"]
        more |= {"weights_gb": weights / 1e9, "bandwidth": read / bandwidth()}
    found = figures(clock.seconds, clock.tokens, peak_memory_gb(), **more)
    rate = product_rate()
    return found | {
        "mfu": clock.products.flops / found["seconds_per_step"] / rate,
        "tflops_of_products": rate / 1e12,
    }


def _bytes(model: Any) -> list[int]:
    """Return the bytes of all weights that a token reads: each of them once, embeddings apart."""
    embeddings = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is embeddings
    return [
        parameter.numel() * parameter.element_size()
        for name, parameter in model.named_parameters()
        if "lora_" not in name and (tied or parameter is not embeddings)
    ]


def measure_trl(work: Work, scratch: Path) -> dict[str, float]:
    """Do a work with TRL on random weights.

    Args:
        work: to do.
        scratch: folder for its files.
    """
    from dataclasses import replace

    import torch
    import transformers

    from hydralign.data_source import DataSource
    from hydralign.memory import forget_peak, peak_memory_gb
    from hydralign.model_source import build_codec
    from scripts.benchmark_trl import run
    from scripts.benchmark_trl_task import CLASSIFIER, Task, make_watch
    from scripts.random_models import random_base

    cfg = composed(work, scratch)
    tokenizer = build_codec(cfg.model, DataSource(cfg.data), {}).tokenizer
    tokenizer.padding_side = "left"
    base, _ = random_base(cfg)

    def network(kind: str) -> Any:
        auto = getattr(transformers, kind)
        config = base.fake.config
        if kind == CLASSIFIER:
            config = type(config)(**{**config.to_dict(), "num_labels": 1})
        model: Any = replace(base, kind=auto, fake=replace(base.fake, config=config)).load(0, 0)
        model.config.pad_token_id = tokenizer.pad_token_id
        # Else TRL's PPO widens the norms, and samples outside autocast: types do not fit.
        model.is_loaded_in_4bit = False
        return model

    rows = [json.loads(line) for line in (scratch / "rows.jsonl").read_text().splitlines()]
    watch = make_watch(synchronize=torch.cuda.synchronize)
    settings = {"output_dir": str(scratch / "trl"), "bf16": True}
    if not work.samples:
        settings["max_length"] = sum(LENGTHS[work.stage])
    task = Task(work, rows[: work.prompts * work.steps], tokenizer, network, LORA, settings, watch)
    forget_peak()
    run(task)
    return figures(watch.seconds, watch.tokens, peak_memory_gb())


def product_rate() -> float:
    """Measure what the card multiplies in a second: FLOP of (8192, 8192) products in bfloat16."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / _seconds(lambda: torch.mm(a, b))


def bandwidth() -> float:
    """Measure the bytes that the card reads and writes in a second."""
    import torch

    a = torch.ones(2**31, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() / _seconds(lambda: b.copy_(a))


def _seconds(function: Any) -> float:
    import torch

    taken = []
    for _ in range(12):
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return median(taken[2:])


SIDES = {"hydralign": measure_hydralign, "trl": measure_trl}


def measure(work: str, side: str) -> dict[str, Any]:
    """Measure one side in a process of its own; a failure becomes its text."""
    command = [sys.executable, __file__, "--measure", work, side]
    environment = os.environ | allocator.FOR_CUDA
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return {"error": done.stderr[-1500:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure all works in turn, and keep the file up to date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark_gpu.json"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        work, side = options.measure
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(SIDES[side](WORKS[work], Path(scratch))))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for work in options.works:
        for _ in range(options.pairs):
            for side in options.sides:
                runs.append({"work": work, "side": side, **measure(work, side)})
                print(json.dumps(runs[-1]), flush=True)
                options.out.write_text(json.dumps(runs, indent=2) + "\n")
        print(f"{work}: {ratios([run for run in runs if run['work'] == work])}", flush=True)


def ratios(runs: list[dict[str, Any]]) -> list[float]:
    """Return hydralign's tokens a second over TRL's, pair by pair, where both came through."""
    ours, theirs = ([run for run in runs if run["side"] == side] for side in SIDES)
    return [
        one["tokens_per_second"] / other["tokens_per_second"]
        for one, other in zip(ours, theirs, strict=False)
        if "error" not in one and "error" not in other
    ]


if __name__ == "__main__":
    main()
