"""Loads weights into a model that is already built."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from pathlib import Path

import h5py
import keras

SUFFIXES = (".weights.h5", ".keras")


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Load every weight of a model from a file that Keras saved.

    Keras matches layers by their order; here their names must be the same too, so that a net whose
    first layers happen to fit is refused.

    Args:
        model: The model, built.
        path: A `.weights.h5` file (`model.save_weights`) or a `.keras` file (`model.save`).

    Raises:
        ValueError: If the name ends otherwise, there is no such file, or its weights are those of
            another net. The model's weights are then as they were, unless only shapes differ.
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
        _check_layers(model, _saved_layers(path))
        with warnings.catch_warnings():
            # Keras 3.15 warns of containers that hold no weights, for every functional model.
            warnings.filterwarnings("ignore", message="Skipping nested container")
            model.load_weights(path)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} does not hold the weights of {model.name!r} "
            f"({model.count_params():,} parameters): {error}"
        ) from error


def _saved_layers(path: Path) -> set[str]:
    """Names of the layers that have weights in a file."""
    if path.name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read("model.weights.h5"))
    else:
        file = path
    with h5py.File(file, "r") as groups:
        variables = (group["vars"] for group in groups["layers"].values() if "vars" in group)
        return {str(group.attrs["name"]) for group in variables if len(group)}


def _check_layers(model: keras.Model, saved: set[str]) -> None:
    expected = {layer.name for layer in model.layers if layer.weights}
    stray, missing = sorted(saved - expected), sorted(expected - saved)
    if stray or missing:
        raise ValueError(
            f"the file has {len(saved)} layers with weights, the net {len(expected)}; "
            f"only in the file: {stray[:3]}, only in the net: {missing[:3]}"
        )
