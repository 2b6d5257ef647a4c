"""Stages of units, in one of the forms that the net asks for.

Units that may change the shape, the first of a stage and in some nets the last, always consist of
layers of their own. The others are identical, and may be

- layers of their own too, wherever Keras can build the net so;
- nested models, one per unit, in nets that are deeper (`nesting`);
- nested models that the backward pass computes again (`rematerialize`);
- one loop over stacked weights (`scan_units`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import keras

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.nesting import nested
from keras_preact.blocks.operations import SIZED
from keras_preact.blocks.units import UNITS, branch_operations
from keras_preact.layer_names import stack_name
from keras_preact.layers import StackedUnits
from keras_preact.layers.stacked_units import TEMPLATE_PREFIX
from keras_preact.layers.unit_numbers import UNIT_NUMBERS
from keras_preact.messages import require
from keras_preact.spec.fields import Fields
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor

# `scan_units="auto"` runs a stage as a loop from this number of units on, in nets of more than this
# number of layers: to build and trace one layer takes a tenth of a second (`benchmarks.flat_nets`).
AUTO_SCAN_UNITS = 24
AUTO_SCAN_LAYERS = 300


def residual_stage(x: Tensor, units: Sequence[Unit], make: LayerFactory) -> Tensor:
    """Apply the units of a stage.

    Args:
        x: Maps `(batch, height, width, channels)`, or with the channels first.
        units: The units.
        make: Makes the layers.

    Returns:
        The output of the last unit, not yet activated.
    """
    net = make.net
    join = UNITS[net.unit].join
    for run, scans in _runs(units, net):
        if scans:
            x = _stacked(x, run, make)
        elif run[0] is units[0] or run[0].stride != 1 or not make.nests:
            for unit in run:
                x = join(x, unit, branch_operations(net, unit), make)
        else:
            for unit in run:
                inputs = _unit_input(x, unit, make)
                output = join(inputs, unit, branch_operations(net, unit), make)
                x = nested(x, keras.Model(inputs, output, name=unit.name), make)
    return x


def separate_units(stages: Iterable[Sequence[Unit]], net: Fields) -> int:
    """Return the number of steps in a net's graph that are units or loops of units."""
    return sum(1 if scans else len(run) for units in stages for run, scans in _runs(units, net))


def _runs(units: Sequence[Unit], net: Fields) -> Iterator[tuple[Sequence[Unit], bool]]:
    """Yield runs of identical units, and whether each run becomes one loop.

    The first unit is a run of its own.
    """
    yield units[:1], False
    for _, run in itertools.groupby(units[1:], key=without_name_and_numbers):
        run = tuple(run)
        yield run, len(run) > 1 and _scans(units, net)


def _scans(units: Sequence[Unit], net: Fields) -> bool:
    """Return whether the units of a stage, after its first, run as one loop."""
    if net.scan_units == "auto":
        layers = sum(net.units) * len(branch_operations(net, units[-1]))
        return layers > AUTO_SCAN_LAYERS and len(units) >= AUTO_SCAN_UNITS
    return bool(net.scan_units) and len(units) > 2


def without_name_and_numbers(unit: Unit) -> Unit:
    """Strip the name and the numbers of its own, so that identical units compare equal."""
    neutral = {field: number.neutral for field, number in UNIT_NUMBERS.items()}
    return dataclasses.replace(unit, name="", **neutral)


def _stacked(x: Tensor, units: Sequence[Unit], make: LayerFactory) -> Tensor:
    """Apply identical units as one loop over stacked weights."""
    unit = dataclasses.replace(units[0], name=TEMPLATE_PREFIX.rstrip("_"))
    x_input = _unit_input(x, unit, make)
    values = {field: [getattr(each, field) for each in units] for field in UNIT_NUMBERS}
    values = {
        field: each for field, each in values.items() if set(each) != {UNIT_NUMBERS[field].neutral}
    }
    numbers = {
        field: keras.Input(batch_shape=(), dtype="float32", name=UNIT_NUMBERS[field].input)
        for field in values
    }
    make = dataclasses.replace(make, unit_numbers=numbers)
    output = UNITS[make.net.unit].join(x_input, unit, branch_operations(make.net, unit), make)
    names = [each.name for each in units]
    layer = StackedUnits(
        keras.Model([x_input, *numbers.values()] if numbers else x_input, output, name="unit"),
        unit_names=names,
        **values,
        rematerialize=make.net.rematerialize is True,
        dtype=make.dtype,
        name=stack_name(names),
    )
    return layer(x)


def _unit_input(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    shape: list[int | None] = [*x.shape[1:]] if unit.spatial in SIZED else [None] * 3
    shape[make.channel_axis - 1] = unit.in_channels
    return keras.Input(tuple(shape), dtype=make.dtype.compute_dtype, name=f"{unit.name}_input")


def check(net: Fields) -> None:
    """Check that units that shall run as a loop have the same channels.

    Raises:
        ValueError: If they have not.
    """
    require(
        net.scan_units is not True
        or (not UNITS[net.unit].concatenates and net.widening == "stage"),
        "scan_units",
        f'False or "auto" with `unit="{net.unit}"` and `widening="{net.widening}"`, where the '
        "units of a stage have different channels",
        net.scan_units,
    )
