"""Loads weights into a model that is already built."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import h5py
import keras

from keras_preact.weights.keras_h5 import own_variables
from keras_preact.weights.named import NamedWeights, collect, set_named_weights

SUFFIXES = (".weights.h5", ".keras")


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Load every weight of a model from a file that Keras saved.

    Keras matches layers by their order; here it is by their names, so that a net whose first layers
    happen to fit is refused, and the file and the model may have their units in different forms:
    separate, nested or stacked.

    Args:
        model: The model, built.
        path: A `.weights.h5` file (`model.save_weights`) or a `.keras` file (`model.save`).

    Raises:
        ValueError: If the name ends otherwise, there is no such file, or its weights are those of
            another net. The model's weights are then as they were.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise ValueError(
            f"`weights` must be None or the path of a file that ends in {' or '.join(SUFFIXES)}. "
            f"Received: {str(path)!r}"
        )
    if not path.is_file():
        raise ValueError(f"`weights` names no file: {str(path)!r}")
    try:
        set_named_weights(model, _saved(path))
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} does not hold the weights of {model.name!r} "
            f"({model.count_params():,} parameters): {error}"
        ) from error


def _saved(path: Path) -> NamedWeights:
    """The weights in a file, by the names of their layers."""
    if path.name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read("model.weights.h5"))
    else:
        file = path
    with h5py.File(file, "r") as groups:
        return collect(own_variables(groups["layers"]))
