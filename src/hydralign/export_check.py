"""A model that was exported, beside the one of its run: the same held-out texts for both."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hydralign.data.records import BadRow
from hydralign.data_source import DataSource, drawn
from hydralign.errors import UserError
from hydralign.export.drift import Drift, own_logits, policy_drift, score_drift
from hydralign.export.recipe import Recipe
from hydralign.export.writing import plain_pad_id, score_shift, text_options
from hydralign.finished import Policy, RewardModel
from hydralign.models.loading import load_tokenizer
from hydralign.rl.sequences import Sequences, pad_sequences

PROMPTS, AT_A_TIME, LONGEST = 32, 4, 64
"""Held-out prompts that policies answer, how many in one pass, and tokens of an answer."""
COMPARISONS, OF_EACH = 16, 4
"""Held-out comparisons, and responses of each, that reward models score."""


def measure(opened: Policy | RewardModel, recipe: Recipe, folder: Path) -> Drift:
    """Load what was exported as others will, and compare it with the run's own.

    Args:
        opened: the run's own.
        recipe: how others load it.
        folder: of the export.

    Raises:
        UserError: if its data holds nothing out.
    """
    plain = recipe.load(folder).eval()
    if not recipe.quantization:  # bitsandbytes has chosen a device, and keeps to it
        plain = plain.to(opened.device)
    if isinstance(opened, Policy):
        return _of_policy(opened, plain)
    return _of_scores(opened, plain, load_tokenizer(str(folder)))


def _of_policy(opened: Policy, plain: Any) -> Drift:
    source, network = DataSource(opened.config.data), opened.role.network
    prompts = source.examples("prompt", opened.codec, PROMPTS)
    held_out = _some(prompts.test or prompts.validation, "prompt", opened)
    batches = source.prompt_batches(held_out, opened.codec, batch_size=AT_A_TIME)

    def logits(sequences: Sequences) -> Tensor:
        with opened.precision():
            return own_logits(network, sequences.to(opened.device))

    longest = min(LONGEST, opened.config.data.max_response_tokens)
    return policy_drift(logits, plain, batches, opened.codec.stop_ids, longest)


def _of_scores(opened: RewardModel, plain: Any, tokenizer: Any) -> Drift:
    together = 1 if plain_pad_id(opened.role, opened.codec) is None else AT_A_TIME
    held_out = _some(list(_responses(opened)), "comparison", opened)
    batches = list(_as_texts(held_out, opened, tokenizer, together))

    def scores(sequences: Sequences) -> Tensor:
        with opened.precision():
            return opened.role.scores(sequences.to(opened.device))

    return score_drift(scores, plain, batches, score_shift(opened.role))


class _Response(NamedTuple):
    prompt_ids: list[int]
    response_ids: list[int]
    text: str | None
    """Of both, without the stop token; None where others cannot have the same tokens."""


def _responses(opened: RewardModel) -> Iterator[_Response]:
    data, encoder = opened.config.data, opened.encoder()
    limit = data.max_comparison_tokens or data.max_response_tokens
    splits = DataSource(data).records("comparison")
    for record in drawn(splits.test or splits.validation, COMPARISONS):
        for response in record.responses[:OF_EACH]:
            with suppress(BadRow):
                asked = encoder.prompt_ids(record.prompt)
                said = encoder.response_ids(record.prompt, response)
                if len(said) <= limit:
                    yield _Response(asked, said, encoder.whole_text(record.prompt, response))


def _as_texts(
    responses: list[_Response], opened: RewardModel, tokenizer: Any, together: int
) -> Iterator[tuple[Sequences, Mapping[str, Tensor]]]:
    """Yield batches as the run lays them out and as the card says; token by token if no text is."""
    pad_id, options = opened.codec.pad_id, text_options(opened.config.data.template)
    texts = [response for response in responses if response.text is not None]
    others = [response for response in responses if response.text is None]
    for start in range(0, len(texts), together):
        prompts, said, written = zip(*texts[start : start + together], strict=True)
        ended = [text + tokenizer.eos_token for text in written]
        batch = tokenizer(ended, return_tensors="pt", padding=together > 1, **options)
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        yield pad_sequences(prompts, said, pad_id), given
    for prompt, response, _ in others:
        row = pad_sequences([prompt], [response], pad_id)
        yield row, {"input_ids": row.sequence_ids}


def _some(held_out: list[Any], kind: str, opened: Policy | RewardModel) -> list[Any]:
    if not held_out:
        raise UserError(
            f"data={opened.config.data.name} has no held-out {kind}s to compare the exported model "
            "with the run's own on: data.splits gave all of them to training, or they are longer "
            "than it allows."
        )
    return held_out
