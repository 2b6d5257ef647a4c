"""Residual units: a shortcut and a residual branch, added."""

from __future__ import annotations

from collections.abc import Sequence

from keras_preact.blocks.attention import attend
from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.operations import Operation
from keras_preact.blocks.residual_scaling import RESIDUAL_SCALINGS, scale_branch, scale_input
from keras_preact.blocks.shortcuts import shortcut
from keras_preact.messages import require
from keras_preact.spec.fields import Fields
from keras_preact.spec.orders import ORDERS
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor


def residual_unit(
    x: Tensor, unit: Unit, operations: Sequence[Operation], make: LayerFactory
) -> Tensor:
    """Add a shortcut and a residual branch, in the order of steps that the net has.

    In full pre-activation, normalization and activation come before every convolution, and nothing
    follows the addition. A shortcut with a convolution has the first activation as its input too,
    unless `Architecture.projection_input` says otherwise. The others have `x` itself.

    Args:
        x: Maps `(batch, height, width, unit.in_channels)`, or with the channels first.
        unit: The unit.
        operations: Operations of its branch.
        make: Makes the layers.

    Returns:
        Maps with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    activated = scale_input(x, unit, make)
    first = () if unit.activated else make.order.first
    activated = make.apply(activated, first, unit.name, 1)
    branch = residual_branch(activated, unit, operations, make)
    x, branch = shortcut(x, activated, branch, unit, make)
    x = make.add(x, branch, name=f"{unit.name}_add")
    return make.apply(x, make.order.sum, f"{unit.name}_sum")


def residual_branch(
    x: Tensor, unit: Unit, operations: Sequence[Operation], make: LayerFactory
) -> Tensor:
    """Apply a residual branch.

    Args:
        x: The unit's input after the steps before its first convolution.
        unit: The unit.
        operations: Operations of the branch.
        make: Makes the layers.

    Returns:
        Maps that the shortcut is added to.
    """
    net, order = make.net, make.order
    # Of two factors that start at zero, neither would have a gradient.
    starts_at_zero = RESIDUAL_SCALINGS[net.residual_scaling].starts_at_zero
    zero = order.zero_residual if net.zero_init_residual and not starts_at_zero else None
    block_rate = drop_block_rate(net, unit)
    *inner, last = operations
    for index, operation in enumerate(inner, 1):
        x = operation(
            x,
            make,
            normalized="norm" in order.between,
            zero_init=False,
            name=f"{unit.name}_conv{index}",
        )
        if not operation.activates:
            x = make.apply(x, order.between, unit.name, index + 1)
        x = make.drop_block(x, block_rate, name=f"{unit.name}_drop_block{index}")
    x = attend(x, unit, make, "before_last_conv")
    x = make.dropout(x, name=f"{unit.name}_dropout")
    index = len(operations)
    x = last(
        x,
        make,
        normalized="norm" in order.last,
        zero_init=zero == "conv",
        name=f"{unit.name}_conv{index}",
    )
    x = make.apply(x, order.last, unit.name, index + 1, zero_init=zero == "norm")
    x = make.drop_block(x, block_rate, name=f"{unit.name}_drop_block{index}")
    x = attend(x, unit, make, "after_last_conv")
    x = scale_branch(x, unit, make)
    return make.drop_path(x, unit.drop_path, name=f"{unit.name}_drop_path")


def drop_block_rate(net: Fields, unit: Unit) -> float:
    """Return the share of the pixels that DropBlock drops in a unit."""
    stages_after = len(net.units) + 1 - unit.stage
    return net.drop_block / 4**stages_after if stages_after < 2 else 0.0


def check(net: Fields) -> None:
    """Check that a branch that starts at zero can learn, and that a first unit can be activated.

    Raises:
        ValueError: If they cannot.
    """
    order = ORDERS[net.order]
    require(
        not net.zero_init_residual or order.zero_residual is not None,
        "zero_init_residual",
        f'False with `order="{net.order}"`, whose branches end in an activation',
        net.zero_init_residual,
    )
    require(
        not net.activated_stem or "act" in (*order.first[-1:], *order.stem[-1:]),
        "activated_stem",
        f'False with `order="{net.order}"`, whose units do not begin with an activation',
        net.activated_stem,
    )
