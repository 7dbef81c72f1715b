"""How plain transformers and peft load what was exported: said as Python, and done."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import transformers

from hydralign.models.quantization import Quantization

BESIDE = "base"
"""The folder of a base that lies within the export."""

REPACKS = "support_avx512bf16_for_cpu"
WHY = "on such CPUs bitsandbytes would round the weights again, or fail"


@dataclass(frozen=True)
class Recipe:
    """The classes to call, and what to call them with."""

    scalar: bool
    """Whether it is a reward model."""
    base: str | None = None
    """Of an adapter: a hub id, or `BESIDE`. None is a model that is whole."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the base's `from_pretrained`."""
    quantization: dict[str, Any] = field(default_factory=dict)
    """What `BitsAndBytesConfig` is made with; nothing for a base in full."""

    @property
    def kind(self) -> str:
        """The class of transformers that it is loaded by."""
        return f"AutoModelFor{'SequenceClassification' if self.scalar else 'CausalLM'}"

    def lines(self, folder: str) -> str:
        """Return Python that loads `tokenizer` and `model` from the export in a folder."""
        bits = ["BitsAndBytesConfig"] if self.quantization else []
        settings = ["GenerationConfig"] if self.base and not self.scalar else []
        names = sorted(["AutoTokenizer", self.kind, *bits, *settings])
        said = ["from peft import PeftModel"] if self.base else []
        said += [f"from transformers import {', '.join(names)}", ""]
        said += [f'tokenizer = AutoTokenizer.from_pretrained("{folder}")']
        if self.base is None:
            return "\n".join([*said, f'model = {self.kind}.from_pretrained("{folder}")'])
        base = f"{folder}/{BESIDE}" if self.base == BESIDE else self.base
        options = dict(self.options)
        if self.quantization:
            said += [f"bits = BitsAndBytesConfig({_arguments(self.quantization)})"]
        given = _arguments(options) + (", quantization_config=bits" if bits else "")
        said += [f'base = {self.kind}.from_pretrained("{base}", {given})']
        said += [f'model = PeftModel.from_pretrained(base, "{folder}")']
        if "load_in_4bit" in self.quantization:
            said += [f"for layer in model.modules():  # {WHY}", f"    layer.{REPACKS} = False"]
        if settings:
            said += [f'model.generation_config = GenerationConfig.from_pretrained("{folder}")']
        return "\n".join(said)

    def load(self, folder: Path) -> Any:
        """Load the model as the lines do."""
        kind = getattr(transformers, self.kind)
        if self.base is None:
            return kind.from_pretrained(folder)
        options = dict(self.options)
        if self.quantization:
            options["quantization_config"] = transformers.BitsAndBytesConfig(**self.quantization)
        base = kind.from_pretrained(
            folder / BESIDE if self.base == BESIDE else self.base, **options
        )
        model: Any = peft.PeftModel.from_pretrained(base, folder)
        for layer in model.modules() if "load_in_4bit" in self.quantization else ():
            setattr(layer, REPACKS, False)
        if not self.scalar:
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        return model


def adapter_recipe(
    base: str, dtype: str, bits: Quantization | None, *, scalar: bool, pad_id: int | None
) -> Recipe:
    """Return how an adapter is loaded.

    Args:
        base: a hub id, or `BESIDE`.
        dtype: of the base.
        bits: how its linear layers are kept.
        scalar: whether it is a reward model.
        pad_id: of a reward model.
    """
    options: dict[str, Any] = {"dtype": dtype}
    if scalar:
        options |= {"num_labels": 1, "pad_token_id": pad_id}
    quantization: dict[str, Any] = {}
    if bits is not None and bits.kind == "int8":
        quantization = {"load_in_8bit": True}
    elif bits is not None:
        quantization = {"load_in_4bit": True, "bnb_4bit_quant_type": bits.kind}
        quantization |= {"bnb_4bit_compute_dtype": dtype, "bnb_4bit_use_double_quant": bits.double}
    if quantization and scalar:
        quantization["llm_int8_skip_modules"] = ["score"]  # its name says 8 bits, it is for both
    return Recipe(scalar, base, options, quantization)


def _arguments(options: dict[str, Any]) -> str:
    return ", ".join(
        f'{name}="{value}"' if isinstance(value, str) else f"{name}={value!r}"
        for name, value in options.items()
    )
