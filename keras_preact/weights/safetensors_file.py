"""`.safetensors` files, and this package's names of what is in them: `layer/key`."""

from __future__ import annotations

import os

import numpy as np

from keras_preact.files import replacing
from keras_preact.named_weights import NamedWeights


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the arrays in a file, by name.

    Raises:
        ImportError: If the package safetensors is not installed.
        ValueError: If the file is damaged.
    """
    try:
        import safetensors
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            f"Reading {str(path)!r} needs the package safetensors: `pip install safetensors`."
        ) from error
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no whole safetensors file: {error}") from error


def save(tensors: dict[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write contiguous arrays, under another name first.

    Raises:
        ImportError: If the package safetensors is not installed.
    """
    from safetensors.numpy import save_file

    with replacing(path) as partial:
        # PyTorch's readers ask for the format.
        save_file(tensors, partial, metadata={"format": "pt"})


def entries(named: NamedWeights) -> dict[str, np.ndarray]:
    """Return weights under this package's names, as contiguous float32 arrays."""
    return {
        f"{layer}/{key}": np.asarray(array, "float32", order="C")
        for layer, arrays in named.items()
        for key, array in arrays.items()
    }


def has_own_names(path: str | os.PathLike) -> bool:
    """Return whether the arrays in a file have this package's names."""
    import safetensors

    with safetensors.safe_open(path, "np") as file:
        return all("/" in name for name in file.keys())  # noqa: SIM118


def read(path: str | os.PathLike) -> NamedWeights:
    """Read a file whose arrays have this package's names.

    Returns:
        Weights by the names of the layers.
    """
    named: NamedWeights = {}
    for name, array in load(path).items():
        layer, _, key = name.rpartition("/")
        named.setdefault(layer, {})[key] = array
    return {layer: dict(sorted(arrays.items())) for layer, arrays in named.items()}
