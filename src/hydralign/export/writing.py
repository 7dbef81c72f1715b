"""The files of an export, but for its card."""

from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from hydralign.data.templates import FALLBACK_CHAT_TEMPLATE
from hydralign.models.codec import Codec
from hydralign.models.loading import ADAPTER_WEIGHTS, HEAD_KEY, load_adapter
from hydralign.models.merging import PLACE, unit_head
from hydralign.models.roles import Role, ScalarRole

SHIFT = "score_shift"
"""In the config of a reward model: what is left to subtract."""


def write_whole(role: Role, model: PreTrainedModel, codec: Codec, folder: Path) -> None:
    """Write a model that needs no other files.

    Args:
        role: that it was made of.
        model: with all its weights.
        codec: its tokenizer.
        folder: must exist.
    """
    config = model.config
    config.pad_token_id = plain_pad_id(role, codec)
    config.eos_token_id = codec.stop_id
    if isinstance(role, ScalarRole):
        setattr(config, SHIFT, score_shift(role))
    model.save_pretrained(folder)


def write_adapter(role: Role, artifact: Path, base: str, folder: Path) -> None:
    """Write an adapter, a reward model's head beside it.

    Args:
        role: that it is.
        artifact: where it lies.
        base: hub id or folder of its base, as others find it.
        folder: must exist.
    """
    config = LoraConfig.from_pretrained(str(artifact))
    config.base_model_name_or_path = base
    weights, _ = load_adapter(artifact)
    if isinstance(role, ScalarRole):
        # A classifier has no LM head, so nor has the adapter.
        weights = {n: w for n, w in weights.items() if not n.startswith(f"{PLACE}lm_head.")}
        weights[HEAD_KEY] = unit_head(role)
        if isinstance(config.target_modules, set):
            config.target_modules -= {"lm_head"}
    config.save_pretrained(str(folder))
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def plain_pad_id(role: Role, codec: Codec) -> int | None:
    """Return the pad id that plain libraries may know.

    A classifier reads the last token that is no padding. Where padding has no token of its own that
    would be the one before the stop token, so it is told of none and takes one text at a time.
    """
    no_token = isinstance(role, ScalarRole) and codec.pad_id in codec.stop_ids
    return None if no_token else codec.pad_id


def score_shift(role: ScalarRole) -> float:
    """Return what is to be subtracted from an exported reward model's numbers."""
    return float(role.head.mean / role.head.std)


def generation_settings(
    codec: Codec, temperature: float, max_response_tokens: int
) -> GenerationConfig:
    """Return how to sample as in training: from the whole distribution, to the first stop token.

    Args:
        codec: its stop tokens.
        temperature: of the stage.
        max_response_tokens: of the data.
    """
    return GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,  # unsaid it would be 50
        top_p=1.0,
        max_new_tokens=max_response_tokens,
        eos_token_id=list(codec.stop_ids),
        pad_token_id=codec.pad_id,
        bos_token_id=codec.tokenizer.bos_token_id,
    )


def plain_tokenizer(codec: Codec, template: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer that writes prompts as in training, whoever calls it.

    Args:
        codec: holds it; changed in place.
        template: of the data. chat: its chat template is the one used. plain: it begins each text
            as training did, with the begin-of-sequence token if there is one.
    """
    tokenizer = codec.tokenizer
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(codec.stop_id)
    if template == "chat":
        tokenizer.chat_template = tokenizer.chat_template or FALLBACK_CHAT_TEMPLATE
        return tokenizer
    bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
    if bos is not None and tokenizer("a")["input_ids"][:1] != [bos_id] and tokenizer.is_fast:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bos_id)]
        )
    return tokenizer


def text_options(template: str) -> dict[str, bool]:
    """Return how the exported tokenizer is called with a text; of a chat it holds its own start."""
    return {"add_special_tokens": False} if template == "chat" else {}
