"""Counts the bytes of tensors that are alive, and what they were at the peak."""

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves


class MemoryTracker(FakeTensorMode):
    """While entered, tensors have no storage, but what it would take is booked until they die.

    Views share a storage and count once.
    """

    def __init__(self, vocab_size: int, broken_below: int = 0) -> None:
        """Start with nothing booked.

        Args:
            vocab_size: what tells logits (..., v) from other activations.
            broken_below: bytes of an activation below which as much again is lost, as `fragments`.
        """
        super().__init__()
        self.vocab_size = vocab_size
        self.broken_below = broken_below
        self.alive: Counter[str] = Counter()
        """Bytes by kind."""
        self.at_peak: Counter[str] = Counter()
        """The same at the moment when the sum was highest."""
        self._kind = "activations"
        self._within = False
        self._booked: dict[int, tuple[int, str, int]] = {}
        self._total = self._highest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        outermost, self._within = not self._within, True
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs or {})
        finally:
            self._within = not outermost
        # How a fake result is found is a matter of fake tensors; the real kernel has one step.
        for leaf in tree_leaves(result) if outermost else ():
            if isinstance(leaf, Tensor):
                self._book(leaf)
        return result

    @contextmanager
    def making(self, kind: str) -> Iterator[None]:
        """Book what is made meanwhile as a kind.

        Args:
            kind: such as `weights`.
        """
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def rename(self, tensor: Tensor, kind: str) -> None:
        """Book a tensor that is alive as another kind.

        Args:
            tensor: booked already.
            kind: what it is from now on.
        """
        key = tensor.untyped_storage()._cdata
        size, before, lost = self._booked[key]
        self._booked[key] = size, kind, lost
        self.alive[before] -= size
        self.alive[kind] += size

    def rename_gradient(self, parameter: Tensor) -> None:
        """Book a parameter's gradient as one.

        Args:
            parameter: has a gradient.
        """
        assert parameter.grad is not None
        self.rename(parameter.grad, "gradients")

    def restart(self) -> None:
        """Forget the peak so far."""
        self._highest, self.at_peak = self._total, Counter(self.alive)

    def _book(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._booked:
            return
        passing = self._kind == "activations"
        lost = size if passing and size < self.broken_below else 0
        logits = passing and tensor.shape[-1:] == (self.vocab_size,)
        self._booked[key] = size, "logits" if logits else self._kind, lost
        self._add(*self._booked[key])
        weakref.finalize(storage, self._strike, key)
        if self._total > self._highest:
            self.restart()

    def _strike(self, key: int) -> None:
        size, kind, lost = self._booked.pop(key)
        self._add(-size, kind, -lost)

    def _add(self, size: int, kind: str, lost: int) -> None:
        self.alive[kind] += size
        self.alive["fragments"] += lost
        self._total += size + lost
