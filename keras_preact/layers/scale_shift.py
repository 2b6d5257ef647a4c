"""Scale and shift per channel, which is all that is left of a norm in inference."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.ops.fused_norm import fused_norm_fits, fused_norm_of
from keras_preact.tensor import Tensor

# A variance that makes 1, exactly, with it.
_EPSILON = 2.0**-10


@keras.saving.register_keras_serializable(package="keras_preact")
class ScaleShift(keras.layers.Layer):
    """`inputs * scale + shift`, with one scale and one shift per channel.

    `keras_preact.transforms.fold` puts it in the place of a batch norm that no convolution can take
    in. The arithmetic is in float32 where the layer computes in 16 bits, as in a norm. On
    TensorFlow it runs as a norm's kernel, with which TensorFlow merges the ReLU that follows: one
    pass over the maps instead of three, or of five in 16 bits.

    Args:
        axis: Axis of the channels.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        # Keras's names for them, by which stacked units find how their variables start.
        self.scale_initializer = keras.initializers.Ones()
        self.shift_initializer = keras.initializers.Zeros()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create `scale` and `shift`, which start as the identity."""
        channels = (input_shape[self.axis],)
        # Not cast with the inputs: 8 bits of precision are too few for a scale.
        self.scale = self.add_weight(channels, self.scale_initializer, autocast=False, name="scale")
        self.shift = self.add_weight(channels, self.shift_initializer, autocast=False, name="shift")

    def call(self, inputs: Tensor) -> Tensor:
        scale, shift = ops.convert_to_tensor(self.scale), ops.convert_to_tensor(self.shift)
        if fused_norm_fits(inputs, self.axis, self.variable_dtype):
            return fused_norm_of(
                inputs,
                scale,
                shift,
                ops.zeros_like(scale),
                ops.full_like(scale, 1 - _EPSILON),
                axis=self.axis,
                epsilon=_EPSILON,
            )
        if self.axis not in (-1, len(inputs.shape) - 1):
            shape = [1] * len(inputs.shape)
            shape[self.axis] = -1
            scale, shift = ops.reshape(scale, shape), ops.reshape(shift, shape)
        dtype = keras.backend.result_type(self.variable_dtype, "float32")
        inputs, scale, shift = (ops.cast(each, dtype) for each in (inputs, scale, shift))
        return ops.cast(inputs * scale + shift, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
