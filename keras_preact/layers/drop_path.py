"""Stochastic depth."""

from __future__ import annotations

import keras
from keras import ops

from keras_preact.layers.example_noise import ExampleNoise
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class DropPath(ExampleNoise):
    """Dropout of whole examples of a residual branch, in training (arXiv:1603.09382).

    An example that stays is divided by the probability of staying, so that inference needs no
    scaling.
    `rate` is the probability of dropping; the arguments are those of `ExampleNoise`.
    """

    def call(self, inputs: Tensor, rate: Tensor | None = None, training: bool = False) -> Tensor:
        dropped = self.rate if rate is None else rate
        if not training or (isinstance(dropped, int | float) and dropped == 0):
            return inputs
        keep = 1 - dropped
        mask = ops.cast(self.draw(inputs) < keep, inputs.dtype)
        return inputs * mask / ops.cast(keep, inputs.dtype)
