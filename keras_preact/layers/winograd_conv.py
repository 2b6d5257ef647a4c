"""3x3 convolution by Winograd's algorithm, for inference."""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.ops.winograd import SEEN, winograd
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class WinogradConv2D(keras.layers.Layer):
    """3x3 convolution of stride 1 and channels last, with its kernel at Winograd's points.

    `keras_preact.transforms.winograd` puts it in the place of a convolution.

    Args:
        filters: Output channels.
        use_bias: Whether a bias is added.
        **kwargs: As for `keras.layers.Layer`.
    """

    # As a convolution has it, by which receptive fields and costs are told.
    kernel_size = (3, 3)

    def __init__(self, filters: int, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.use_bias = use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create `kernel` `(36, channels, filters)` and `bias`.

        Raises:
            ValueError: If height, width or channels of the inputs are unknown.
        """
        if None in input_shape[1:]:
            raise ValueError(
                "Winograd's convolution needs maps of a known size. "
                f"Received: inputs of shape {tuple(input_shape)}"
            )
        self.kernel = self.add_weight(
            shape=(SEEN**2, input_shape[-1], self.filters), initializer="zeros", name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, inputs: Tensor) -> Tensor:
        outputs = winograd(inputs, self.kernel)
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        own = {"filters": self.filters, "use_bias": self.use_bias}
        return {**super().get_config(), **own}
