"""Base networks: from the hub, from a folder, or from scratch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hydralign.errors import UserError, closest
from hydralign.models.quantization import Quantization, check_quantized, quantize_

ADAPTER_WEIGHTS = "adapter_model.safetensors"
HEAD_KEY = "base_model.model.score.weight"


@dataclass(frozen=True)
class BaseModel:
    """Where the weights come from that no stage has changed yet."""

    source: str | None
    """Hub id or local folder; None builds `architecture` from scratch."""
    architecture: Mapping[str, Any] | None
    """`model_type` and the other fields of a Hugging Face config."""
    dtype: torch.dtype
    quantization: Quantization | None = None
    """Of its linear layers, if it is frozen."""
    device: str = "cpu"
    """Where what is quantised goes to at once: it should be quantised there, too."""

    def load(self, vocab_size: int, seed: int) -> PreTrainedModel:
        """Load the causal language model, or draw its weights at random.

        Args:
            vocab_size: of the tokenizer; used from scratch only.
            seed: of the random weights.

        Raises:
            UserError: if the source cannot be loaded, there is no such architecture, or none of
                its layers can be quantised.
        """
        model = self._from_scratch(vocab_size, seed) if self.source is None else self._from_source()
        check_quantized(model, self.source or model.config.model_type, self.quantization)
        return model

    def _from_source(self) -> PreTrainedModel:
        assert self.source is not None
        if self.quantization is None:
            return load_language_model(self.source, self.dtype)
        quantized = self.quantization.for_loading()  # weight by weight: never all of them in full
        return load_language_model(
            self.source, self.dtype, quantization_config=quantized, device_map={"": self.device}
        )

    def _from_scratch(self, vocab_size: int, seed: int) -> PreTrainedModel:
        config = config_of({**(self.architecture or {}), "vocab_size": vocab_size})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
        if self.quantization is not None:
            quantize_(model, self.quantization, self.device)
        return model


def config_of(architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """Make the config of a network from its fields.

    Args:
        architecture: `model_type`, and what differs from that type's defaults.

    Raises:
        UserError: if there is no such type, or a field is none of its.
    """
    fields = dict(architecture)
    model_type = fields.pop("model_type", "")
    if model_type not in CONFIG_MAPPING:
        close = closest(str(model_type), CONFIG_MAPPING) or "llama"
        raise UserError(
            f"model.architecture.model_type={model_type} does not exist. Did you mean {close}?"
        )
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"model.architecture: {str(error).splitlines()[-1].strip()}") from error


def find_config(
    source: str | None, architecture: Mapping[str, Any] | None, vocab_size: int | None
) -> PreTrainedConfig:
    """Find a network's config without its weights, and without a connection where that can be.

    Args:
        source: hub id or local folder; None is from scratch.
        architecture: its fields; beside a hub id, what they are taken for until it is downloaded.
        vocab_size: of a tokenizer that is trained on the data.

    Raises:
        UserError: if there is none.
    """
    if source is None:
        return config_of({"vocab_size": vocab_size, **(architecture or {})})
    try:
        return AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError):
        return config_of(architecture) if architecture else _from_pretrained(AutoConfig, source)


def load_language_model(source: str, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """Load a causal language model from a hub id or a folder.

    Args:
        source: hub id or folder.
        dtype: of its weights.
        options: further ones of `from_pretrained`.

    Raises:
        UserError: if it cannot be loaded.
    """
    return _network(AutoModelForCausalLM, source, dtype=dtype, **options)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a hub id or a folder.

    Raises:
        UserError: if it cannot be loaded.
    """
    return _from_pretrained(AutoTokenizer, source)


def load_scorer(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Tensor]:
    """Load a reward model in Hugging Face's form: a classifier with one label.

    Returns:
        the network, and the weight (1, d) of its head.

    Raises:
        UserError: if it cannot be loaded, or has another number of labels.
    """
    # In fp32 first: the head must not be rounded on its way.
    model = _network(AutoModelForSequenceClassification, source, dtype=torch.float32)
    if model.config.num_labels != 1 or not hasattr(model, "score"):
        raise UserError(
            f"{source} is no reward model: it has {model.config.num_labels} labels, one is wanted."
        )
    head_weight = model.score.weight.detach().clone()
    return model.to(dtype), head_weight


def is_scorer(source: str) -> bool:
    """Say whether a folder or hub id holds a classifier rather than a language model."""
    config = _from_pretrained(AutoConfig, source)
    return any("SequenceClassification" in name for name in config.architectures or ())


def load_adapter(folder: Path) -> tuple[dict[str, Tensor], Tensor | None]:
    """Read an adapter from disk.

    Returns:
        its weights named as PEFT names them, and the head (1, d) that lies with them, if any.

    Raises:
        UserError: if there is no adapter in the folder.
    """
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise UserError(
            f"{folder} holds no adapter ({ADAPTER_WEIGHTS}), but this model is trained with LoRA. "
            "Give the artifact of a run with the same model config."
        )
    weights = load_file(path)
    return weights, weights.pop(HEAD_KEY, None)


def _network(kind: Any, source: str, **options: Any) -> Any:
    """Load a network from safetensors: other files of weights can hold code."""
    return _from_pretrained(kind, source, use_safetensors=True, **options)


def _from_pretrained(kind: Any, source: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"Cannot load {source!r}: {first_line}\n"
            "Give a hub id that can be reached or a local folder: model.source=FOLDER."
        ) from error
