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
    # Keras calls the one or the other.
    method = "quantized_call" if layer.quantization_mode else "call"
    call = getattr(layer, method)
    # Past Keras's own tracking of attributes.
    own = vars(layer)
    before = {name: own[name] for name in (method,) if name in own}

    def tapping(*args: Tensor, **kwargs: Tensor) -> Tensor:
        return tap(args[0], call(*args, **kwargs))

    own[method] = tapping
    try:
        yield
    finally:
        del own[method]
        own.update(before)
