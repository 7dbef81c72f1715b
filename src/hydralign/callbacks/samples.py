"""The same few held-out prompts, answered again and again, as text in TensorBoard."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from hydralign.data.collate import PromptBatch
from hydralign.models.codec import Codec
from hydralign.rollout.sampling import sample_responses
from hydralign.summary import markdown_cell


class SampleTable(L.Callback):
    """Logs a table of prompts, responses and scores every so many steps."""

    def __init__(self, prompts: PromptBatch, codec: Codec, *, every: int, seed: int) -> None:
        """Fix the prompts and the draws.

        Args:
            prompts: held-out ones.
            codec: stop and pad ids.
            every: optimizer steps, in PPO rollouts, between two tables.
            seed: of the draws, the same for every table.
        """
        self.prompts = prompts
        self.codec = codec
        self.every = every
        self.seed = seed

    def on_train_start(self, trainer: L.Trainer, stage: Any) -> None:
        """Show where training starts."""
        if trainer.global_step == 0:  # not where it goes on
            self._log(trainer, stage, 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, stage: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Show where training stands."""
        if (index + 1) % self.every == 0 or trainer.is_last_batch:
            self._log(trainer, stage, index + 1)

    def _log(self, trainer: L.Trainer, stage: Any, step: int) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        generator = torch.Generator(stage.device).manual_seed(self.seed)
        prompts = self.prompts.to(stage.device)
        responses = sample_responses(stage.policy, prompts, self.codec, stage.sampling, generator)
        scorer = getattr(stage, "scorer", None)
        scores = scorer(responses).tolist() if scorer else [None] * len(responses.texts)
        rows = ["| prompt | response | score |", "| --- | --- | --- |"]
        for prompt, text, score in zip(responses.prompts, responses.texts, scores, strict=True):
            shown = "" if score is None else f"{score:+.2f}"
            rows.append(f"| {markdown_cell(prompt)} | {markdown_cell(text)} | {shown} |")
        trainer.logger.experiment.add_text("rollout/samples", "\n".join(rows), step)
