"""Any sequence classifier of the hub, by text: `rewards=[{scorer: classifier, options: {...}}]`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hydralign.errors import UserError, nearest


class Classifier:
    """Scores a response by how sure a classifier is of a label.

    Prompts come as the policy reads them, its chat template included.
    """

    def __init__(
        self,
        source: str,
        label: str | None = None,
        *,
        prompt: bool = True,
        batch_size: int = 32,
        device: str | None = None,
    ) -> None:
        """Load it. Its memory is not part of the plan.

        Args:
            source: hub id, or a local folder.
            label: which of its labels; not needed where it has one, as reward models have.
            prompt: whether it reads the prompt before the response.
            batch_size: texts per forward pass.
            device: where it runs; None is the accelerator, where there is one.

        Raises:
            UserError: if it has several labels and none of that name, or cannot be loaded.
        """
        try:
            model = AutoModelForSequenceClassification.from_pretrained(source)
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            self.tokenizer.truncation_side = "left"  # of a long text the response is what counts
        except (OSError, ValueError) as error:
            raise UserError(
                f"rewards: the classifier {source} cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        if self.tokenizer.pad_token is None:  # texts of a batch are padded, and told apart by it
            self.tokenizer.pad_token = self.tokenizer.eos_token
            model.config.pad_token_id = self.tokenizer.pad_token_id
        found = torch.accelerator.current_accelerator(check_available=True)
        self.device = device or (found.type if found else "cpu")
        self.model: Any = model.eval().requires_grad_(False).to(self.device)
        self.index = _index(source, model.config.id2label, label)
        self.prompt, self.batch_size = prompt, batch_size

    def __call__(
        self, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None]
    ) -> list[float]:
        """Return the score of each response: the logit, or the log-odds of one label of several.

        Args:
            prompts: b texts.
            responses: b texts.
            answers: of no use here.
        """
        pairs = zip(prompts, responses, strict=True)
        texts = [prompt + response if self.prompt else response for prompt, response in pairs]
        pieces = [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]
        return [score for piece in pieces for score in self._scores(piece).tolist()]

    @torch.no_grad()
    def _scores(self, texts: Sequence[str]) -> Tensor:
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        logits: Tensor = self.model(**inputs.to(self.device)).logits.float()
        chosen = logits[:, self.index]
        others = torch.cat([logits[:, : self.index], logits[:, self.index + 1 :]], dim=1)
        return chosen - others.logsumexp(-1) if others.shape[1] else chosen


def _index(source: str, labels: dict[int, str], label: str | None) -> int:
    if label is None and len(labels) == 1:
        return 0
    for index, name in labels.items():
        if label is not None and name.lower() == label.lower():
            return int(index)
    raise UserError(
        f"rewards: the classifier {source} has no label {label!r}."
        f"{nearest(str(label), labels.values())} Set options.label."
    )
