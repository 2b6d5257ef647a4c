"""Convolution with scaled weight standardization, for nets without normalization."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
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
        # After LoRA's matrices, with which building ends, Keras takes no other variables.
        lora_rank, self.lora_rank = self.lora_rank, None
        super().build(input_shape)
        self.gain = self.add_weight((self.filters,), self.gain_initializer, name="gain")
        if lora_rank:
            self.enable_lora(lora_rank, lora_alpha=self.lora_alpha)

    @property
    def gain_key(self) -> str:
        """Key under which `save_own_variables` stores the gain."""
        return str(1 + self.use_bias)

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
        """Store kernel, into which LoRA's matrices are merged, bias and gain."""
        super().save_own_variables(store)
        if self.built:
            store[self.gain_key] = self.gain

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` stored.

        Raises:
            ValueError: If the store holds another number of variables.
        """
        own = 2 + self.use_bias
        # Keras checks no number with LoRA's matrices, which are never stored.
        if self.lora_enabled and len(store.keys()) != own:
            raise ValueError(
                f"Layer {self.name!r} expected {own} variables, LoRA's merged into the kernel. "
                f"Received: {len(store.keys())}"
            )
        super().load_own_variables(store)
        if self.built:
            self.gain.assign(store[self.gain_key])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            **super().get_config(),
            "activation_gain": self.activation_gain,
            "gain_initializer": keras.initializers.serialize(self.gain_initializer),
        }


def gain_for_same_scale(gain: np.ndarray, kernel: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the gain that keeps the scale of another kernel, which the layer takes out of it.

    Args:
        gain: Gain of `kernel`, `(channels out,)`.
        kernel: `(height, width, channels in, channels out)`.
        other: The kernel that takes its place, of any number of channels in.

    Returns:
        Gain of `other`, of the shape and dtype of `gain`. The two kernels in use are then
        `kernel` and `other`, each less its mean, times the same factor per filter.
    """
    divisors = [
        np.sqrt((np.var(each, axis=(0, 1, 2), dtype="float64") + _EPSILON) * each[..., 0].size)
        for each in (kernel, other)
    ]
    return (gain * (divisors[1] / divisors[0])).astype(gain.dtype)
