"""Per-unit numbers of otherwise identical units: drop path rate and input scale."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from keras_preact.layers.drop_path import DropPath
from keras_preact.layers.scale import Scale
from keras_preact.layers.shake_drop import ShakeDrop


@dataclass(frozen=True)
class UnitNumber:
    """Number of which each unit of a stack has its own.

    A unit by itself has it in a layer's configuration. The template of stacked units takes it as
    an input, and hands it to the calls of these layers.

    Attributes:
        layers: Classes of the layers that the number sets.
        option: Its name in their configuration and their calls.
        neutral: Value that makes such a layer the identity.
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
