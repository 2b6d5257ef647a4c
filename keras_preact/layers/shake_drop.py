"""ShakeDrop: stochastic depth with random factors in place of zero."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.layers.example_noise import ExampleNoise
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class ShakeDrop(ExampleNoise):
    """Random factors on whole examples of a residual branch, in training (arXiv:1802.02375).

    With probability `rate`, the paper's `1 - p_l`, an example's branch is multiplied by alpha,
    uniform in [-1, 1], and its gradient by beta, uniform in [0, 1] and drawn apart. Otherwise both
    stay as they are. Inference multiplies by the mean of the forward factor, `1 - rate`. The
    arguments are those of `ExampleNoise`.
    """

    def call(self, inputs: Tensor, rate: Tensor | None = None, training: bool = False) -> Tensor:
        shaken = self.rate if rate is None else rate
        if not training:
            return inputs * ops.cast(1 - shaken, inputs.dtype)
        chance, alpha, beta = ops.unstack(self.draw(inputs, 3), 3)
        stays = chance >= shaken
        forward = self._factor(stays, 2 * alpha - 1, inputs.dtype)
        backward = self._factor(stays, beta, inputs.dtype)
        # The value has only the forward factor, the gradient only the backward one.
        return inputs * backward + ops.stop_gradient(inputs * (forward - backward))

    def _factor(self, stays: Tensor, otherwise: Tensor, dtype: Any) -> Tensor:
        return ops.cast(ops.where(stays, 1.0, otherwise), dtype)
