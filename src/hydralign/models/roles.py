"""The four roles as stages see them: networks that write text, and networks that give numbers.

Whether a role owns its network or is an adapter on a shared base shows only in its `Network`.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from hydralign.models.adapters import AdapterSet
from hydralign.models.attention import takes_packed_rows
from hydralign.models.heads import ScalarHead
from hydralign.models.last_layer import skipping_unread
from hydralign.models.norms import keep_norm_inputs_narrow_
from hydralign.models.packed_attention import packing
from hydralign.rl.logprobs import (
    in_chunks,
    token_logprobs,
    token_logprobs_and_entropy,
    with_row_gradients,
)
from hydralign.rl.packing import PackedRows
from hydralign.rl.sequences import Sequences


class Network(nn.Module):
    """A transformer up to its last hidden states, owned by one role."""

    checkpoints = False
    """Whether activations are computed anew in the backward pass."""

    def __init__(self, language_model: PreTrainedModel, *, trained: bool) -> None:
        """Take the network over.

        Args:
            language_model: a causal language model, or one without its LM head.
            trained: whether its parameters get gradients.
        """
        super().__init__()
        self.language_model = language_model.requires_grad_(trained)
        keep_norm_inputs_narrow_(language_model)

    def prepare(self) -> None:
        """Do what must precede a forward pass; nothing, where the network is the role's own."""

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return what the optimizer may change."""
        return [p for p in self.language_model.parameters() if p.requires_grad]

    def checkpoint_activations(self) -> None:
        """Keep no activations within layers for the backward pass; compute them anew there."""
        self.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        self.checkpoints = True

    def forward(self, **inputs: Tensor | Cache | PackedRows | bool | None) -> Tensor:
        """Return hidden states (b, t, d)."""
        self.prepare()
        # All roles must be one function of their weights, whatever a network does in training mode:
        # that is for passes only whose activations are checkpointed, which have no KV cache.
        training = self.checkpoints and torch.is_grad_enabled()
        if self.language_model.training != training:
            self.language_model.train(training)
        return self.language_model.base_model(**inputs).last_hidden_state

    def of_rows(self, ids: Tensor, rows: PackedRows, read: Tensor) -> Tensor:
        """Return hidden states (m, d) of some tokens of packed rows.

        Args:
            ids: (n,) the tokens, in the order of `rows.tokens`.
            rows: how they are packed.
            read: (m,) which of the n tokens, none of them twice.
        """
        if not takes_packed_rows(self.language_model):
            return self._of_padded_rows(ids, rows).index_select(0, read)
        # Checkpointed layers are computed once more in the backward pass, where nothing is skipped;
        # and passes with and without gradients must be rounded alike.
        whole = self.checkpoints
        skipping = nullcontext() if whole else skipping_unread(self.language_model, read)
        with packing(), skipping:
            states = self(
                input_ids=ids.unsqueeze(0),
                position_ids=rows.position_ids.unsqueeze(0),
                attention_mask=torch.ones(1, rows.width, dtype=torch.bool, device=ids.device),
                packed_rows=rows,
                use_cache=False,
            )
        return states[0].index_select(0, read)

    def _of_padded_rows(self, ids: Tensor, rows: PackedRows) -> Tensor:
        states = []
        for some in rows.spread(ids):
            # All padding comes last, where no token looks: no mask, and positions from 0 on.
            positions = torch.arange(some.shape[1], device=ids.device).expand(some.shape)
            states.append(self(input_ids=some, position_ids=positions, use_cache=False))
        return rows.pack(states)

    @property
    def lm_head_trains(self) -> bool:
        """Whether the map from hidden states to logits may change."""
        head = self.language_model.get_output_embeddings()
        return any(parameter.requires_grad for parameter in head.parameters())

    def lm_head(self, hidden_states: Tensor) -> Tensor:
        """Map hidden states (..., d) to logits (..., v)."""
        logits = self.language_model.get_output_embeddings()(hidden_states)
        config = self.language_model.config.get_text_config()
        # What Granite, Cohere and Gemma 2 do to their logits afterwards.
        if scaling := getattr(config, "logits_scaling", None):
            logits = logits / scaling
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return logits


class AdapterNetwork(Network):
    """A shared base, run with one role's adapter."""

    def __init__(self, adapters: AdapterSet, name: str) -> None:
        """Use an adapter that has been added already.

        Args:
            adapters: the base and all roles' adapters.
            name: of this role.
        """
        nn.Module.__init__(self)
        self.language_model = adapters.language_model
        self.adapters = adapters
        self.name = name

    def prepare(self) -> None:
        """Switch the base to this role."""
        self.adapters.activate(self.name)

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return the adapter's parameters, if they train."""
        return [p for p in self.adapters.parameters_of(self.name) if p.requires_grad]


class TokenStats(NamedTuple):
    """What a text role thinks of given responses; no gradient."""

    logprobs: Tensor
    """(b, r) of each response token; 0 outside the mask."""
    entropy: Tensor
    """(b, r) of the distribution each was drawn from; 0 outside the mask."""


class TextRole(nn.Module):
    """A role that writes: policy or reference."""

    chunk_size: int | None = None
    """Tokens whose logits may stand in memory at once; None is all."""
    records_decoding = False
    """Whether a step of sampling is recorded on a GPU and replayed."""

    def __init__(self, network: Network) -> None:
        """Wrap a network that has an LM head."""
        super().__init__()
        self.network = network

    def forward(self, sequences: Sequences, *, temperature: float = 1.0) -> Tensor:
        """Return (b, r) the log-prob of each counted response token; 0 outside the mask.

        Args:
            sequences: b prompts with their responses.
            temperature: what sampling divides the logits by.
        """

        def logprobs_of(states: Tensor, ids: Tensor) -> Tensor:
            return token_logprobs(self.network.lm_head(states), ids, temperature=temperature)

        return _unflatten(self._of_counted(logprobs_of, sequences), sequences.response_mask)

    @torch.no_grad()
    def stats(self, sequences: Sequences, *, temperature: float = 1.0) -> TokenStats:
        """Return log-probs and entropy; the entropy makes it slower than `forward`.

        Args:
            sequences: b prompts with their responses.
            temperature: what sampling divides the logits by.
        """

        def stats_of(states: Tensor, ids: Tensor) -> Tensor:
            logits = self.network.lm_head(states)
            both = token_logprobs_and_entropy(logits, ids, temperature=temperature)
            return torch.stack(both, dim=-1)

        columns = self._of_counted(stats_of, sequences).unbind(-1)
        return TokenStats(*(_unflatten(column, sequences.response_mask) for column in columns))

    def next_token_logits(
        self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Cache
    ) -> Tensor:
        """Extend the cache by some tokens and return the logits (b, v) of the token that follows.

        Args:
            ids: (b, n) the new tokens.
            attention_mask: (b, cached + n) bool.
            position_ids: (b, n) of the new tokens.
            cache: keys and values of the tokens before; extended in place.
        """
        hidden_states = self.network(
            input_ids=ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return self.network.lm_head(hidden_states[:, -1])

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return what the optimizer may change."""
        return list(self.network.trained_parameters())

    def _of_counted(
        self, function: Callable[[Tensor, Tensor], Tensor], sequences: Sequences
    ) -> Tensor:
        """Apply a function to states and ids of the n counted tokens: the LM head sees no other."""
        states = _states_at(sequences.before_counted, sequences, self.network)
        ids = sequences.counted(sequences.response_ids)
        if states.requires_grad and not self.network.lm_head_trains:
            return with_row_gradients(function, states, ids, self.chunk_size)
        return in_chunks(function, states, ids, self.chunk_size)


class ScalarRole(nn.Module):
    """A role that gives numbers: value model or reward model."""

    def __init__(self, network: Network, head: ScalarHead, *, trained: bool) -> None:
        """Put a head on a network.

        Args:
            network: its LM head, if it has one, stays unused.
            head: of this role alone.
            trained: whether the head's weight gets gradients.
        """
        super().__init__()
        self.network = network
        self.head = head.requires_grad_(trained)

    def values(self, sequences: Sequences) -> Tensor:
        """Return (b, r) the value before each counted response token; 0 outside the mask."""
        states = _states_at(sequences.before_counted, sequences, self.network)
        return _unflatten(self.head(states), sequences.response_mask)

    def scores(self, sequences: Sequences) -> Tensor:
        """Return (b,) the score of each whole response, read at its last counted token."""
        return self.head(_states_at(sequences.last_counted, sequences, self.network))

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return what the optimizer may change."""
        head = [self.head.weight] if self.head.weight.requires_grad else []
        return [*self.network.trained_parameters(), *head]


Role = TextRole | ScalarRole


def _states_at(places: Tensor, sequences: Sequences, network: Network) -> Tensor:
    """Return hidden states (m, d) of some tokens.

    Args:
        places: (m,) where they stand in the rows, flattened; there must be a token at each.
        sequences: b rows.
        network: of the role.
    """
    rows, ids = sequences.packed, sequences.sequence_ids.flatten()
    n = len(rows.tokens)
    number_at = torch.full_like(ids, n)  # out of range, where there is padding
    number_at[rows.tokens] = torch.arange(n, device=ids.device)
    return network.of_rows(ids[rows.tokens], rows, number_at[places])


def _unflatten(counted: Tensor, mask: Tensor) -> Tensor:
    """Put (n,) values back where the mask (b, r) counts them, 0 elsewhere."""
    return counted.new_zeros(mask.shape).masked_scatter(mask, counted)
