"""Dense units and the transitions between their stages (DenseNet, arXiv:1608.06993)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_preact.blocks.channels import dense_stages
from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.operations import Operation
from keras_preact.blocks.residual_unit import residual_branch
from keras_preact.layer_names import transition_name
from keras_preact.messages import require
from keras_preact.spec.fields import Fields
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor

# Fields that have only one possible value with dense units.
_VALUES = {
    "order": "full_preactivation",
    "shortcut": "identity",
    "downsample": "conv",
    "projection_input": "activated",
    "activated_stem": False,
    "stride_unit": "first",
    "widening": "stage",
    "zero_init_residual": False,
    "residual_scaling": None,
}


def dense_unit(
    x: Tensor, unit: Unit, operations: Sequence[Operation], make: LayerFactory
) -> Tensor:
    """Concatenate the input and the maps that the unit makes of it.

    The input of a unit goes through a transition first where `Architecture.compression` says that
    one opens its stage. Dropout follows every convolution.

    Args:
        x: Maps `(batch, height, width, unit.in_channels)`, or with the channels first.
        unit: The unit.
        operations: Operations of its branch.
        make: Makes the layers.

    Returns:
        Maps with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    make = dataclasses.replace(make, dropout_after_conv=True)
    if unit.projects:
        x = _transition(x, unit, make)
    branch = make.apply(x, make.order.first, unit.name, 1)
    branch = residual_branch(branch, unit, operations, make)
    return make.concatenate([x, branch], name=f"{unit.name}_concat")


def _transition(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    """Apply norm, activation, 1x1 convolution and, with a stride, 2x2 average pooling."""
    name = transition_name(unit.stage)
    x = make.apply(x, make.order.first, name)
    x = make.conv(x, unit.shortcut_channels, 1, name=f"{name}_conv")
    if not unit.strided:
        return x
    padding = "same" if unit.stride == 1 else "valid"
    return make.average_2x2(x, unit.stride, padding, name=f"{name}_pool")


def check(net: Fields) -> None:
    """Check that stages of dense units have channels that can be built.

    Raises:
        ValueError: If they have not, or a field has a value that dense units cannot have.
    """
    kind = f'`unit="{net.unit}"`'
    for field, value in _VALUES.items():
        given = getattr(net, field)
        require(given == value, field, f"{value!r} with {kind}", given)
    stages = dense_stages(net)
    require(
        all(stage.entering >= 1 for stage in stages),
        "compression",
        f"large enough to leave a channel of {net.channels}",
        net.compression,
    )
    terms = [
        f"{stage.entering} + {count} k" for count, stage in zip(net.units, stages, strict=True)
    ]
    require(
        all(stage.growth >= 1 and stage.rest == 0 for stage in stages),
        "channels",
        f"({', '.join(terms)}) with {kind}, for whole numbers k above 0, since each unit of a "
        "stage adds k channels",
        net.channels,
    )
