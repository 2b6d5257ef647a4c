"""Weights in half the bytes, as those that ship with the package are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_preact.files import replacing


def save_half_precision(model: keras.Model, path: str | os.PathLike) -> None:
    """Write a net's weights with kernels as 16-bit floats.

    Biases, and the parameters and statistics of norms, keep their precision: they are few. So do
    kernels of 16 bits or fewer, such as those of a net in `bfloat16`. The file can be read wherever
    one of `model.save_weights` can, by Keras too.

    Args:
        model: A built model.
        path: The file, which ends in `.weights.h5`; an older one there is replaced.

    Raises:
        ValueError: If the name ends otherwise, or a weight is too large for 16 bits.
    """
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"`path` must end in .weights.h5. Received: {str(path)!r}")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.name
        model.save_weights(whole)
        with (
            replacing(path) as partial,
            h5py.File(whole, "r") as source,
            h5py.File(partial, "w") as target,
        ):
            _copy(source, target)


def _copy(source: h5py.Group, target: h5py.Group) -> None:
    target.attrs.update(source.attrs)
    for name, each in source.items():
        if isinstance(each, h5py.Group):
            _copy(each, target.create_group(name))
        elif _is_kernel(each, name) and each.dtype.itemsize > np.dtype(np.float16).itemsize:
            target[name] = _reduced(each[()], each.name)
        else:
            # With its attributes, by which Keras knows an array of bfloat16.
            source.copy(each, target, name)


def _is_kernel(array: h5py.Dataset, name: str) -> bool:
    """Return whether an array has two axes or more, beside that of the units that are stacked."""
    stacked = "." in name  # `StackedUnits` stores its variables as `layer.number`.
    return array.ndim - stacked > 1


def _reduced(array: np.ndarray, name: str) -> np.ndarray:
    largest, limit = np.abs(array).max(initial=0), np.finfo(np.float16).max
    if not largest <= limit:
        raise ValueError(f"16-bit floats end at {limit}. Received: {largest}, in {name}")
    return array.astype(np.float16)
