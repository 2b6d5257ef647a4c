"""Arrays in the files that Keras writes, of old and of new."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator

import h5py
import ml_dtypes
import numpy as np

from keras_preact.layer_names import inside

# By path of a layer its arrays: under numbers, as `Layer.save_own_variables` gives them, or in the
# old format under the variables' names, in the order of the numbers.
SavedLayers = dict[str, dict[str, np.ndarray]]


def saved_layers(path: str | os.PathLike) -> SavedLayers:
    """Read the arrays of a file of weights or of a whole model, whatever its name ends in.

    Args:
        path: A file that `save_weights` or `save` wrote: a `.keras` archive, or HDF5 in Keras's old
            format or its new one. The state of an optimizer is left out.

    Raises:
        ValueError: If the file is damaged, or is none of these.
    """
    try:
        with _opened(path) as file:
            return _layers(file)
    except (KeyError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} is no whole file of Keras weights: {error}") from error


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[h5py.File]:
    content: str | os.PathLike | io.BytesIO = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r") as file:
        yield file


def _layers(file: h5py.File) -> SavedLayers:
    old = file.get("model_weights", file)
    found: SavedLayers = {}
    for path, key, array in _old_arrays(old) if "layer_names" in old.attrs else _arrays(file, ""):
        arrays = found.setdefault(path, {})
        if key in arrays:
            raise KeyError(f"two layers have the path {path!r}")
        arrays[key] = _array(array)
    return found


def _array(dataset: h5py.Dataset) -> np.ndarray:
    """Read an array. HDF5 has no bfloat16, which Keras notes in an attribute."""
    array = np.asarray(dataset)
    return array.view(ml_dtypes.bfloat16) if dataset.attrs.get("dtype") == "bfloat16" else array


def _arrays(group: h5py.Group, prefix: str) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Yield path, number and array of each variable of the layers below a group."""
    for key, each in group.items():
        if key in ("vars", "optimizer") or not isinstance(each, h5py.Group):
            continue
        variables = each.get("vars", {})
        # A list of layers has none. A `keras.Sequential` has its layers inside a model of its own.
        name = None if key == "_functional" else getattr(variables, "attrs", {}).get("name")
        if len(variables) and name is None:
            raise KeyError(f"{each.name} does not tell its layer's name, as old Keras left it")
        for number, array in variables.items():
            yield f"{prefix}{name}", number, array
        yield from _arrays(each, inside(prefix, str(name)) if name else prefix)


def _old_arrays(file: h5py.Group) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Yield path, name and array of each variable in Keras's old format."""
    new = _text(file.attrs.get("keras_version", "")).startswith("3")
    for layer in map(_text, file.attrs["layer_names"]):
        group = file[layer]
        names = group.attrs["weight_names"]
        # `conv1_conv/kernel:0`, `conv1_conv/conv1_conv/kernel`, or just `kernel`.
        split = {name: _text(name).partition(":")[0].split("/") for name in names}
        owners = {name: (["", *parts])[-2] or layer for name, parts in split.items()}
        # Before Keras 3, what a weight's name began with was not always its layer.
        nested = new or len({*owners.values()}) > 1
        for name, parts in split.items():
            owner = owners[name] if nested else layer
            path = layer if owner == layer else inside("", layer) + owner
            yield path, parts[-1], group[name]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
