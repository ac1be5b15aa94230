"""The part of a model that never changes, computed once.

When only upper layers are tuned, the layers below them give every teacher and every student the
same states for the same tokens. ``Below`` keeps those states, so that measuring a model again, or
distilling the next student on the same rows, starts at the first tuned layer. The result is the
same to the last bit (tested); how much it saves is measured in ``benchmarks/training.py``.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

LIMIT = 256 * 2**20  # bytes; the oldest states go first


class Below:
    """States that enter layer ``first``, by what was computed.

    Attributes:
        first: layers below this one are never tuned; 0 = nothing is kept.
    """

    def __init__(self, layers: nn.ModuleList, first: int = 0, *, limit: int = LIMIT) -> None:
        self.first = first
        self._layers = layers
        self._limit = limit
        self._kept: OrderedDict[Hashable, list[Tensor]] = OrderedDict()
        self._size = 0

    @contextlib.contextmanager
    def reuse(self, key: Hashable) -> Iterator[None]:
        """Within, forward passes start at layer ``first`` if ``key`` was computed before.

        Args:
            key: all that the lower layers' states depend on: tokens, positions, what each sees.
        """
        if not 0 < self.first < len(self._layers):
            yield
        elif (passes := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            with skipped(self._layers[: self.first], passes):
                yield
        else:
            with entering(self._layers[self.first]) as passes:
                yield
            self._keep(key, passes)

    def _keep(self, key: Hashable, passes: list[Tensor]) -> None:
        size = sum(states.nbytes for states in passes)
        if size > self._limit:
            return  # it would drive out everything else, and then itself
        self._kept[key] = passes
        self._size += size
        while self._size > self._limit:
            self._size -= sum(states.nbytes for states in self._kept.popitem(last=False)[1])


@contextlib.contextmanager
def entering(layer: nn.Module) -> Iterator[list[Tensor]]:
    """The states that enter ``layer``, one tensor for each forward pass."""
    passes: list[Tensor] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        passes.append((args[0] if args else kwargs["hidden_states"]).detach())

    hook = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


@contextlib.contextmanager
def skipped(layers: nn.ModuleList, passes: Sequence[Tensor]) -> Iterator[None]:
    """Within, ``layers`` compute nothing: each forward pass gets the next of ``passes``."""
    left = iter(passes)

    def begin(*args: Any, **kwargs: Any) -> Tensor:
        return next(left)

    def go_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states

    before = [vars(layer).get("forward") for layer in layers]  # a hook's own, if there is one
    for layer, forward in zip(layers, [begin, *[go_on] * (len(layers) - 1)], strict=True):
        layer.forward = forward
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own
