"""A stage of units, in one of the forms its architecture asks for.

Units that may change the shape, the first of a stage and in some nets the last, are always made
of layers of their own. The others are identical, and may be

- layers of their own too, in nets of up to `FLAT_UNITS` units;
- nested models, one a unit, in deeper nets, since Keras walks a graph recursively;
- nested models that are computed again in the backward pass (`rematerialize`);
- one loop over stacked weights (`scan_units`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.architecture import Architecture, Unit
from keras_preact.dense import DENSE_UNITS, dense_unit
from keras_preact.layers import Rematerialized, StackedUnits
from keras_preact.layers.stacked_units import TEMPLATE_PREFIX, stack_name
from keras_preact.layers.unit_numbers import UNIT_NUMBERS
from keras_preact.operations import SIZED
from keras_preact.parts import Parts
from keras_preact.units import residual_unit

# The units of the 110- and 164-layer CIFAR nets. A flat unit adds up to 15 steps to the graph's
# depth, of which Python's default recursion limit leaves Keras about 900.
FLAT_UNITS = 54
# Each nested model is one step; some are left for the rest of the net and for the caller.
SEPARATE_UNITS = 750

# What puts a unit's branch and shortcut together, where that is not an addition.
UNIT_FUNCTIONS: dict[str, Callable[[Any, Unit, Parts], Any]] = dict.fromkeys(
    DENSE_UNITS, dense_unit
)


def check_separate_units(count: int) -> None:
    """Check that Keras can build a net of so many separate units.

    Args:
        count: Separate units of the net.

    Raises:
        ValueError: If they are too many.
    """
    if count > SEPARATE_UNITS:
        raise ValueError(
            f"A net of {count} separate units is deeper than Keras can build within Python's "
            f"default recursion limit, which leaves room for {SEPARATE_UNITS}. Stack its units: "
            "`scan_units=True`."
        )


def separate_units(architecture: Architecture) -> int:
    """The number of steps in a net's graph that are units or loops of units."""
    return sum(
        1 if scans else len(run)
        for units in architecture.stages.values()
        for run, scans in _runs(units, architecture)
    )


def residual_stage(x: Any, units: tuple[Unit, ...], parts: Parts) -> Any:
    """Apply the units of a stage.

    Args:
        x: Tensor `(batch, height, width, channels)`, or with the channels first.
        units: What the architecture says of the stage's units.
        parts: Makes the layers.

    Returns:
        The output of the last unit, not yet activated.
    """
    for run, scans in _runs(units, parts.architecture):
        if scans:
            x = _stacked(x, run, parts)
        elif run[0] is units[0] or run[0].stride != 1:
            x = _unit(x, run[0], parts)
        else:
            for unit in run:
                x = _separate(x, unit, parts)
    return x


def _runs(
    units: tuple[Unit, ...], architecture: Architecture
) -> Iterator[tuple[Sequence[Unit], bool]]:
    """The first unit, then the others, as far as they are alike; and whether they are a loop."""
    yield units[:1], False
    for _, run in itertools.groupby(units[1:], key=without_name_and_numbers):
        run = tuple(run)
        yield run, len(run) > 1 and architecture.scans(units)


def _unit(x: Any, unit: Unit, parts: Parts) -> Any:
    return UNIT_FUNCTIONS.get(parts.architecture.unit, residual_unit)(x, unit, parts)


def without_name_and_numbers(unit: Unit) -> Unit:
    """A unit with nothing of its own but its layers and their shapes, to tell units alike by."""
    neutral = {field: number.neutral for field, number in UNIT_NUMBERS.items()}
    return dataclasses.replace(unit, name="", **neutral)


def _separate(x: Any, unit: Unit, parts: Parts) -> Any:
    if not nests(parts.architecture):
        return _unit(x, unit, parts)
    inputs = _unit_input(x, unit, parts)
    return nested(x, keras.Model(inputs, _unit(inputs, unit, parts), name=unit.name), parts)


def nests(architecture: Architecture) -> bool:
    """Whether separate units, and the blocks of an encoder, are models of their own."""
    steps = sum(architecture.units) + architecture.encoder_depth
    return architecture.rematerialize or steps > FLAT_UNITS


def nested(x: Any, model: keras.Model, parts: Parts) -> Any:
    """Apply a nested model, one that is computed again in the backward pass where asked for."""
    if parts.architecture.rematerialize:
        return Rematerialized(model, dtype=parts.dtype, name=model.name)(x)
    return model(x)


def _stacked(x: Any, units: Sequence[Unit], parts: Parts) -> Any:
    unit = dataclasses.replace(units[0], name=TEMPLATE_PREFIX.rstrip("_"))
    x_input = _unit_input(x, unit, parts)
    values = {field: [getattr(each, field) for each in units] for field in UNIT_NUMBERS}
    values = {
        field: each for field, each in values.items() if set(each) != {UNIT_NUMBERS[field].neutral}
    }
    numbers = {
        field: keras.Input(batch_shape=(), dtype="float32", name=UNIT_NUMBERS[field].input)
        for field in values
    }
    parts = _TemplateParts(**vars(parts), numbers=numbers)
    names = [each.name for each in units]
    output = residual_unit(x_input, unit, parts)
    layer = StackedUnits(
        keras.Model([x_input, *numbers.values()] if numbers else x_input, output, name="unit"),
        unit_names=names,
        **values,
        rematerialize=parts.architecture.rematerialize,
        dtype=parts.dtype,
        name=stack_name(names),
    )
    return layer(x)


def _unit_input(x: Any, unit: Unit, parts: Parts) -> Any:
    shape = list(x.shape[1:]) if unit.spatial in SIZED else [None, None, None]
    shape[parts.channel_axis - 1] = unit.in_channels
    return keras.Input(tuple(shape), dtype=parts.dtype.compute_dtype, name=f"{unit.name}_input")


@dataclass(frozen=True, kw_only=True)
class _TemplateParts(Parts):
    """Makes the layers of a template, to which the units' own numbers are tensors."""

    numbers: dict[str, Any]

    def unit_number(
        self, x: Any, field: str, value: float, layer: type[keras.layers.Layer], *, name: str
    ) -> Any:
        """The layer, with the number that the template is given."""
        if field not in self.numbers:
            return x
        number = UNIT_NUMBERS[field]
        made = layer(number.neutral, dtype=self.dtype, name=name)
        return made(x, **{number.option: self.numbers[field]})
