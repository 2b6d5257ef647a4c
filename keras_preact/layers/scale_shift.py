"""What is left of a norm in inference: a scale and a shift of each channel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_preact")
class ScaleShift(keras.layers.Layer):
    """`inputs * scale + shift`, with one scale and one shift for each channel.

    `keras_preact.transforms.fold` puts it in the place of a batch norm that no convolution can take
    in. Where the layer computes in 16 bits the arithmetic is in float32, as a norm's is.

    Args:
        axis: Axis of the channels.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create `scale` and `shift`, which start as the identity."""
        channels = (input_shape[self.axis],)
        # Not cast with the inputs: 8 bits of precision are too few for a scale.
        self.scale = self.add_weight(
            shape=channels, initializer="ones", autocast=False, name="scale"
        )
        self.shift = self.add_weight(
            shape=channels, initializer="zeros", autocast=False, name="shift"
        )

    def call(self, inputs: Any) -> Any:
        scale, shift = ops.convert_to_tensor(self.scale), ops.convert_to_tensor(self.shift)
        if self.axis not in (-1, len(inputs.shape) - 1):
            shape = [1] * len(inputs.shape)
            shape[self.axis] = -1
            scale, shift = ops.reshape(scale, shape), ops.reshape(shift, shape)
        outputs = ops.cast(inputs, scale.dtype) * scale + shift
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
