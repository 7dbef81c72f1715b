"""What lies in a run folder, and what is missing there."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hydralign.errors import UserError
from hydralign.outcomes import EVALUATION, Outcomes, read_outcomes
from hydralign.record import RECORD

SAMPLES = "rollout/samples/text_summary"
"""Under which the answers to watched prompts are logged."""


class Curve(NamedTuple):
    """One logged figure."""

    steps: list[int]
    values: list[float]


class Answer(NamedTuple):
    """What the policy said to a watched prompt; the score as text, empty where there is none."""

    prompt: str
    response: str
    score: str


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder tells it. What could not be read is empty, and said in `missing`."""

    path: Path
    record: Mapping[str, Any]
    plan: Mapping[str, Any]
    metrics: Mapping[str, float]
    outcomes: Outcomes | None
    curves: Mapping[str, Curve]
    answers: Mapping[int, list[Answer]]
    """To the same prompts, by the step they were given at."""
    missing: tuple[str, ...]
    comparison: Sequence[Mapping[str, Any]] = ()
    """Of a chain: figures of policies on the same prompts, as `scripts/compare.py` left them."""

    @property
    def chain(self) -> list[str]:
        """Names of the stages, if it is a chain of them."""
        return list(self.record["settings"]["stage"].get("chain", ()))

    @property
    def stage(self) -> str:
        """Name of the stage; of a chain, those of its stages."""
        if self.chain:
            return ", ".join(self.chain)
        return str(self.record["settings"]["stage"]["_target_"].split(".")[-2])

    @property
    def step_name(self) -> str:
        """What a step of the stage is called."""
        return "rollout" if "rollouts" in self.record["settings"]["stage"] else "optimizer step"

    def figure(self, name: str) -> float | None:
        """Return a final figure of the stage, without the stage's name."""
        return self.metrics.get(f"{self.stage}/{name}")


def read_run(folder: Path) -> RunFolder:
    """Read a run folder, as far as it can be read.

    Args:
        folder: of a stage or of a chain; finished, stopped or of an earlier version.

    Raises:
        UserError: if it holds no run.
    """
    missing: list[str] = []
    record = _json(folder / RECORD, missing)
    try:
        stage = record["settings"]["stage"]
        chain = "chain" in stage
        assert chain or stage["_target_"].count(".") > 0
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        reason = missing[0] if missing else f"{RECORD} does not say which stage it was"
        raise UserError(
            f"{folder} holds no run: {reason}. Name the folder of a run or of a chain, such as "
            "outputs/demo."
        ) from error
    metrics = _json(folder / "metrics.json", missing)
    if chain:
        compared = _json(folder / "comparison.json", []).get("rows", ())  # few chains have one
        return RunFolder(folder, record, {}, metrics, None, {}, {}, tuple(missing), compared)
    plan = _json(folder / "plan.json", missing)
    outcomes = _outcomes(folder, stage, missing)
    curves, answers = _logged(folder, missing)
    return RunFolder(folder, record, plan, metrics, outcomes, curves, answers, tuple(missing))


def _json(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
        missing.append(f"{path.name} is damaged")
    except FileNotFoundError:
        missing.append(f"{path.name} is missing")
    except (OSError, ValueError) as error:
        missing.append(f"{path.name} cannot be read ({error})")
    return {}


def _outcomes(folder: Path, stage: Mapping[str, Any], missing: list[str]) -> Outcomes | None:
    try:
        return read_outcomes(folder)
    except FileNotFoundError:
        if not stage["_target_"].endswith(".SFT"):  # which has nothing but its loss to show
            missing.append(f"{EVALUATION} is missing (earlier versions did not write it)")
    except (OSError, ValueError) as error:
        missing.append(f"{EVALUATION} cannot be read ({error})")
    return None


def _logged(folder: Path, missing: list[str]) -> tuple[dict[str, Curve], dict[int, list[Answer]]]:
    """Read the curves and the sampled answers from TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    try:
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        tags = events.Tags()
        curves = {}
        for name in tags["scalars"]:
            points = sorted((point.step, point.value) for point in events.Scalars(name))
            curves[name] = Curve([step for step, _ in points], [value for _, value in points])
        told = events.Tensors(SAMPLES) if SAMPLES in tags["tensors"] else []
        answers = {each.step: _rows(each.tensor_proto.string_val[0].decode()) for each in told}
    except Exception as error:  # a damaged file raises whatever it likes
        missing.append(f"TensorBoard's files cannot be read ({error!r})")
        return {}, {}
    if not curves:
        missing.append("there are no curves: TensorBoard's files are missing or empty")
    return curves, answers


def _rows(table: str) -> list[Answer]:
    """Read back the Markdown table that the callback of sampled answers writes."""
    rows = []
    for line in table.split("\n")[2:]:  # a response may hold what else ends a line
        cells = [_plain(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3:
            rows.append(Answer(cells[0], cells[1], cells[2].strip()))
    return rows


def _plain(cell: str) -> str:
    return cell[1:-1].replace("<br>", "\n").replace("\\|", "|")
