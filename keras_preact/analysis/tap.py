"""Sight of a layer's outputs while a model runs, wherever in the model the layer is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras

from keras_preact.tensor import Tensor


@contextlib.contextmanager
def tapped(layer: keras.layers.Layer, tap: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Let a function see, and replace, what a layer gives, as a hook of PyTorch does.

    Args:
        layer: The layer. Its calls on symbolic tensors are none.
        tap: From the first argument of a call and its outputs to the outputs that go on.
    """
    call = layer.call

    def tapping(*args: Tensor, **kwargs: Tensor) -> Tensor:
        return tap(args[0], call(*args, **kwargs))

    # Past Keras's own tracking of attributes.
    vars(layer)["call"] = tapping
    try:
        yield
    finally:
        del vars(layer)["call"]
