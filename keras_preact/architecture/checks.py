"""Checks of an architecture: single fields, then parts, then what several parts must agree on."""

from __future__ import annotations

from typing import Any

from keras_preact.architecture.plan import Plan
from keras_preact.blocks import (
    convolutions,
    encoder,
    norms,
    operations,
    residual_scaling,
    residual_unit,
    stages,
    units,
)
from keras_preact.blocks.norms import NORMS
from keras_preact.blocks.shortcuts import PROJECTIONS
from keras_preact.messages import require
from keras_preact.spec.fields import RULES, Fields

# In this order, so that an error names the first part that cannot be built.
PARTS = (
    operations,
    units,
    stages,
    norms,
    convolutions,
    encoder,
    residual_scaling,
    residual_unit,
)


def checked_fields(net: Fields) -> dict[str, Any]:
    """Check each field by itself.

    Returns:
        The value of each field, its numbers as Python's own.

    Raises:
        ValueError: If a value is of the wrong kind or out of its range.
    """
    return {name: rule.check(name, getattr(net, name)) for name, rule in RULES.items()}


def check_parts(net: Fields) -> None:
    """Check that there is one value per stage, and each part by itself.

    Raises:
        ValueError: If a field does not fit others.
    """
    if not len(net.units) == len(net.channels) == len(net.strides):
        raise ValueError(
            "`units`, `channels` and `strides` must have one value for each stage. "
            f"Received: units={net.units}, channels={net.channels}, strides={net.strides}"
        )
    count = len(net.units)
    require(
        not isinstance(net.expansion, tuple) or len(net.expansion) == count,
        "expansion",
        f"a number, or one for each of {count} stages",
        net.expansion,
    )
    require(
        net.dilations is None or len(net.dilations) == count,
        "dilations",
        f"None or one positive integer for each of the {count} stages",
        net.dilations,
    )
    require(
        net.multi_grid is None or len(net.multi_grid) <= net.units[-1],
        "multi_grid",
        f"no longer than the last stage, which has {net.units[-1]} units",
        net.multi_grid,
    )
    for part in PARTS:
        part.check(net)


def check_plan(plan: Plan) -> None:
    """Check the fields that depend on the channels and strides of all units.

    Raises:
        ValueError: If a field does not fit them.
    """
    net = plan.net
    require(
        net.downsample in PROJECTIONS
        or all(unit.in_channels <= unit.channels for unit in plan.units),
        "downsample",
        f"one of {tuple(PROJECTIONS)} where channels become fewer: {net.stem_channels} of the "
        f"stem, then {net.channels}",
        net.downsample,
    )
    require(
        min(plan.inside_channels, default=1) >= 1,
        "bottleneck_ratio",
        f"such that a channel is left inside the units, which give {net.channels}",
        net.bottleneck_ratio,
    )
    for field, spatial in (("res2_scale", "res2"), ("attention_heads", "self_attention")):
        divisor, inside = getattr(net, field), plan.spatial_channels(spatial)
        require(
            all(channels % divisor == 0 for channels in inside),
            field,
            f'a divisor of the channels inside the bottlenecks with `spatial="{spatial}"`, which '
            f"follow from `channels`, `bottleneck_ratio` and `widening`: {sorted(inside)}",
            divisor,
        )
    convolved = plan.spatial_channels("conv") | plan.res2_channels
    require(
        all(channels % net.cardinality == 0 for channels in convolved),
        "cardinality",
        f"a divisor of the channels of every 3x3 convolution: {sorted(convolved)}",
        net.cardinality,
    )
    require(
        not NORMS[net.norm].grouped
        or all(channels % net.norm_groups == 0 for channels in plan.normalized_channels),
        "norm_groups",
        f'a divisor of every number of channels that `norm="{net.norm}"` normalizes: '
        f"{sorted(plan.normalized_channels)}",
        net.norm_groups,
    )
    require(
        net.output_stride is None or net.output_stride in plan.reached_strides,
        "output_stride",
        f"None or a stride that the net reaches: {sorted(set(plan.reached_strides))}",
        net.output_stride,
    )
