"""Big Transfer's own `.npz` files (arXiv:1912.11370)."""

from __future__ import annotations

import os
import re
import zipfile

import numpy as np

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters.arrays import by_layer

_UNIT = re.compile(r"block(?P<stage>\d+)/unit(?P<unit>\d+)/(?P<conv>[abc])/(?P<part>\w+|proj/\w+)")
_FIXED = {
    "root_block/standardized_conv2d": "stem_conv",
    "group_norm": "head_norm",
    "head/conv2d": "predictions",
}
_PARTS = {
    "standardized_conv2d": "conv{}",
    "group_norm": "norm{}",
    "proj/standardized_conv2d": "shortcut",
}
_VARIABLES = ("kernel", "bias", "gamma", "beta")


def read(path: str | os.PathLike) -> NamedWeights:
    """Read a checkpoint of Big Transfer's.

    Args:
        path: The `.npz` file.

    Returns:
        Weights by the names of this package's layers.

    Raises:
        ValueError: If the file is no such checkpoint.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is no whole .npz file of arrays: {error}") from error
    return by_layer(arrays.items(), _rename, path)


def _rename(name: str) -> tuple[str, str] | None:
    module, _, variable = name.removeprefix("resnet/").rpartition("/")
    if match := _UNIT.fullmatch(module):
        part = _PARTS.get(match["part"])
        number = "abc".index(match["conv"]) + 1
        unit = f"stage{int(match['stage']) + 1}_unit{int(match['unit'])}"
        layer = f"{unit}_{part.format(number)}" if part else None
    else:
        layer = _FIXED.get(module)
    return (layer, variable) if layer and variable in _VARIABLES else None
