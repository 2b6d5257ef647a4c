"""The residual units, as functions on tensors.

A kind of unit is the list of its residual branch's operations; how they are put together with
normalisation, activation and shortcut is the same for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keras_preact import attention
from keras_preact.antialiasing import antialiased
from keras_preact.operations import SPATIAL, Convolution, Depthwise, Operation
from keras_preact.parts import Parts
from keras_preact.residual_scaling import scale_branch, scale_input
from keras_preact.shortcuts import shortcut

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture, Unit


def basic(architecture: Architecture, unit: Unit) -> tuple[Operation, ...]:
    """Two 3x3 convolutions (arXiv:1603.05027)."""
    return (
        Convolution(unit.channels, 3, unit.stride, unit.dilation),
        Convolution(unit.channels, 3, 1, unit.dilation_after),
    )


def bottleneck(architecture: Architecture, unit: Unit) -> tuple[Operation, ...]:
    """1x1 to fewer channels, 3x3 or what else is in `SPATIAL`, 1x1 back (arXiv:1603.05027)."""
    inside = architecture.bottleneck_channels(unit.channels)
    spatial = SPATIAL[unit.spatial]
    if architecture.stride_in == "first_conv":
        first = Convolution(inside, 1, unit.stride)
        second = spatial(architecture, unit, inside, 1, unit.dilation_after)
    else:
        first = Convolution(inside, 1)
        second = spatial(architecture, unit, inside, unit.stride, unit.dilation)
    return first, second, Convolution(unit.channels, 1)


def inverted_bottleneck(architecture: Architecture, unit: Unit) -> tuple[Operation, ...]:
    """1x1 to more channels, 3x3 of each by itself, 1x1 (MobileNetV2, arXiv:1801.04381).

    As there, a stage whose expansion is 1 has no first convolution.
    """
    inside = architecture.expanded_channels(unit)
    widen = () if inside == unit.in_channels else (Convolution(inside, 1),)
    return *widen, Depthwise(3, unit.stride, unit.dilation), Convolution(unit.channels, 1)


def dense(architecture: Architecture, unit: Unit) -> tuple[Operation, ...]:
    """1x1 to more channels, 3x3 to those that the unit adds (DenseNet-B, arXiv:1608.06993)."""
    inside = INSIDE["dense"](architecture, unit)
    return Convolution(inside, 1), *dense_basic(architecture, unit)


def dense_basic(architecture: Architecture, unit: Unit) -> tuple[Operation, ...]:
    """One 3x3 convolution to the channels that the unit adds (arXiv:1608.06993)."""
    return (Convolution(unit.growth, 3, 1, unit.dilation_after),)


UNITS: dict[str, Callable[[Architecture, Unit], tuple[Operation, ...]]] = {
    "basic": basic,
    "bottleneck": bottleneck,
    "inverted_bottleneck": inverted_bottleneck,
    "dense": dense,
    "dense_basic": dense_basic,
}

# Channels between the convolutions of a unit, where they are others than those that go out.
INSIDE: dict[str, Callable[[Architecture, Unit], int]] = {
    "bottleneck": lambda net, unit: net.bottleneck_channels(unit.channels),
    "inverted_bottleneck": lambda net, unit: net.expanded_channels(unit),
    "dense": lambda net, unit: int(unit.growth / net.bottleneck_ratio),
}


def _dropout(x: Any, unit: Unit, parts: Parts) -> Any:
    return parts.dropout(x, name=f"{unit.name}_dropout")


def _drop_block(x: Any, unit: Unit, parts: Parts, index: int) -> Any:
    rate = parts.architecture.drop_block_rate(unit)
    return parts.drop_block(x, rate, name=f"{unit.name}_drop_block{index}")


# What a unit's input goes through on its way to the branch, and to a projecting shortcut, before
# every other step; an identity shortcut takes the input as it is.
BRANCH_STARTS: tuple[Callable[[Any, Unit, Parts], Any], ...] = (scale_input,)
# What a branch goes through after each of its operations and the normalisation and activation that
# follow it; the function takes the operation's number too.
AFTER_EACH: tuple[Callable[[Any, Unit, Parts, int], Any], ...] = (_drop_block,)
# What a branch goes through before its last operation, and after it, in this order.
BEFORE_LAST: tuple[Callable[[Any, Unit, Parts], Any], ...] = (
    attention.before_last_conv,
    _dropout,
)
BRANCH_ENDS: tuple[Callable[[Any, Unit, Parts], Any], ...] = (
    attention.after_last_conv,
    scale_branch,
)


def branch_operations(architecture: Architecture, unit: Unit) -> tuple[Operation, ...]:
    """The operations of a unit's residual branch."""
    operations = UNITS[architecture.unit]
    if not architecture.blur_pool:
        return operations(architecture, unit)
    nominal = dataclasses.replace(unit, stride=unit.nominal_stride)
    return antialiased(operations(architecture, nominal), unit)


def residual_unit(x: Any, unit: Unit, parts: Parts) -> Any:
    """The sum of a shortcut and a residual branch, in the order of steps that the net has.

    In full pre-activation, normalisation and activation come before every convolution, and nothing
    follows the addition. A unit whose shortcut has a convolution feeds it the first activation
    too; the others hand `x` on untouched.

    Args:
        x: Tensor `(batch, height, width, unit.in_channels)`, or with the channels first.
        unit: What the architecture says of this unit.
        parts: Makes the layers.

    Returns:
        A tensor with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    activated = x
    for start in BRANCH_STARTS:
        activated = start(activated, unit, parts)
    activated = parts.apply(activated, parts.order.first, unit.name, 1)
    branch = residual_branch(activated, unit, parts)
    x, branch = shortcut(x, activated, branch, unit, parts)
    x = parts.add(x, branch, name=f"{unit.name}_add")
    return parts.apply(x, parts.order.sum, f"{unit.name}_sum")


def residual_branch(x: Any, unit: Unit, parts: Parts) -> Any:
    """What a unit adds to its shortcut.

    Args:
        x: The unit's input after the steps before its first convolution.
        unit: What the architecture says of this unit.
        parts: Makes the layers.

    Returns:
        A tensor with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    order, architecture = parts.order, parts.architecture
    zero = order.zero_residual if architecture.zero_init_residual else None
    *operations, last = branch_operations(architecture, unit)
    for index, operation in enumerate(operations, 1):
        x = operation(
            x,
            parts,
            normalized="norm" in order.between,
            zero_init=False,
            name=f"{unit.name}_conv{index}",
        )
        if not getattr(operation, "activates", False):
            x = parts.apply(x, order.between, unit.name, index + 1)
        x = _after_each(x, unit, parts, index)
    for step in BEFORE_LAST:
        x = step(x, unit, parts)
    index = len(operations) + 1
    x = last(
        x,
        parts,
        normalized="norm" in order.last,
        zero_init=zero == "conv",
        name=f"{unit.name}_conv{index}",
    )
    x = parts.apply(x, order.last, unit.name, index + 1, zero_init=zero == "norm")
    x = _after_each(x, unit, parts, index)
    for end in BRANCH_ENDS:
        x = end(x, unit, parts)
    return parts.drop_path(x, unit.drop_path, name=f"{unit.name}_drop_path")


def _after_each(x: Any, unit: Unit, parts: Parts, index: int) -> Any:
    for step in AFTER_EACH:
        x = step(x, unit, parts, index)
    return x
