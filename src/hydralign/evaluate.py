"""Any two finished policies on the same prompts, sampled and greedy, by any scorer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hydralign.data.encoder import Encoder
from hydralign.data.records import Prompt
from hydralign.finished import Policy, open_policies
from hydralign.judges import find_judges
from hydralign.prompts import batch_of, check_number, check_same_text, choose_data, draw_prompts
from hydralign.rollout.decoding import GREEDY
from hydralign.rollout.sampling import Responses, Scorer, TokenChoice, sample_responses
from hydralign.runs import find_policy, told_apart
from hydralign.stages.bootstrap import bootstrap_interval
from hydralign.stages.evaluation import Answers, comparison_figures
from hydralign.summary import Row, aligned_table

WAYS: dict[str, TokenChoice | None] = {"temperature 1": None, "greedy": GREEDY}
"""How policies answer, and what then takes a token; None is a draw from all."""


@dataclass(frozen=True)
class Question:
    """What two policies are asked."""

    scorers: Sequence[str] = ()
    """As `find_judges` takes them."""
    prompts: int | None = None
    """How many, drawn at random; None is as many as a run's own test takes."""
    split: str = "test"
    data: Sequence[str] = ()
    """Overrides that choose other prompts than those of the first run."""
    seed: int = 0
    own_templates: bool = False
    """Let each policy read the prompts in its own template."""

    def __post_init__(self) -> None:
        check_number(self.prompts)


def evaluate(folders: Sequence[Path], conf: Path, question: Question) -> dict[str, Any]:
    """Let two policies answer the same prompts.

    Args:
        folders: of two runs, chains or artifacts.
        conf: the folder of the configs.
        question: what to ask, and who judges.

    Returns:
        what was asked, and under `results` the figures for each way of answering and each scorer;
        the first policy's end in `_before`, the second's do not.

    Raises:
        UserError: if a run, a prompt or a scorer cannot be used.
    """
    runs = told_apart([find_policy(folder) for folder in folders])
    policies = open_policies(runs)
    data = choose_data(policies[0].config, question.data, conf)
    encoders = [policy.encoder(data) for policy in policies]
    most = question.prompts or (data.max_test_records if question.split == "test" else None)
    prompts = draw_prompts(data, question.split, most, encoders)
    if not question.own_templates:
        check_same_text(policies, encoders, prompts)
    judges = find_judges(question.scorers, policies, data)
    results = []
    for way, choose in WAYS.items():
        answers = [
            answers_of(policy, encoder, prompts, choose, seed=question.seed)
            for policy, encoder in zip(policies, encoders, strict=True)
        ]
        results += [
            {"answers": way, "scorer": name, **_judged(answers, judge, question.seed)}
            for name, judge in judges.items()
        ]
    return {
        "policies": [
            {"name": run.name, "policy": str(run.artifact), "artifact_id": run.manifest.id}
            for run in runs
        ],
        "data": data.name,
        "split": question.split,
        "prompts": len(prompts),
        "seed": question.seed,
        "own_templates": question.own_templates,
        "results": results,
    }


def answers_of(
    policy: Policy,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    choose: TokenChoice | None,
    *,
    seed: int,
) -> list[Responses]:
    """Let a policy answer prompts, at temperature 1 or as `choose` says.

    Args:
        policy: that answers.
        encoder: its own.
        prompts: to answer.
        choose: takes the next token; None draws from all.
        seed: of the draws, in batches as at the end of a run: there they are the same.
    """
    n = policy.config.hardware.generation_batch_size
    pieces = [prompts[start : start + n] for start in range(0, len(prompts), n)]
    sampling = policy.sampling(1.0, encoder.max_response_tokens)
    generator = torch.Generator(policy.device).manual_seed(seed)
    with policy.precision():
        return [
            sample_responses(
                policy.role,
                batch_of(policy, encoder, piece),
                policy.codec,
                sampling,
                generator,
                choose,
            )
            for piece in tqdm(pieces, f"{policy.run.name} answers", delay=2, leave=False)
        ]


def _judged(answers: Sequence[Sequence[Responses]], judge: Scorer, seed: int) -> dict[str, float]:
    """Return the figures of two policies' answers by one scorer."""
    with torch.no_grad():
        before, after = (
            Answers(list(batches), torch.cat([judge(batch) for batch in batches]).cpu(), None)
            for batches in answers
        )
    gains = after.scores - before.scores
    low, high = bootstrap_interval(list(gains.unsqueeze(-1)), seed=seed)
    return comparison_figures(before, after, seed=seed) | {"gain_low": low, "gain_high": high}


def table(report: Mapping[str, Any]) -> str:
    """Return the results of `evaluate` as tables: scores, and what the answers are like."""
    first, second = (policy["name"] for policy in report["policies"])
    head = ("answers", "scorer", first, second, "gain", "95 %", f"{second} wins", "95 %")
    scores = [
        (
            each["answers"],
            Path(each["scorer"]).name,
            f"{each['score_before']:+.3f}",
            f"{each['score_after']:+.3f}",
            f"{each['score_after'] - each['score_before']:+.3f}",
            f"{each['gain_low']:+.3f} to {each['gain_high']:+.3f}",
            f"{each['win_rate']:.3f}",
            f"{each['win_rate_low']:.3f} to {each['win_rate_high']:.3f}",
        )
        for each in report["results"]
    ]
    ways = {each["answers"]: each for each in report["results"]}
    texts = [
        (
            way,
            name,
            f"{each[f'response_length{end}']:.1f}",
            f"{each[f'eos_rate{end}']:.3f}",
            f"{each[f'distinct_responses{end}']:.3f}",
        )
        for way, each in ways.items()
        for name, end in ((first, "_before"), (second, ""))
    ]
    about = aligned_table(("answers", "policy", "tokens", "stopped", "distinct"), _rows(texts))
    return aligned_table(head, _rows(scores)) + about


def _rows(cells: Sequence[Sequence[str]]) -> list[Row]:
    return [Row(each) for each in cells]
