"""Roles in the plain form that transformers and peft read."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hydralign.models.codec import Codec
from hydralign.models.loading import ADAPTER_WEIGHTS, HEAD_KEY
from hydralign.models.roles import AdapterNetwork, Role, ScalarRole


def save_role(role: Role, codec: Codec, folder: Path) -> None:
    """Write a role's weights and its tokenizer.

    A network of its own becomes a full model, a `ScalarRole` as a sequence classifier with one
    label; an adapter becomes a PEFT adapter, its head beside it.

    Args:
        role: to save.
        codec: its tokenizer.
        folder: must exist.
    """
    head = role.head.weight.detach() if isinstance(role, ScalarRole) else None
    network = role.network
    if isinstance(network, AdapterNetwork):
        _save_adapter(network, head, folder)
    elif head is None:
        network.language_model.config.pad_token_id = codec.pad_id
        network.language_model.save_pretrained(folder)
    else:
        _as_classifier(network.language_model, head, codec).save_pretrained(folder)
    codec.tokenizer.save_pretrained(folder)


def _save_adapter(network: AdapterNetwork, head: Tensor | None, folder: Path) -> None:
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.adapters.state_dict_of(network.name).items()
    }
    config = network.adapters.config()
    config.base_model_name_or_path = network.language_model.config._name_or_path
    config.inference_mode = True
    if head is not None:
        config.task_type = "SEQ_CLS"
        config.modules_to_save = ["score"]
        weights[HEAD_KEY] = head.cpu().contiguous()
    config.save_pretrained(str(folder))
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _as_classifier(model: PreTrainedModel, head: Tensor, codec: Codec) -> PreTrainedModel:
    config = type(model.config).from_dict(model.config.to_dict())
    config.num_labels, config.pad_token_id = 1, codec.pad_id
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(config)
    # Share the weights instead of copying them: this is only a form to save them in.
    setattr(classifier, classifier.base_model_prefix, model.base_model)
    classifier.score.weight = torch.nn.Parameter(head.cpu(), requires_grad=False)
    return classifier
