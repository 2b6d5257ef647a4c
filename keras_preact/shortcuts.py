"""What a unit adds its residual branch to, as functions on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.antialiasing import blurred
from keras_preact.layers import PadChannels
from keras_preact.parts import Parts

if TYPE_CHECKING:
    from keras_preact.architecture import Unit


def shortcut(x: Any, activated: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    """The two terms of a unit's sum.

    Where the shape stays, `Architecture.shortcut` says what becomes of `x` and of the branch; where
    it changes, `Architecture.downsample` says how `x` follows.

    Args:
        x: What comes into the unit, `(batch, height, width, unit.in_channels)`, or with the
            channels first.
        activated: The same after the steps before the unit's first convolution: what a projection
            takes.
        branch: What the residual branch gives.
        unit: What the architecture says of this unit.
        parts: Makes the layers.

    Returns:
        Shortcut and branch, both with `unit.channels` channels, height and width divided by
        `unit.stride`.
    """
    if unit.projects:
        x = PROJECTIONS[parts.architecture.downsample](activated, unit, parts)
        return parts.apply(x, parts.order.projection, f"{unit.name}_shortcut"), branch
    if unit.reshapes:
        return FOLLOW_UPS[parts.architecture.downsample](x, unit, parts), branch
    return SHORTCUTS[parts.architecture.shortcut](x, branch, unit, parts)


def _identity(x: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    return x, branch


def _scaling(x: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    scale = parts.architecture.shortcut_scale
    return parts.rescale(x, scale, name=f"{unit.name}_shortcut_scale"), branch


def _scaling_both(x: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    x, branch = _scaling(x, branch, unit, parts)
    scale = 1 - parts.architecture.shortcut_scale
    return x, parts.rescale(branch, scale, name=f"{unit.name}_branch_scale")


def _exclusive_gating(x: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    gate = _gate(x, unit, parts)
    branch = parts.multiply(branch, gate, name=f"{unit.name}_branch_gated")
    return _gated(x, gate, unit, parts), branch


def _shortcut_gating(x: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    return _gated(x, _gate(x, unit, parts), unit, parts), branch


def _gate(x: Any, unit: Unit, parts: Parts) -> Any:
    """A share for each pixel and channel, as in highway networks (arXiv:1505.00387)."""
    return parts.conv(
        x,
        unit.channels,
        1,
        use_bias=True,
        bias_initializer=keras.initializers.Constant(parts.architecture.gate_bias),
        activation="sigmoid",
        name=f"{unit.name}_gate",
    )


def _gated(x: Any, gate: Any, unit: Unit, parts: Parts) -> Any:
    rest = parts.rescale(gate, -1.0, offset=1.0, name=f"{unit.name}_gate_rest")
    return parts.multiply(x, rest, name=f"{unit.name}_shortcut_gated")


def _convolution(x: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    steps = parts.order.projection
    x = parts.conv(x, unit.channels, 1, normalized="norm" in steps, name=f"{unit.name}_shortcut")
    return parts.apply(x, steps, f"{unit.name}_shortcut"), branch


def _dropout(x: Any, branch: Any, unit: Unit, parts: Parts) -> tuple[Any, Any]:
    layer = keras.layers.Dropout(
        parts.architecture.shortcut_dropout,
        dtype=parts.dtype,
        name=f"{unit.name}_shortcut_dropout",
    )
    return layer(x), branch


# The shortcuts of arXiv:1603.05027, section 3.
SHORTCUTS: dict[str, Callable[[Any, Any, Unit, Parts], tuple[Any, Any]]] = {
    "identity": _identity,
    "scaling": _scaling,
    "scaling_both": _scaling_both,
    "exclusive_gating": _exclusive_gating,
    "shortcut_gating": _shortcut_gating,
    "conv": _convolution,
    "dropout": _dropout,
}


def _blurs(unit: Unit, parts: Parts) -> bool:
    return parts.architecture.blur_pool and unit.nominal_stride != 1


def _strided_convolution(x: Any, unit: Unit, parts: Parts) -> Any:
    stride, normalized = unit.stride, "norm" in parts.order.projection
    if _blurs(unit, parts):
        x, stride = blurred(x, unit, parts, name=f"{unit.name}_shortcut_blur"), 1
    return parts.conv(
        x, unit.channels, 1, stride, normalized=normalized, name=f"{unit.name}_shortcut"
    )


def _pooled_convolution(x: Any, unit: Unit, parts: Parts) -> Any:
    x = _average(x, unit, parts)
    normalized = "norm" in parts.order.projection
    return parts.conv(x, unit.channels, 1, normalized=normalized, name=f"{unit.name}_shortcut")


def _average(x: Any, unit: Unit, parts: Parts) -> Any:
    """2x2 average pooling where the unit has a stride, or dilation in its place."""
    if not unit.strided:
        return x
    pool = keras.layers.AveragePooling2D(
        2,
        unit.stride,
        padding="same",
        data_format=parts.data_format,
        dtype=parts.dtype,
        name=f"{unit.name}_shortcut_pool",
    )
    return pool(x)


# Shortcuts with weights; they take the activated input.
PROJECTIONS: dict[str, Callable[[Any, Unit, Parts], Any]] = {
    "conv": _strided_convolution,
    "avg_pool": _pooled_convolution,
    "subsample": _strided_convolution,
}


def _subsample(x: Any, unit: Unit, parts: Parts) -> Any:
    if _blurs(unit, parts):
        return blurred(x, unit, parts, name=f"{unit.name}_shortcut_blur")
    if unit.stride == 1:
        return x
    return parts.subsample(x, unit.stride, name=f"{unit.name}_shortcut_pool")


def _zero_padded(x: Any, unit: Unit, parts: Parts) -> Any:
    x = _average(x, unit, parts)
    if unit.in_channels == unit.channels:
        return x
    pad = PadChannels(
        unit.channels - unit.in_channels,
        data_format=parts.data_format,
        dtype=parts.dtype,
        name=f"{unit.name}_shortcut_pad",
    )
    return pad(x)


# Shortcuts without weights; they take the input as it is. What is among the projections too
# projects where the channels change.
FOLLOW_UPS: dict[str, Callable[[Any, Unit, Parts], Any]] = {
    "subsample": _subsample,
    "zero_pad": _zero_padded,
}


def projects(downsample: str, widens: bool, strided: bool) -> bool:
    """Whether the shortcut of a unit has weights.

    Args:
        downsample: As in `Architecture`.
        widens: Whether the shortcut's channels change.
        strided: Whether its height and width do, or would without dilation.
    """
    if downsample not in FOLLOW_UPS:
        return widens or strided
    return widens and downsample in PROJECTIONS
