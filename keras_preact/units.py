"""The residual units, as functions on tensors.

A kind of unit is the list of its residual branch's convolutions; how they are put together with
normalisation, activation and shortcut is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_preact.architecture import Architecture, Unit
from keras_preact.parts import Parts


@dataclass(frozen=True)
class Convolution:
    """One convolution of a residual branch.

    Attributes:
        filters: Output channels.
        kernel_size: Height and width of the kernel, in pixels.
        stride: Factor by which height and width shrink.
    """

    filters: int
    kernel_size: int
    stride: int = 1


def basic(architecture: Architecture, unit: Unit) -> tuple[Convolution, ...]:
    """Two 3x3 convolutions (arXiv:1603.05027)."""
    return (
        Convolution(unit.channels, 3, unit.stride),
        Convolution(unit.channels, 3),
    )


def bottleneck(architecture: Architecture, unit: Unit) -> tuple[Convolution, ...]:
    """1x1 to fewer channels, 3x3, 1x1 back (arXiv:1603.05027)."""
    inside = architecture.bottleneck_channels(unit.channels)
    in_first = architecture.stride_in == "first_conv"
    return (
        Convolution(inside, 1, unit.stride if in_first else 1),
        Convolution(inside, 3, 1 if in_first else unit.stride),
        Convolution(unit.channels, 1),
    )


UNITS: dict[str, Callable[[Architecture, Unit], tuple[Convolution, ...]]] = {
    "basic": basic,
    "bottleneck": bottleneck,
}


def residual_unit(x: Any, unit: Unit, parts: Parts) -> Any:
    """Normalisation and activation before every convolution, and an addition that nothing follows.

    A unit that changes the shape feeds its first activation to the projection too; the others hand
    `x` on untouched.

    Args:
        x: Tensor `(batch, height, width, unit.in_channels)`, or with the channels first.
        unit: What the architecture says of this unit.
        parts: Makes the layers.

    Returns:
        A tensor with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    convolutions = UNITS[parts.architecture.unit](parts.architecture, unit)
    shortcut = x
    for index, convolution in enumerate(convolutions, 1):
        last = index == len(convolutions)
        x = parts.norm_act(x, unit.name, index)
        if index == 1 and unit.changes_shape:
            shortcut = parts.conv(x, unit.channels, 1, unit.stride, name=f"{unit.name}_shortcut")
        if last:
            x = parts.dropout(x, name=f"{unit.name}_dropout")
        x = parts.conv(
            x,
            convolution.filters,
            convolution.kernel_size,
            convolution.stride,
            zero_init=last and parts.architecture.zero_init_residual,
            name=f"{unit.name}_conv{index}",
        )
    x = parts.drop_path(x, unit.drop_path, name=f"{unit.name}_drop_path")
    return parts.add(shortcut, x, name=f"{unit.name}_add")
