"""EvoNorm-S0: normalization and activation in one."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.layers.recomputed_norm import RecomputedNorm
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class EvoNormS0(RecomputedNorm):
    """EvoNorm-S0: `x * sigmoid(v * x) / deviation(x) * gamma + beta` (arXiv:2004.02967).

    The deviation is that of one image's pixels in a group of channels, so batches play no part.

    Args:
        groups: Number of groups of channels.
        axis: Axis of the channels.
        epsilon: Added to the variance.
        gamma_initializer: How gamma starts.
        **kwargs: As for `keras.layers.Layer`; `rematerialize` as for `RecomputedNorm`.
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-5,
        gamma_initializer: Any = "ones",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.groups = groups
        self.axis = axis
        self.epsilon = epsilon
        # Keras's names for them, by which stacked units find how their variables start.
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.beta_initializer = keras.initializers.Zeros()
        self.v_initializer = keras.initializers.Ones()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create gamma, beta and v, one value per channel.

        Args:
            input_shape: `(batch, height, width, channels)`, or with the channels first.

        Raises:
            ValueError: If the groups do not divide the channels.
        """
        channels = input_shape[self.axis]
        if channels is None or channels % self.groups:
            raise ValueError(
                f"{self.groups} groups must divide the channels. Received: {input_shape}"
            )
        self.gamma = self.add_weight((channels,), self.gamma_initializer, name="gamma")
        self.beta = self.add_weight((channels,), self.beta_initializer, name="beta")
        self.v = self.add_weight((channels,), self.v_initializer, name="v")

    def normalize(self, inputs: Tensor) -> Tensor:
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        gamma, beta, v = (ops.reshape(each, shape) for each in (self.gamma, self.beta, self.v))
        x = inputs * ops.sigmoid(v * inputs) / self._deviation(inputs)
        return x * gamma + beta

    def _deviation(self, inputs: Tensor) -> Tensor:
        """Return the deviation per group, computed in float32 since squares overflow float16."""
        axis = self.axis % len(inputs.shape)
        channels = inputs.shape[axis]
        per_group = channels // self.groups
        shape = (-1, channels, 1, 1) if axis == 1 else (-1, 1, 1, channels)
        pixels = [each for each in (1, 2, 3) if each != axis]
        mean, variance = ops.moments(ops.cast(inputs, "float32"), axes=pixels)
        # The variance in a group is that inside its channels and that between their means.
        mean = ops.reshape(mean, (-1, self.groups, per_group))
        variance = ops.reshape(variance, (-1, self.groups, per_group))
        variance = ops.mean(variance, -1) + ops.var(mean, -1)
        deviation = ops.repeat(ops.sqrt(variance + self.epsilon), per_group, axis=-1)
        return ops.cast(ops.reshape(deviation, shape), inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            **super().get_config(),
            "groups": self.groups,
            "axis": self.axis,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }
