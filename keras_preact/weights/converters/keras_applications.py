"""ResNetV2 and DenseNet files of `keras.applications`: HDF5 in the old format or the new one."""

from __future__ import annotations

import os
import re

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters.keras_resnet import KerasNaming

NAMING = KerasNaming(
    re.compile(r"conv(?P<stage>\d+)_block(?P<unit>\d+)_(?P<part>\w+)"),
    first_stage=2,
    first_unit=1,
)


def read(path: str | os.PathLike) -> NamedWeights:
    """Read the weights of a `keras.applications.ResNet…V2` or `DenseNet…`.

    Args:
        path: The published `.h5` file, with the top or without, or one that Keras saved of such a
            model: `.h5` or `.weights.h5`.

    Returns:
        Weights by the names of this package's layers.

    Raises:
        ValueError: If the file holds something else.
    """
    return NAMING.read(path)
