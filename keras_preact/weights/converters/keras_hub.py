"""keras_hub's `resnet_v2` presets: the `.weights.h5` files in a preset's folder."""

from __future__ import annotations

import os
import re

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters.keras_resnet import KerasNaming

NAMING = KerasNaming(
    re.compile(r"stack(?P<stage>\d+)_block(?P<unit>\d+)_(?P<part>\w+)"),
    first_stage=0,
    first_unit=0,
)


def read(path: str | os.PathLike) -> NamedWeights:
    """Read the weights of a `keras_hub` ResNetV2.

    Args:
        path: `model.weights.h5` (the backbone, without a classifier) or `task.weights.h5` (the
            image classifier) of a preset.

    Returns:
        Weights by the names of this package's layers.

    Raises:
        ValueError: If the file holds something else.
    """
    return NAMING.read(path)
