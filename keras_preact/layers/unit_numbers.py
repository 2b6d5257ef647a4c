"""The numbers in which the units of a stage differ that are otherwise alike."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from keras_preact.layers.drop_path import DropPath
from keras_preact.layers.scale import Scale
from keras_preact.layers.shake_drop import ShakeDrop


@dataclass(frozen=True)
class UnitNumber:
    """A number that each unit of a stack has of its own.

    A unit by itself has it in a layer's configuration. The template of stacked units takes it as
    an input, and hands it to the calls of these layers.

    Attributes:
        layers: The classes of the layers that the number sets.
        option: What it is called in their configuration and their calls.
        neutral: The value at which such a layer gives what it takes.
        input: Name of the template's input.
    """

    layers: tuple[type[keras.layers.Layer], ...]
    option: str
    neutral: float
    input: str


# By name of the field of `keras_preact.spec.unit.Unit` and of the argument of `StackedUnits`.
UNIT_NUMBERS = {
    "drop_path": UnitNumber((DropPath, ShakeDrop), "rate", 0.0, "drop_path_rate"),
    "input_scale": UnitNumber((Scale,), "factor", 1.0, "input_scale"),
}
