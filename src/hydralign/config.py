"""The typed schema of what every run shares, and the check of what one stage adds to it.

No torch here: composing, `--help` and every complaint about a config must stay quick.
"""

import ast
import dataclasses
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import II, MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydralign.errors import UserError, nearest, what_is_wrong


@dataclass
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) on a frozen base."""

    rank: int = 16
    alpha: int = 32
    """The adapter's output is scaled by alpha / rank."""
    target_modules: Any = "all-linear"
    """Names of the layers to adapt, or PEFT's word for all but the LM head."""


@dataclass
class ModelConfig:
    """The network."""

    name: str = MISSING
    source: str | None = None
    """Hub id or local folder; null builds `architecture` from scratch."""
    made_by: str | None = None
    """The command that makes `source`, where it is a folder that a run of ours leaves."""
    architecture: dict[str, Any] | None = None
    """`model_type` and fields of a Hugging Face config; beside `source`, for the memory plan."""
    vocab_size: int | None = None
    """Of a tokenizer trained on the data's own training texts; null takes the source's."""
    dtype: str = "float32"
    """Of the base's weights, and of products with quantised ones. What trains is float32."""
    quantization: str = "none"
    """Of the frozen base's linear layers: none, int8 or nf4 (4 bits). Needs `lora`."""
    double_quantization: bool = True
    """nf4 only: the scales are quantised once more."""
    learning_rate: float = 2e-4
    """Peak for supervised training; the stages derive theirs from it."""
    stop_tokens: list[str] = field(default_factory=list)
    """End a response, besides the end-of-sequence token."""
    lora: LoraConfig | None = None
    """null trains all weights, and every role owns a copy of the network."""


BUILT_IN_SCORERS = {
    "classifier": "hydralign.rewards.classifier.Classifier",
    "exact_number": "hydralign.rewards.rules.exact_number",
    "length": "hydralign.rewards.rules.length",
    "matches": "hydralign.rewards.rules.matches",
    "sections": "hydralign.rewards.rules.sections",
    "vader": "hydralign.rewards.vader.vader_compound",
}
"""Short names, besides `reward_model`."""


@dataclass
class RewardConfig:
    """One scorer of responses."""

    scorer: str = "reward_model"
    """`reward_model`; a rule: exact_number, matches, length, sections, vader; classifier; or the
    import path of a function of prompts, responses and answers that returns scores."""
    weight: float = 1.0
    """In the sum that is a response's score."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the function."""


@dataclass
class DataConfig:
    """Records: where they come from and which a stage may ask for."""

    name: str = MISSING
    path: str | None = None
    """Hub id, or a local json / jsonl / csv / parquet file; sqlite, of rankings by people."""
    tokenizer_from: str | None = None
    """Data set that a model from scratch has its tokenizer of, if not of this one."""
    source: dict[str, Any] = field(default_factory=dict)
    """The function that reads the rows."""
    records: dict[str, Any] = field(default_factory=dict)
    """For each kind of record on offer, the function that makes it from rows."""
    template: str = "chat"
    """`chat`: the tokenizer's chat template. `plain`: the response continues the prompt."""
    splits: dict[str, float] = field(
        default_factory=lambda: {"train": 0.9, "validation": 0.05, "test": 0.05}
    )
    """Shares; a record's place depends on its prompt alone."""
    max_prompt_tokens: int = 384
    max_response_tokens: int = 192
    max_comparison_tokens: int | None = None
    """Limit on ranked responses; null is max_response_tokens."""
    max_test_records: int | None = None
    """Records of the test split that the final figures come from; null takes all."""
    max_bad_rows: float = 0.05
    """Share of unusable rows that stops the run."""
    rating_gap: dict[str, float] = field(
        default_factory=lambda: {"train": 0.0, "validation": 0.0, "test": 0.0}
    )
    """Pairs whose ratings lie closer are left out, by split."""
    gold: dict[str, Any] | None = None
    """A rule that scores responses and that no stage trains on."""
    rewards: list[RewardConfig] = field(default_factory=lambda: [RewardConfig()])
    """What scores responses to these prompts, if the run does not say."""


@dataclass
class HardwareConfig:
    """The machine. Nothing here changes the mathematics of a run."""

    accelerator: str = "auto"
    devices: int = 1
    """Each has a process of its own; they share the rows of every step."""
    precision: str = "32-true"
    """Of the Trainer."""
    train_micro_batch_size: int = 8
    """Sequences in one forward and backward pass of a device."""
    score_micro_batch_size: int = 32
    """Sequences in one forward pass without gradients."""
    generation_batch_size: int = 32
    """Responses sampled at a time."""
    gradient_checkpointing: bool = False
    """Compute activations within layers anew in the backward pass instead of keeping them."""
    logits_mb: float | None = None
    """MB of logits that stand in memory at once, as float32; null is all of a micro-batch."""
    attention: str | None = None
    """grouped (made for a CPU), or transformers' eager or sdpa; null is its choice."""
    record_decoding: bool = False
    """Record a step of sampling on a GPU and replay it: fewer commands, the same tokens."""
    return_freed_memory: bool = False
    """Give large blocks of main memory back when they are freed: takes less, and longer."""
    memory_gb: float | None = None
    """What a run may take; a plan above it is refused. null is what the machine has."""
    optimizer: str = "adamw"
    """adamw, adamw_8bit, paged_adamw or paged_adamw_8bit. 8 bits round Adam's averages."""


@dataclass
class RunConfig:
    """Everything that `python train.py` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    stage: Any = MISSING
    """What is optimised; its fields are the settings dataclass in the stage's own file."""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    logger: Any = MISSING
    rewards: list[RewardConfig] = II("data.rewards")
    """Scorers of the stages that sample; a response's score is their weighted sum."""
    seed: int = 0
    outputs: str = "outputs"
    """Where earlier runs are looked for."""
    validate_every: float = 0.25
    """Share of a run between two looks at held-out data."""
    samples_every: int = 20
    """Steps between two tables of sampled responses."""
    report: bool = True
    """Draw report.html in the run folder at the end."""
    resume: str | None = None
    """Folder of a run that stopped, to go on with it; auto: the newest with the same settings."""
    resume_anyway: bool = False
    """Go on even with other settings; learning rates and KL coefficient stay as they were."""
    bad_steps_to_skip: int = 0
    """Steps whose numbers are not finite that are left out before the run stops on one."""
    checkpoint_minutes: float = 10.0
    """Between two checkpoints of a run."""
    stop_after: int | None = None
    """Steps, in PPO rollouts, after which each stage ends early: to try things out."""


def register() -> None:
    """Make the schema and the resolvers known to Hydra."""
    ConfigStore.instance().store(name="schema", node=RunConfig)
    OmegaConf.register_new_resolver("times", lambda x, y: float(x) * float(y), replace=True)
    OmegaConf.register_new_resolver("twice", lambda n: 2 * int(n), replace=True)
    # Overrides as the name of one folder: a path among them has slashes, many are too long.
    OmegaConf.register_new_resolver(
        "folder_name", lambda text: re.sub(r"[^\w.,=+-]", "_", text)[:120], replace=True
    )


def read_settings(stage: DictConfig, where: str = "stage") -> Any:
    """Check a stage's config against the dataclass in the stage's file.

    Args:
        stage: the config group; its `_target_` names the stage's class.
        where: its key, for messages.

    Returns:
        an instance of (a copy of) the dataclass.

    Raises:
        UserError: if a key is unknown, a value has the wrong type, or values contradict each other.
    """
    schema = outline(stage["_target_"]).settings
    values: Any = OmegaConf.to_container(stage, resolve=True)
    values.pop("_target_")
    names = [f.name for f in dataclasses.fields(schema)]
    for key in values:
        if key not in names:
            raise UserError(f"{where}.{key} does not exist.{nearest(str(key), names)}")
    typed = OmegaConf.structured(schema)
    for key, value in values.items():
        try:
            typed[key] = value
        except OmegaConfBaseException as error:
            raise UserError(f"{where}.{key}={value}: {what_is_wrong(error)}.") from error
    for key in OmegaConf.missing_keys(typed):
        raise UserError(f"{where}.{key} is missing: {where}.{key}=VALUE.")
    check_numbers(values, f"{where}.")
    try:
        return OmegaConf.to_object(typed)
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{where}: {what_is_wrong(error)}.") from error


_LEAST = {
    r"(?<!warmup_)(steps|rollouts|size|epochs|rank|devices|tokens|samples_every|stop_after)$": 1,
    r"(rate|decay|seed)$|warmup|skip": 0,
    r"^temperature$": 0.01,
    r"^max_grad_norm$": 1e-3,
}
"""The smallest values that make sense, by what a key looks like."""


def check_numbers(values: Mapping[Any, Any], above: str = "") -> None:
    """Check that counts are at least 1, rates and the like at least 0.

    Args:
        values: a level of the config.
        above: what stands before its keys, for messages.

    Raises:
        UserError: on the first that is not.
    """
    for key, value in values.items():
        for looks, least in _LEAST.items():
            small = isinstance(value, int | float) and not value >= least
            if small and re.search(looks, str(key)):
                raise UserError(f"{above}{key}={value}: must be at least {least}.")


@dataclass(frozen=True)
class StageOutline:
    """What a stage's file says of the stage, read without importing the file.

    The file imports torch and lightning, which takes longer than a misspelt key should.
    """

    settings: type
    """Its dataclass of hyperparameters."""
    records: tuple[str, ...]
    """Kinds of records that it wants."""
    inputs: dict[str, str]
    """Artifacts that it starts from, by name, with the stage that makes them."""


def outline(target: str) -> StageOutline:
    """Read what the file of a stage's class says of it.

    Args:
        target: the class, as a config's `_target_` names it.

    Raises:
        UserError: if there is no such file, or it lacks the class or that of its settings.
    """
    module, _, name = target.rpartition(".")
    path = _file_of(module)
    if path is None:
        raise UserError(f"stage._target_={target}: there is no module {module!r}.")
    tree = ast.parse(path.read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for wanted in (name, f"{name}Settings"):
        if wanted not in classes:
            raise UserError(
                f"stage._target_={target}: {path} has no class {wanted}.{nearest(wanted, classes)}"
            )
    attributes = _literals(classes[name])
    return StageOutline(
        _execute(classes[f"{name}Settings"], path),
        tuple(attributes.get("records", ())),
        dict(attributes.get("inputs", {})),
    )


def _file_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _execute(definition: ast.ClassDef, path: Path) -> type:
    namespace: dict[str, Any] = {"dataclass": dataclass, "field": field, "__name__": __name__}
    exec(compile(ast.Module([definition], []), str(path), "exec"), namespace)
    return namespace[definition.name]


def _literals(definition: ast.ClassDef) -> dict[str, Any]:
    """Return the class attributes that can be read without running anything."""
    found = {}
    for node in definition.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for name in (target.id for target in targets if isinstance(target, ast.Name)):
            try:
                found[name] = ast.literal_eval(value) if value is not None else None
            except ValueError:  # it calls or names something: of no use here
                continue
    return found
