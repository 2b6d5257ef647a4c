"""Kinds of unit.

A kind is one row of `UNITS`: the operations of its residual branch, and the facts that the rest of
the net needs. Normalization, activation and shortcut are the same for all kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keras_preact.blocks import dense_unit as dense
from keras_preact.blocks.antialiasing import antialiased
from keras_preact.blocks.channels import (
    Widths,
    bottleneck_widths,
    dense_widths,
    residual_widths,
)
from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.operations import SPATIAL, Convolution, Operation
from keras_preact.blocks.residual_unit import residual_unit
from keras_preact.messages import require
from keras_preact.spec.fields import Fields
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor

Operations = tuple[Operation, ...]


@dataclass(frozen=True)
class UnitKind:
    """One kind of unit.

    Attributes:
        operations: Returns the operations of the branch.
        kernels: Sizes of its kernels, in pixels, by which a file of weights is recognized. Empty
            if files of such nets are not recognized.
        inside: Returns the channels between the convolutions. None if they are the output channels.
        widths: Returns the channels of all units of a net.
        join: Makes a unit from its input and the operations.
        spatial: Whether one of its operations is the one that `Architecture.spatial` and
            `cardinality` describe.
        depthwise: Whether it has a depthwise convolution.
    """

    operations: Callable[[Fields, Unit], Operations]
    kernels: tuple[int, ...] = ()
    inside: Callable[[Fields, Unit], int] | None = None
    widths: Callable[[Fields], Widths] = residual_widths
    join: Callable[[Tensor, Unit, Sequence[Operation], LayerFactory], Tensor] = residual_unit
    spatial: bool = False
    depthwise: bool = False

    @property
    def concatenates(self) -> bool:
        """Whether the unit concatenates its branch to its input instead of adding both."""
        return self.join is dense.dense_unit


def branch_operations(net: Fields, unit: Unit) -> Operations:
    """Return the operations of a unit's residual branch, with blurs where the net has them."""
    operations = UNITS[net.unit].operations
    if not net.blur_pool:
        return operations(net, unit)
    nominal = dataclasses.replace(unit, stride=unit.nominal_stride)
    return antialiased(operations(net, nominal), unit)


def _basic(net: Fields, unit: Unit) -> Operations:
    """Return two 3x3 convolutions (arXiv:1603.05027)."""
    return (
        Convolution(unit.channels, 3, unit.stride, unit.dilation),
        Convolution(unit.channels, 3, 1, unit.dilation_after),
    )


def _bottleneck(net: Fields, unit: Unit) -> Operations:
    """Return 1x1 to fewer channels, 3x3 or another `SPATIAL`, 1x1 back (arXiv:1603.05027)."""
    inside = bottleneck_channels(net, unit)
    spatial = SPATIAL[unit.spatial]
    if net.stride_in == "first_conv":
        first = Convolution(inside, 1, unit.stride)
        second = spatial(net, unit, inside, 1, unit.dilation_after)
    else:
        first = Convolution(inside, 1)
        second = spatial(net, unit, inside, unit.stride, unit.dilation)
    return first, second, Convolution(unit.channels, 1)


def bottleneck_channels(net: Fields, unit: Unit) -> int:
    """Return the channels inside a bottleneck."""
    return int(unit.channels * net.bottleneck_ratio)


def _inverted_bottleneck(net: Fields, unit: Unit) -> Operations:
    """Return 1x1 to more channels, depthwise 3x3, 1x1 (MobileNetV2, arXiv:1801.04381).

    As there, a stage whose expansion is 1 has no first convolution.
    """
    inside = _expanded_channels(net, unit)
    widen = () if inside == unit.in_channels else (Convolution(inside, 1),)
    depthwise = Convolution(None, 3, unit.stride, unit.dilation)
    return *widen, depthwise, Convolution(unit.channels, 1)


def _expanded_channels(net: Fields, unit: Unit) -> int:
    expansion = net.expansion
    if isinstance(expansion, tuple):
        expansion = expansion[unit.stage - 2]
    return max(1, round(unit.in_channels * expansion))


def _dense(net: Fields, unit: Unit) -> Operations:
    """Return 1x1 to more channels, 3x3 to those that the unit adds (DenseNet-B)."""
    return Convolution(_dense_inside(net, unit), 1), *_dense_basic(net, unit)


def _dense_inside(net: Fields, unit: Unit) -> int:
    return int(unit.growth / net.bottleneck_ratio)


def _dense_basic(net: Fields, unit: Unit) -> Operations:
    """Return a 3x3 convolution to the channels that the unit adds (arXiv:1608.06993)."""
    return (Convolution(unit.growth, 3, 1, unit.dilation_after),)


UNITS: dict[str, UnitKind] = {
    "basic": UnitKind(_basic, kernels=(3, 3)),
    "bottleneck": UnitKind(
        _bottleneck,
        kernels=(1, 3, 1),
        inside=bottleneck_channels,
        widths=bottleneck_widths,
        spatial=True,
    ),
    "inverted_bottleneck": UnitKind(
        _inverted_bottleneck, inside=_expanded_channels, depthwise=True
    ),
    "dense": UnitKind(
        _dense, kernels=(1, 3), inside=_dense_inside, widths=dense_widths, join=dense.dense_unit
    ),
    "dense_basic": UnitKind(_dense_basic, kernels=(3,), widths=dense_widths, join=dense.dense_unit),
}


def check(net: Fields) -> None:
    """Check the fields that depend on the kind of unit.

    Raises:
        ValueError: If a field has a value that such units cannot have.
    """
    kind, given = UNITS[net.unit], f'`unit="{net.unit}"`'
    if kind.concatenates:
        dense.check(net)
    require(
        kind.spatial or net.cardinality == 1,
        "cardinality",
        f"1 with {given}: the groups are those of a bottleneck's 3x3",
        net.cardinality,
    )
    require(
        kind.spatial or net.spatial == "conv",
        "spatial",
        f'"conv" with {given}: it stands inside a bottleneck',
        net.spatial,
    )
    require(
        net.weight_standardization != "scaled" or not kind.depthwise,
        "weight_standardization",
        f"True or False with {given}",
        net.weight_standardization,
    )
