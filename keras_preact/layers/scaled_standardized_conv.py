"""Convolution with scaled weight standardization, for nets without normalization."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_preact.layers.conv import Conv2D
from keras_preact.tensor import Tensor

# As in timm's NF-ResNets. The paper's code bounds the variance times the fan-in from below by 1e-4.
_EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="keras_preact")
class ScaledStandardizedConv2D(Conv2D):
    """`Conv2D` that keeps the variance of activations as it is (arXiv:2101.08692).

    Over each output channel, the kernel in use has mean 0 and variance
    `(gain * activation_gain)**2 / fan_in`. The gain, one value per output channel, is learned.
    `activation_gain` makes up for what the activation before the convolution takes from the
    variance; as in timm's nets, and other than in the paper's code, it is a part of the
    convolution, whatever comes before it.

    Args:
        filters: Output channels.
        kernel_size: Odd integer or pair of odd integers, in pixels.
        activation_gain: One over the standard deviation of the activation's values where its inputs
            are normally distributed: `keras_preact.blocks.gains.activation_gain`.
        gain_initializer: How the gain starts.
        **kwargs: As for `keras_preact.layers.Conv2D`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        activation_gain: float = 1.0,
        gain_initializer: Any = "ones",
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, **kwargs)
        self.activation_gain = activation_gain
        self.gain_initializer = keras.initializers.get(gain_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create kernel, bias and gain.

        Args:
            input_shape: `(batch, height, width, channels)`, or with the channels first.
        """
        super().build(input_shape)
        self.gain = self.add_weight((self.filters,), self.gain_initializer, name="gain")

    def kernel_in_use(self, kernel: Tensor) -> Tensor:
        """Standardize and scale a kernel, in float32.

        Args:
            kernel: `(height, width, channels in, channels out)`.

        Returns:
            A tensor of the same shape and dtype.
        """
        dtype = keras.backend.standardize_dtype(kernel.dtype)
        fan_in = math.prod(kernel.shape[:-1])
        kernel = ops.cast(kernel, "float32")
        mean, variance = ops.moments(kernel, axes=[0, 1, 2], keepdims=True)
        scale = ops.cast(self.gain, "float32") * (self.activation_gain / math.sqrt(fan_in))
        return ops.cast((kernel - mean) * (ops.rsqrt(variance + _EPSILON) * scale), dtype)

    def save_own_variables(self, store: Any) -> None:
        """Store the gain too, which Keras's convolutions know nothing of."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Undo `save_own_variables`."""
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            **super().get_config(),
            "activation_gain": self.activation_gain,
            "gain_initializer": keras.initializers.serialize(self.gain_initializer),
        }
