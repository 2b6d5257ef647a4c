"""Arrays in the HDF5 files that Keras writes, of old and of new."""

from __future__ import annotations

import os
from collections.abc import Iterator

import h5py
import numpy as np


def own_variables(group: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
    """Name and arrays of every layer below a group of a `.weights.h5` file of Keras 3.

    The state of an optimizer, which lies beside the layers, is left out.
    """
    for key, each in group.items():
        if key == "optimizer":
            continue
        if key == "vars" and len(each):
            if "name" not in each.attrs:
                raise KeyError(f"{each.name} does not tell its layer's name, as old Keras left it")
            yield str(each.attrs["name"]), each
        elif key != "vars" and isinstance(each, h5py.Group):
            yield from own_variables(each)


def arrays(path: str | os.PathLike) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of a file of weights, under `layer/variable`.

    Args:
        path: A file of weights or a whole model in Keras's HDF5 format, or a `.weights.h5` file
            of Keras 3, whose variables are numbered: `layer/0`.

    Yields:
        Name and array.

    Raises:
        ValueError: If the file is damaged, or is none of these.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{str(path)!r} is no whole HDF5 file: {error}") from error
    with file:
        try:
            yield from _arrays(file)
        except (KeyError, OSError, RuntimeError) as error:
            raise ValueError(f"{str(path)!r} is no file of Keras weights: {error}") from error


def _arrays(file: h5py.File) -> Iterator[tuple[str, np.ndarray]]:
    legacy = file.get("model_weights", file)
    if "layer_names" in legacy.attrs:
        for layer in legacy.attrs["layer_names"]:
            group = legacy[layer]
            for name in group.attrs["weight_names"]:
                # `conv1_conv/kernel:0`, `conv1_conv/conv1_conv/kernel`, or just `kernel`.
                variable = _text(name).rpartition("/")[2].partition(":")[0]
                yield f"{_text(layer)}/{variable}", np.asarray(group[name])
    else:
        for layer, variables in own_variables(file):
            for number, array in variables.items():
                yield f"{layer}/{number}", np.asarray(array)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
