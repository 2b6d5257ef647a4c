"""Shortcuts: what a unit adds its residual branch to."""

from __future__ import annotations

from collections.abc import Callable

import keras

from keras_preact.blocks.antialiasing import blurred
from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.layers import PadChannels
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor

# Shortcut and branch, the two terms of a unit's sum.
Terms = tuple[Tensor, Tensor]


def shortcut(x: Tensor, activated: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    """Return the two terms of a unit's sum.

    Where the shape stays the same, `Architecture.shortcut` decides about `x` and the branch. Where
    it changes, `Architecture.downsample` decides how `x` gets the new shape.

    Args:
        x: Input of the unit, `(batch, height, width, unit.in_channels)`, or with the channels
            first.
        activated: The same after the steps before the first convolution: input of a projection,
            unless `Architecture.projection_input` says otherwise.
        branch: Output of the residual branch.
        unit: The unit.
        make: Makes the layers.

    Returns:
        Shortcut and branch, both with `unit.channels` channels, height and width divided by
        `unit.stride`.
    """
    if unit.projects:
        source = x if make.net.projection_input == "raw" else activated
        x = PROJECTIONS[make.net.downsample](source, unit, make)
        return make.apply(x, make.order.projection, f"{unit.name}_shortcut"), branch
    if unit.reshapes:
        return FOLLOW_UPS[make.net.downsample](x, unit, make), branch
    return SHORTCUTS[make.net.shortcut](x, branch, unit, make)


def _identity(x: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    return x, branch


def _scaling(x: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    scale = make.net.shortcut_scale
    return make.rescale(x, scale, name=f"{unit.name}_shortcut_scale"), branch


def _scaling_both(x: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    x, branch = _scaling(x, branch, unit, make)
    scale = 1 - make.net.shortcut_scale
    return x, make.rescale(branch, scale, name=f"{unit.name}_branch_scale")


def _exclusive_gating(x: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    gate = _gate(x, unit, make)
    branch = make.multiply(branch, gate, name=f"{unit.name}_branch_gated")
    return _gated(x, gate, unit, make), branch


def _shortcut_gating(x: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    return _gated(x, _gate(x, unit, make), unit, make), branch


def _gate(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    """Return a share per pixel and channel, as in highway networks (arXiv:1505.00387)."""
    return make.conv(
        x,
        unit.channels,
        1,
        use_bias=True,
        bias_initializer=keras.initializers.Constant(make.net.gate_bias),
        activation="sigmoid",
        name=f"{unit.name}_gate",
    )


def _gated(x: Tensor, gate: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    rest = make.rescale(gate, -1.0, offset=1.0, name=f"{unit.name}_gate_rest")
    return make.multiply(x, rest, name=f"{unit.name}_shortcut_gated")


def _convolution(x: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    steps = make.order.projection
    x = make.conv(x, unit.channels, 1, normalized="norm" in steps, name=f"{unit.name}_shortcut")
    return make.apply(x, steps, f"{unit.name}_shortcut"), branch


def _dropout(x: Tensor, branch: Tensor, unit: Unit, make: LayerFactory) -> Terms:
    layer = keras.layers.Dropout(
        make.net.shortcut_dropout,
        dtype=make.dtype,
        name=f"{unit.name}_shortcut_dropout",
    )
    return layer(x), branch


# The shortcuts of arXiv:1603.05027, section 3.
SHORTCUTS: dict[str, Callable[[Tensor, Tensor, Unit, LayerFactory], Terms]] = {
    "identity": _identity,
    "scaling": _scaling,
    "scaling_both": _scaling_both,
    "exclusive_gating": _exclusive_gating,
    "shortcut_gating": _shortcut_gating,
    "conv": _convolution,
    "dropout": _dropout,
}


def _blurs(unit: Unit, make: LayerFactory) -> bool:
    return make.net.blur_pool and unit.nominal_stride != 1


def _strided_convolution(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    stride, normalized = unit.stride, "norm" in make.order.projection
    if _blurs(unit, make):
        x, stride = blurred(x, unit, make, name=f"{unit.name}_shortcut_blur"), 1
    return make.conv(
        x, unit.channels, 1, stride, normalized=normalized, name=f"{unit.name}_shortcut"
    )


def _pooled_convolution(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    x = _average(x, unit, make)
    normalized = "norm" in make.order.projection
    return make.conv(x, unit.channels, 1, normalized=normalized, name=f"{unit.name}_shortcut")


def _average(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    """Apply 2x2 average pooling where the unit has a stride, or dilation in its place."""
    if not unit.strided:
        return x
    return make.average_2x2(x, unit.stride, name=f"{unit.name}_shortcut_pool")


# Shortcuts with weights.
PROJECTIONS: dict[str, Callable[[Tensor, Unit, LayerFactory], Tensor]] = {
    "conv": _strided_convolution,
    "avg_pool": _pooled_convolution,
    "subsample": _strided_convolution,
}


def _subsample(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    if _blurs(unit, make):
        return blurred(x, unit, make, name=f"{unit.name}_shortcut_blur")
    if unit.stride == 1:
        return x
    return make.subsample(x, unit.stride, name=f"{unit.name}_shortcut_pool")


def _zero_padded(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    x = _average(x, unit, make)
    if unit.in_channels == unit.channels:
        return x
    pad = PadChannels(
        unit.channels - unit.in_channels,
        data_format=make.data_format,
        dtype=make.dtype,
        name=f"{unit.name}_shortcut_pad",
    )
    return pad(x)


# Shortcuts without weights. Their input is that of the unit. Those that are among the projections
# too project where the channels change.
FOLLOW_UPS: dict[str, Callable[[Tensor, Unit, LayerFactory], Tensor]] = {
    "subsample": _subsample,
    "zero_pad": _zero_padded,
}


def must_project(downsample: str, widens: bool, strided: bool) -> bool:
    """Return whether the shortcut of a unit has weights.

    Args:
        downsample: Field of `Architecture`.
        widens: Whether the channels of the shortcut change.
        strided: Whether its height and width change, or would without dilation.
    """
    if downsample not in FOLLOW_UPS:
        return widens or strided
    return widens and downsample in PROJECTIONS
