"""Translation of the layer names of Keras's sources into those of this package."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters.arrays import by_layer
from keras_preact.weights.keras_h5 import SavedLayers, saved_layers

_PARTS = {
    "0_bn": "norm1",
    "preact_bn": "norm1",
    "pre_activation_bn": "norm1",
    "1_conv": "conv1",
    "1_bn": "norm2",
    "2_conv": "conv2",
    "2_bn": "norm3",
    "3_conv": "conv3",
    "0_conv": "shortcut",
}
# keras.applications' classifiers were called "probs" and "fc1000" before "predictions".
_FIXED = {
    "conv1_conv": "stem_conv",
    "conv1_bn": "stem_norm",
    "post_bn": "head_norm",
    "bn": "head_norm",
    "probs": "predictions",
    "fc1000": "predictions",
    "predictions": "predictions",
}
# Names in the published DenseNets that a path could be taken for.
_WITH_SLASH = {"conv1/conv": "conv1_conv", "conv1/bn": "conv1_bn"}
_TRANSITION = re.compile(r"pool(?P<before>\d+)_(?P<part>conv|bn)")
_NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")
_CONV_VARIABLES = ("kernel", "bias")


@dataclass(frozen=True)
class KerasNaming:
    """Names of a source's layers: `STAGE_UNIT_1_conv` and so on.

    Attributes:
        unit: Matches a layer of a unit, with the groups `stage`, `unit` and `part`.
        first_stage: Number that the source gives to the first stage of units, our stage 2.
        first_unit: Number that the source gives to a stage's first unit.
    """

    unit: re.Pattern
    first_stage: int
    first_unit: int

    def knows(self, names: Iterable[str]) -> bool:
        """Return whether some of the names of layers are those of this source's units."""
        return any(map(self.unit.fullmatch, names))

    def read(self, path: str | os.PathLike) -> NamedWeights:
        """Read a file of Keras's that holds a net of this source.

        Args:
            path: The file, of any of Keras's formats.

        Returns:
            Weights by the names of this package's layers.

        Raises:
            ValueError: If the file holds something else.
        """
        return self.renamed(saved_layers(path), path)

    def renamed(self, layers: SavedLayers, path: str | os.PathLike) -> NamedWeights:
        """Return the weights in a file by the names of this package's layers.

        A net that is part of another model, as the backbone of a classifier is, has their names
        alone, unless the file holds several nets.
        """
        layers = {_WITH_SLASH.get(each, each): own for each, own in layers.items()}
        names = Counter(each.rpartition("/")[2] for each in layers)
        alone = max(names.values(), default=0) == 1
        arrays = (
            (f"{each.rpartition('/')[2] if alone else each}/{key}", array)
            for each, own in layers.items()
            for key, array in own.items()
        )
        return by_layer(arrays, self._rename, path)

    def _rename(self, name: str) -> tuple[str, str] | None:
        module, _, variable = name.rpartition("/")
        prefix, slash, module = module.rpartition("/")
        layer = _FIXED.get(module) or self._unit_layer(module) or _transition_layer(module)
        if layer is None:
            return None
        variables = _NORM_VARIABLES if "norm" in layer else _CONV_VARIABLES
        if variable.isdecimal():
            # Keras 3 numbers variables in the order in which a layer made them.
            variable = dict(enumerate(variables)).get(int(variable), variable)
        return (prefix + slash + layer, variable) if variable in variables else None

    def _unit_layer(self, module: str) -> str | None:
        match = self.unit.fullmatch(module)
        if not match or match["part"] not in _PARTS:
            return None
        stage = int(match["stage"]) - self.first_stage + 2
        number = int(match["unit"]) - self.first_unit + 1
        return f"stage{stage}_unit{number}_{_PARTS[match['part']]}"


def _transition_layer(module: str) -> str | None:
    match = _TRANSITION.fullmatch(module)
    if not match:
        return None
    part = {"conv": "conv", "bn": "norm"}[match["part"]]
    return f"stage{int(match['before']) + 1}_transition_{part}"
