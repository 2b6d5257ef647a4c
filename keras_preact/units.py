"""The residual units, as functions on tensors.

A kind of unit is the list of its residual branch's operations; how they are put together with
normalisation, activation and shortcut is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keras_preact.operations import Convolution, Operation
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
    """1x1 to fewer channels, 3x3, 1x1 back (arXiv:1603.05027)."""
    inside = architecture.bottleneck_channels(unit.channels)
    if architecture.stride_in == "first_conv":
        first = Convolution(inside, 1, unit.stride)
        spatial = Convolution(inside, 3, 1, unit.dilation_after)
    else:
        first = Convolution(inside, 1)
        spatial = Convolution(inside, 3, unit.stride, unit.dilation)
    return first, spatial, Convolution(unit.channels, 1)


UNITS: dict[str, Callable[[Architecture, Unit], tuple[Operation, ...]]] = {
    "basic": basic,
    "bottleneck": bottleneck,
}

# What a unit's input goes through on its way to the branch, and to a projecting shortcut, before
# every other step; an identity shortcut takes the input as it is.
BRANCH_STARTS: tuple[Callable[[Any, Unit, Parts], Any], ...] = (scale_input,)
# What a branch goes through after its operations, in this order.
BRANCH_ENDS: tuple[Callable[[Any, Unit, Parts], Any], ...] = (scale_branch,)


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
    *operations, last = UNITS[architecture.unit](architecture, unit)
    for index, operation in enumerate(operations, 1):
        x = operation(
            x,
            parts,
            normalized="norm" in order.between,
            zero_init=False,
            name=f"{unit.name}_conv{index}",
        )
        x = parts.apply(x, order.between, unit.name, index + 1)
    x = parts.dropout(x, name=f"{unit.name}_dropout")
    index = len(operations) + 1
    x = last(
        x,
        parts,
        normalized="norm" in order.last,
        zero_init=zero == "conv",
        name=f"{unit.name}_conv{index}",
    )
    x = parts.apply(x, order.last, unit.name, index + 1, zero_init=zero == "norm")
    for end in BRANCH_ENDS:
        x = end(x, unit, parts)
    return parts.drop_path(x, unit.drop_path, name=f"{unit.name}_drop_path")
