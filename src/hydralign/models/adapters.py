"""Several LoRA adapters on one frozen base, and the one place that switches between them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from hydralign.errors import UserError
from hydralign.models.fused_lora import fuse_
from hydralign.models.norms import keep_norm_inputs_narrow_


@dataclass(frozen=True)
class LoraShape:
    """What makes two adapters interchangeable."""

    rank: int
    alpha: int
    target_modules: str | Sequence[str] = "all-linear"


class AdapterSet(nn.Module):
    """A base language model and the adapters that turn it into roles.

    PEFT's `set_adapter` freezes every adapter but the active one. Which parameters train is
    therefore applied anew after each switch, here and nowhere else.
    """

    def __init__(self, base: PreTrainedModel, shape: LoraShape) -> None:
        """Freeze the base; adapters come with `add`.

        Args:
            base: a causal language model; it is changed in place.
            shape: of every adapter.
        """
        super().__init__()
        self.language_model = base.requires_grad_(False)
        keep_norm_inputs_narrow_(base)
        self.shape = shape
        self._peft: list[PeftModel] = []  # in a list: the same weights must not register twice
        self._trained: set[str] = set()
        self._active: str | None = None

    def add(
        self,
        name: str,
        *,
        trained: bool,
        weights: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        """Add an adapter, fresh (it changes nothing yet) or with given weights.

        Args:
            name: of the role.
            trained: whether its parameters get gradients.
            weights: as `state_dict_of` returned them.
            seed: of a fresh adapter's random half.

        Raises:
            UserError: if the target names match no layer, or the weights have another shape.
        """
        try:
            with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator
                torch.manual_seed(seed)
                if self._peft:
                    self._peft[0].add_adapter(name, self.config())
                else:
                    self._peft.append(get_peft_model(self.language_model, self.config(), name))
        except ValueError as error:
            raise UserError(
                f"model.lora.target_modules={self.shape.target_modules!r} cannot be used on this "
                f"model: {error}"
            ) from error
        self._narrow_embeddings(name)
        self._compute_narrow(name, trained=trained)
        if weights is not None:
            self._load(name, weights)
        if trained:
            self._trained.add(name)
        self._active = None
        self.activate(name)

    def activate(self, name: str) -> None:
        """Run the base as this role from now on, until the next switch."""
        if name == self._active:
            return
        self._peft[0].set_adapter(name)
        for adapter, parameter in self._adapter_parameters():
            parameter.requires_grad_(adapter in self._trained)
        self._active = name

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """Return one adapter's parameters."""
        return [parameter for adapter, parameter in self._adapter_parameters() if adapter == name]

    def state_dict_of(self, name: str) -> dict[str, Tensor]:
        """Return one adapter's weights, named as PEFT saves them."""
        return get_peft_model_state_dict(
            self._peft[0], adapter_name=name, save_embedding_layers=False
        )

    def config(self) -> LoraConfig:
        """Return the adapters' configuration in PEFT's own form."""
        targets = self.shape.target_modules
        return LoraConfig(
            r=self.shape.rank,
            lora_alpha=self.shape.alpha,
            lora_dropout=0.0,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )

    def _compute_narrow(self, name: str, *, trained: bool) -> None:
        """Let an adapter's layers take what comes as it is; PEFT makes a wide copy in each.

        A frozen adapter is rounded here once and for all, instead of in each pass.
        """
        for layer in self.language_model.modules():
            if not isinstance(layer, LoraLayer) or name not in layer.lora_A:
                continue
            fuse_(layer)
            layer.cast_input_dtype_enabled = False
            for halves in (layer.lora_A, layer.lora_B):
                half = halves[name]
                if isinstance(half, nn.Linear):
                    weight = half.weight if trained else half.weight.to(self.language_model.dtype)
                    halves[name] = _NarrowLinear(weight)

    @torch.no_grad()
    def _narrow_embeddings(self, name: str) -> None:
        # PEFT draws a linear layer's random half with a std of (3 n_in)^-0.5, that of embeddings
        # with 1: at one learning rate tokens would move far more than everything else.
        for parameter_name, parameter in self.language_model.named_parameters():
            if parameter_name.endswith(f"lora_embedding_B.{name}"):
                parameter.mul_((3 * parameter.shape[0]) ** -0.5)

    def _load(self, name: str, weights: Mapping[str, Tensor]) -> None:
        try:
            result: Any = set_peft_model_state_dict(self._peft[0], dict(weights), adapter_name=name)
            lost = list(result.unexpected_keys)
        except RuntimeError as error:
            lost = [str(error)]
        missing = set(self.state_dict_of(name)) - set(weights)
        if lost or missing:
            raise UserError(
                f"The adapter for the role {name!r} does not fit model.lora "
                f"(rank {self.shape.rank}, targets {self.shape.target_modules!r}): "
                f"{(lost or sorted(missing))[0]}. Use the model config it was trained with."
            )

    def _adapter_parameters(self) -> list[tuple[str, nn.Parameter]]:
        # PEFT names them "....lora_A.<adapter>.weight", and "....lora_embedding_A.<adapter>".
        return [
            (found.group(1), parameter)
            for name, parameter in self.language_model.named_parameters()
            if (found := re.search(r"\.lora_\w+\.([^.]+)", name))
        ]


class _NarrowLinear(nn.Linear):
    """One half of an adapter: kept in fp32, multiplied in the precision of what comes in.

    As autocast does it, and for the same reason: the wide product takes twice the time and memory,
    and a bf16 base rounds what comes and what goes all the same.
    """

    def __init__(self, weight: Tensor) -> None:
        """Take a weight over.

        Args:
            weight: (n_out, n_in)
        """
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., n_in) to (..., n_out)."""
        return F.linear(x, self.weight.to(x.dtype))
