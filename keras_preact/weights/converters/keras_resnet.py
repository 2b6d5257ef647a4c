"""Translation of the layer names of Keras's sources into those of this package."""

from __future__ import annotations

import os
import re

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters.arrays import by_layer
from keras_preact.weights.keras_h5 import arrays

_PARTS = {
    "preact_bn": "norm1",
    "pre_activation_bn": "norm1",
    "1_conv": "conv1",
    "1_bn": "norm2",
    "2_conv": "conv2",
    "2_bn": "norm3",
    "3_conv": "conv3",
    "0_conv": "shortcut",
}
# keras.applications' classifier was called "probs" before it was called "predictions".
_FIXED = {
    "conv1_conv": "stem_conv",
    "post_bn": "head_norm",
    "probs": "predictions",
    "predictions": "predictions",
}
_NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")
_CONV_VARIABLES = ("kernel", "bias")


def read_resnet(
    path: str | os.PathLike, unit: re.Pattern, first_stage: int, first_unit: int
) -> NamedWeights:
    """Read a file of Keras weights whose layers are called `STAGE_UNIT_1_conv` and so on.

    Args:
        path: The file.
        unit: Matches a layer of a unit, with the groups `stage`, `unit` and `part`.
        first_stage: Number that the source gives to the first stage of units, our stage 2.
        first_unit: Number that the source gives to a stage's first unit.

    Returns:
        Weights by the names of this package's layers.

    Raises:
        ValueError: If the file holds something else.
    """

    def rename(name: str) -> tuple[str, str] | None:
        module, _, variable = name.rpartition("/")
        layer = _FIXED.get(module)
        match = unit.fullmatch(module)
        if match and match["part"] in _PARTS:
            stage, number = (
                int(match["stage"]) - first_stage + 2,
                int(match["unit"]) - first_unit + 1,
            )
            layer = f"stage{stage}_unit{number}_{_PARTS[match['part']]}"
        if layer is None:
            return None
        variables = _NORM_VARIABLES if "norm" in layer else _CONV_VARIABLES
        if variable.isdecimal():
            # Keras 3 numbers variables in the order in which a layer made them.
            variable = dict(enumerate(variables)).get(int(variable))
        return (layer, variable) if variable in variables else None

    return by_layer(arrays(path), rename, path)
