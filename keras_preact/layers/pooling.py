"""Pooling that can pad by half the window on every side."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.layers.padding import FixedPadding, check_odd, pad_widths
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class MaxPooling2D(FixedPadding, keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D` that can also pad by half the window on every side.

    Args:
        pool_size: Odd integer or pair of odd integers, in pixels.
        strides: Integer or pair; `pool_size` by default.
        padding: `"fixed"` (half the window; it never wins, counting as minus infinity),
            `"zeros"` (likewise, counting as zero), `"same"` or `"valid"`.
        **kwargs: As for `keras.layers.MaxPooling2D`.

    Raises:
        ValueError: If `padding` is `"fixed"` or `"zeros"` and the window has an even side.
    """

    def __init__(
        self, pool_size: Any = 3, strides: Any = None, padding: str = "fixed", **kwargs: Any
    ) -> None:
        self.fixed = padding in ("fixed", "zeros")
        super().__init__(pool_size, strides, padding="valid" if self.fixed else padding, **kwargs)
        self.pads = None
        self.pad_value = 0.0 if padding == "zeros" else -float("inf")
        if self.fixed:
            check_odd("pool_size", self.pool_size)
            self.pads = tuple(size // 2 for size in self.pool_size)

    def call(self, inputs: Tensor) -> Tensor:
        if self.pads:
            widths = pad_widths(self.pads, self.data_format)
            inputs = ops.pad(inputs, widths, constant_values=self.pad_value)
        return super().call(inputs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        config = super().get_config()
        return {**config, "padding": "zeros"} if self.fixed and not self.pad_value else config


@keras.saving.register_keras_serializable(package="keras_preact")
class AveragePooling2D(FixedPadding, keras.layers.AveragePooling2D):
    """`keras.layers.AveragePooling2D` that can also pad by half the window on every side.

    Args:
        pool_size: Odd integer or pair of odd integers, in pixels.
        strides: Integer or pair; `pool_size` by default.
        padding: `"zeros"` (half the window, which counts as zero: PyTorch's default), `"same"`
            (the padding does not count) or `"valid"`.
        **kwargs: As for `keras.layers.AveragePooling2D`.

    Raises:
        ValueError: If `padding` is `"zeros"` and the window has an even side.
    """

    def __init__(
        self, pool_size: Any = 3, strides: Any = None, padding: str = "zeros", **kwargs: Any
    ) -> None:
        self.fixed = padding == "zeros"
        super().__init__(pool_size, strides, padding="valid" if self.fixed else padding, **kwargs)
        self.pads = None
        if self.fixed:
            check_odd("pool_size", self.pool_size)
            self.pads = tuple(size // 2 for size in self.pool_size)

    def call(self, inputs: Tensor) -> Tensor:
        if self.pads:
            inputs = ops.pad(inputs, pad_widths(self.pads, self.data_format))
        if self.padding == "same" and keras.backend.backend() == "torch":
            return self._without_padding(inputs)
        return super().call(inputs)

    def _without_padding(self, inputs: Tensor) -> Tensor:
        """Pad as `"same"` says, and average the pixels of each window that lie in the maps.

        On torch, Keras repeats the outermost pixels instead where two sides are padded differently.
        """
        first = 2 if self.data_format == "channels_first" else 1
        windows = zip(self.pool_size, self.strides, strict=True)
        widths = [[0, 0] for _ in inputs.shape]
        for axis, (size, stride) in enumerate(windows, first):
            length = inputs.shape[axis]
            missing = max(0, (-(-length // stride) - 1) * stride + size - length)
            widths[axis] = [missing // 2, missing - missing // 2]

        def averaged(maps: Tensor) -> Tensor:
            maps = ops.pad(maps, widths)
            return ops.average_pool(
                maps, self.pool_size, self.strides, "valid", data_format=self.data_format
            )

        # Divided by the share of each window that lies in the maps.
        return averaged(inputs) / averaged(ops.ones_like(inputs[:1]))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        config = super().get_config()
        return {**config, "padding": "zeros"} if self.fixed else config
