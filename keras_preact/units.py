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
from keras_preact.shortcuts import shortcut


@dataclass(frozen=True)
class Convolution:
    """One convolution of a residual branch.

    Attributes:
        filters: Output channels.
        kernel_size: Height and width of the kernel, in pixels.
        stride: Factor by which height and width shrink.
        dilation: Spacing of the kernel's pixels.
    """

    filters: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1


def basic(architecture: Architecture, unit: Unit) -> tuple[Convolution, ...]:
    """Two 3x3 convolutions (arXiv:1603.05027)."""
    return (
        Convolution(unit.channels, 3, unit.stride, unit.dilation),
        Convolution(unit.channels, 3, 1, unit.dilation_after),
    )


def bottleneck(architecture: Architecture, unit: Unit) -> tuple[Convolution, ...]:
    """1x1 to fewer channels, 3x3, 1x1 back (arXiv:1603.05027)."""
    inside = architecture.bottleneck_channels(unit.channels)
    if architecture.stride_in == "first_conv":
        first = Convolution(inside, 1, unit.stride)
        spatial = Convolution(inside, 3, 1, unit.dilation_after)
    else:
        first = Convolution(inside, 1)
        spatial = Convolution(inside, 3, unit.stride, unit.dilation)
    return first, spatial, Convolution(unit.channels, 1)


UNITS: dict[str, Callable[[Architecture, Unit], tuple[Convolution, ...]]] = {
    "basic": basic,
    "bottleneck": bottleneck,
}


def residual_unit(x: Any, unit: Unit, parts: Parts) -> Any:
    """Normalisation and activation before every convolution, and an addition that nothing follows.

    A unit whose shortcut has a convolution feeds it the first activation too; the others hand `x`
    on untouched.

    Args:
        x: Tensor `(batch, height, width, unit.in_channels)`, or with the channels first.
        unit: What the architecture says of this unit.
        parts: Makes the layers.

    Returns:
        A tensor with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    convolutions = UNITS[parts.architecture.unit](parts.architecture, unit)
    inputs = x
    for index, convolution in enumerate(convolutions, 1):
        last = index == len(convolutions)
        x = parts.norm_act(x, unit.name, index)
        if index == 1:
            other = shortcut(inputs, x, unit, parts)
        if last:
            x = parts.dropout(x, name=f"{unit.name}_dropout")
        x = parts.conv(
            x,
            convolution.filters,
            convolution.kernel_size,
            convolution.stride,
            convolution.dilation,
            normalized=not last,
            zero_init=last and parts.architecture.zero_init_residual,
            name=f"{unit.name}_conv{index}",
        )
    x = parts.drop_path(x, unit.drop_path, name=f"{unit.name}_drop_path")
    return parts.add(other, x, name=f"{unit.name}_add")
