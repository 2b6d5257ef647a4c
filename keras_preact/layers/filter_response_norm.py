"""Filter response normalization with its thresholded linear unit."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.layers.recomputed_norm import RecomputedNorm
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class FilterResponseNormalization(RecomputedNorm):
    """FRN with TLU: `max(x / root_mean_square(x) * gamma + beta, tau)` (arXiv:1911.09737).

    The mean of the squares is that of one image's pixels in one channel, so neither batches nor
    other channels play a part. The maximum is the paper's thresholded linear unit: a ReLU whose
    threshold, tau, is learned. Maps of one pixel keep only their signs.

    Args:
        axis: Axis of the channels.
        epsilon: Added to the mean of the squares.
        gamma_initializer: How gamma starts.
        **kwargs: As for `keras.layers.Layer`; `rematerialize` as for `RecomputedNorm`.
    """

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-6,
        gamma_initializer: Any = "ones",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.epsilon = epsilon
        # Keras's names for them, by which stacked units find how their variables start.
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.beta_initializer = keras.initializers.Zeros()
        self.tau_initializer = keras.initializers.Zeros()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create gamma, beta and tau, one value per channel.

        Args:
            input_shape: `(batch, height, width, channels)`, or with the channels first.
        """
        channels = (input_shape[self.axis],)
        self.gamma = self.add_weight(channels, self.gamma_initializer, name="gamma")
        self.beta = self.add_weight(channels, self.beta_initializer, name="beta")
        self.tau = self.add_weight(channels, self.tau_initializer, name="tau")

    def normalize(self, inputs: Tensor) -> Tensor:
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        gamma, beta, tau = (ops.reshape(each, shape) for each in (self.gamma, self.beta, self.tau))
        return ops.maximum(inputs * self._inverse_root(inputs) * gamma + beta, tau)

    def _inverse_root(self, inputs: Tensor) -> Tensor:
        """Return one over the root mean square, in float32 since squares overflow float16."""
        pixels = [axis for axis in (1, 2, 3) if axis != self.axis % 4]
        squares = ops.square(ops.cast(inputs, "float32"))
        mean = ops.mean(squares, axis=pixels, keepdims=True)
        return ops.cast(ops.rsqrt(mean + self.epsilon), inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            **super().get_config(),
            "axis": self.axis,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }
