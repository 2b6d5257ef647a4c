"""timm's `resnetv2` and `nf_resnet` checkpoints: a `.safetensors` file of PyTorch tensors."""

from __future__ import annotations

import os
import re

import numpy as np

from keras_preact.weights.converters.arrays import by_layer
from keras_preact.weights.named import NamedWeights

_STEM = re.compile(r"stem\.(?P<part>(?:conv|norm)\d?)")
_UNIT = re.compile(
    r"stages\.(?P<stage>\d+)\.(?:blocks\.)?(?P<unit>\d+)"
    r"(?:\.(?P<part>(?:conv|norm)\d|downsample\.conv))?"
)
_FIXED = {"norm": "head_norm", "head.fc": "predictions"}
_NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "v": "v",
    "tau": "tau",
}
_CONV_VARIABLES = {"weight": "kernel", "bias": "bias", "gain": "gain"}
# The one variable of a unit that is in none of its layers.
_UNIT_VARIABLES = {"skipinit_gain": "gain"}
# Batches seen in training, which Keras does not count.
_COUNTER = "num_batches_tracked"


def read(path: str | os.PathLike) -> NamedWeights:
    """Read a checkpoint of timm's.

    Args:
        path: The `.safetensors` file.

    Returns:
        Weights by the names of this package's layers.

    Raises:
        ImportError: If the package safetensors is not installed.
        ValueError: If the file is no such checkpoint.
    """
    try:
        import safetensors
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            f"Reading {str(path)!r} needs the package safetensors: `pip install safetensors`."
        ) from error
    try:
        tensors = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no whole safetensors file: {error}") from error
    arrays = (
        (name, array.ravel() if name.endswith("gain") else _channels_last(array))
        for name, array in tensors.items()
        if not name.endswith(_COUNTER)
    )
    return by_layer(arrays, _rename, path)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Kernels `(out, in, height, width)` as Keras has them; matrices `(out, in)` likewise."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _rename(name: str) -> tuple[str, str] | None:
    module, _, variable = name.rpartition(".")
    variables = _NORM_VARIABLES if "norm" in module else _CONV_VARIABLES
    if match := _UNIT.fullmatch(module):
        if match["part"] is None:
            variables = _UNIT_VARIABLES
        part = (match["part"] or "skip_init").replace("downsample.conv", "shortcut")
        layer = f"stage{int(match['stage']) + 2}_unit{int(match['unit']) + 1}_{part}"
    elif match := _STEM.fullmatch(module):
        layer = f"stem_{match['part']}"
    else:
        layer = _FIXED.get(module)
    return (layer, variables[variable]) if layer and variable in variables else None
