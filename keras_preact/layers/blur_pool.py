"""Subsampling without aliasing."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class BlurPool2D(keras.layers.Layer):
    """Blur by the binomial filter (1, 2, 1) / 4 along height and width, then every n-th pixel.

    The blur removes what the coarser grid cannot hold, so that shifting the input by a pixel
    changes the output little (arXiv:1904.11486). The map is reflected at its edges, and so must be
    at least `dilation + 1` pixels high and wide.

    Args:
        strides: Factor by which height and width shrink.
        dilation: Spacing of the filter's pixels.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If maps of a known size are smaller, once the layer is built.
    """

    def __init__(
        self,
        strides: int = 2,
        dilation: int = 1,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_size, self.strides = (3, 3), (strides, strides)
        self.dilation = dilation
        self.data_format = keras.config.image_data_format() if data_format is None else data_format

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check that maps of a known size are large enough to be reflected.

        Raises:
            ValueError: If they are not.
        """
        sizes = [input_shape[axis] for axis in self._axes()]
        if any(size is not None and size <= self.dilation for size in sizes):
            raise ValueError(
                f"Maps that {self.name!r} blurs must be at least {self.dilation + 1} pixels high "
                f"and wide. Received: maps of the shape {tuple(input_shape)}; larger images give "
                "larger ones"
            )

    def call(self, inputs: Tensor) -> Tensor:
        axes = self._axes()
        widths = [[self.dilation] * 2 if axis in axes else [0, 0] for axis in range(4)]
        outputs = ops.pad(inputs, widths, mode="reflect")
        for axis in axes:
            before, center, after = (self._shifted(outputs, axis, tap) for tap in range(3))
            outputs = 0.25 * (before + after) + 0.5 * center
        return outputs

    def _axes(self) -> tuple[int, int]:
        return (2, 3) if self.data_format == "channels_first" else (1, 2)

    def _shifted(self, padded: Tensor, axis: int, tap: int) -> Tensor:
        """Return the pixels under one tap of the filter, along one axis of the padded map."""
        start, rest = tap * self.dilation, (2 - tap) * self.dilation
        index = [slice(None)] * 4
        index[axis] = slice(start, -rest or None, self.strides[0])
        return padded[tuple(index)]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        shape = list(input_shape)
        for axis in self._axes():
            size = shape[axis]
            shape[axis] = None if size is None else -(-size // self.strides[0])
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            **super().get_config(),
            "strides": self.strides[0],
            "dilation": self.dilation,
            "data_format": self.data_format,
        }
