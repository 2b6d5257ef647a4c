"""What a unit adds its residual branch to, as functions on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_preact.architecture import Unit
from keras_preact.layers import MaxPooling2D
from keras_preact.parts import Parts


def shortcut(x: Any, activated: Any, unit: Unit, parts: Parts) -> Any:
    """The identity, or what `Architecture.downsample` says where the shape changes.

    Args:
        x: What comes into the unit, `(batch, height, width, unit.in_channels)`, or with the
            channels first.
        activated: The same, normalised and activated: what a convolution is fed.
        unit: What the architecture says of this unit.
        parts: Makes the layers.

    Returns:
        A tensor with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    if unit.projects:
        return PROJECTIONS[parts.architecture.downsample](activated, unit, parts)
    if unit.stride != 1:
        return _subsample(x, unit, parts)
    return x


def _strided_convolution(x: Any, unit: Unit, parts: Parts) -> Any:
    return parts.conv(x, unit.channels, 1, unit.stride, name=f"{unit.name}_shortcut")


def _pooled_convolution(x: Any, unit: Unit, parts: Parts) -> Any:
    if unit.stride != 1 or unit.dilation != unit.dilation_after:
        pool = keras.layers.AveragePooling2D(
            2,
            unit.stride,
            padding="same",
            data_format=parts.data_format,
            dtype=parts.dtype,
            name=f"{unit.name}_shortcut_pool",
        )
        x = pool(x)
    return parts.conv(x, unit.channels, 1, name=f"{unit.name}_shortcut")


def _subsample(x: Any, unit: Unit, parts: Parts) -> Any:
    pool = MaxPooling2D(
        1,
        unit.stride,
        data_format=parts.data_format,
        dtype=parts.dtype,
        name=f"{unit.name}_shortcut_pool",
    )
    return pool(x)


PROJECTIONS: dict[str, Callable[[Any, Unit, Parts], Any]] = {
    "conv": _strided_convolution,
    "avg_pool": _pooled_convolution,
    "subsample": _strided_convolution,
}
