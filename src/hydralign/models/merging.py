"""A role as one plain network: its base in full, its adapter folded in, nothing of ours left."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from hydralign.errors import UserError
from hydralign.models.quantization import QUANTIZED
from hydralign.models.roles import Role, ScalarRole

PLACE = "base_model.model."
"""What PEFT writes before the name of a layer."""
HEAD = "score.weight"
"""The head of most classifiers."""

_STAYS_HERE = (
    "so plain libraries could not load this reward model, as an adapter or merged. It can be used "
    "by the stages and scripts here; the policies of such a base can be exported."
)


def merged(
    role: Role, adapter: Mapping[str, Tensor], scaling: float, dtype: torch.dtype
) -> PreTrainedModel:
    """Return a role as transformers' own model to save: merged in fp32 and rounded once.

    What no file holds, such as the frequencies of positions, has no storage; load it to use it.
    A reward model becomes a classifier with one label, which counts in standard deviations of the
    scores. Their mean cannot be in it: the head of such a classifier has no bias.

    Args:
        role: as loaded; it stays as it is.
        adapter: its weights in fp32, named as PEFT saves them; none where it owns its network.
        scaling: of the adapter, alpha / rank.
        dtype: of the result.
    """
    weights = {name: weight.to("cpu", dtype) for name, weight in _in_full(role, adapter, scaling)}
    config = _plain_config(role.network.language_model.config)
    kind: Any = AutoModelForCausalLM
    if isinstance(role, ScalarRole):
        kind, config.num_labels = AutoModelForSequenceClassification, 1
        weights[HEAD] = unit_head(role).to(dtype)
    model = _on_meta(kind, config, dtype)
    tied: Mapping[str, str] = model.all_tied_weights_keys
    if not all(torch.equal(weights[name], weights[other]) for name, other in tied.items()):
        config.tie_word_embeddings = False  # each has an adapter of its own
        model = _on_meta(kind, config, dtype)
    for name, layer in model.named_modules():
        if isinstance(layer, Conv1D):
            weights[f"{name}.weight"] = weights[f"{name}.weight"].T.contiguous()
    model.load_state_dict({name: weights[name] for name in model.state_dict()}, assign=True)
    model.tie_weights()
    return model.requires_grad_(False).eval()


def check_classifier(config: PreTrainedConfig) -> None:
    """Check that a family's classifier is its language model with a head that ours can be.

    Args:
        config: of the network.

    Raises:
        UserError: if it has none, or one of another make.
    """
    plain = _plain_config(config)
    plain.num_labels = 1
    family = f"The {config.model_type} family of transformers"
    try:
        classifier = _on_meta(AutoModelForSequenceClassification, plain, torch.float32)
    except ValueError as error:
        raise UserError(f"{family} has no classifier; {_STAYS_HERE}") from error
    given = {*_on_meta(AutoModelForCausalLM, plain, torch.float32).state_dict(), HEAD}
    if unknown := [name for name in classifier.state_dict() if name not in given]:
        raise UserError(f"{family} has a classifier of another make ({unknown[0]}); {_STAYS_HERE}")


def unit_head(role: ScalarRole) -> Tensor:
    """Return a head's weight (1, d), of which the scores have a standard deviation of 1."""
    return (role.head.weight.detach().float() / role.head.std).cpu().contiguous()


def _on_meta(kind: Any, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config, dtype=dtype)
    return model


def _plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Copy a config without what quantising has left in it."""
    fields = config.to_dict()
    fields.pop("quantization_config", None)
    return type(config).from_dict(fields)


def _in_full(
    role: Role, adapter: Mapping[str, Tensor], scaling: float
) -> Iterator[tuple[str, Tensor]]:
    """Yield a network's weights by their plain names; those of linear layers are (n_out, n_in)."""
    model = role.network.language_model
    saved = set(model.state_dict())
    for place, layer in model.named_modules():
        plain = place.removesuffix(".base_layer")
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            full = f"{place}.{name}"
            if tensor is None or "lora_" in full or full not in saved:
                continue
            if name != "weight":
                yield f"{plain}.{name}", tensor.detach()
            elif (change := _change(plain, adapter)) is None:
                yield f"{plain}.{name}", _weight_of(layer)
            else:
                weight = _weight_of(layer).float()
                yield f"{plain}.{name}", weight + scaling * change.to(weight.device)


@torch.no_grad()
def _weight_of(layer: nn.Module) -> Tensor:
    """Return the weight that a layer computes with, whatever it is kept as."""
    weight: Any = layer.weight
    if type(layer).__name__ not in QUANTIZED:
        return weight.detach().T if isinstance(layer, Conv1D) else weight.detach()
    import bitsandbytes as bnb

    if type(layer).__name__ == "Linear8bitLt":
        return weight.detach() * layer.scale
    full: Tensor = bnb.functional.dequantize_4bit(weight.detach(), weight.quant_state)
    return full


def _change(place: str, adapter: Mapping[str, Tensor]) -> Tensor | None:
    """Return what an adapter adds to a weight before scaling; None where it has no part."""
    stem = f"{PLACE}{place}.lora_"
    if f"{stem}A.weight" in adapter:
        return adapter[f"{stem}B.weight"].float() @ adapter[f"{stem}A.weight"].float()
    if f"{stem}embedding_A" in adapter:
        return (adapter[f"{stem}embedding_B"].float() @ adapter[f"{stem}embedding_A"].float()).T
    return None
