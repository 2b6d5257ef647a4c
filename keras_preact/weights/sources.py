"""Reading of weights from files of any source."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py

from keras_preact.named_weights import NamedWeights, collect
from keras_preact.weights.converters import CONVERTERS
from keras_preact.weights.keras_h5 import own_variables

# Longer endings first.
SUFFIXES = {
    ".weights.h5": "keras_preact",
    ".keras": "keras_preact",
    ".safetensors": "timm",
    ".npz": "bit",
    ".h5": "keras_applications",
}
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")


def is_weights_file(path: str | os.PathLike) -> bool:
    """Return whether a name ends like a file of weights, even of a kind that is not read."""
    return os.fspath(path).endswith((*SUFFIXES, *PICKLES))


def source_of(path: Path) -> str:
    """Return the source of a file, by the ending of its name.

    Raises:
        ValueError: If the ending is none of `SUFFIXES`.
    """
    for suffix, source in SUFFIXES.items():
        if path.name.endswith(suffix):
            return source
    if path.name.endswith(PICKLES):
        raise ValueError(
            f"{str(path)!r} is, by its name, a pickle, which can run any code when it is read, so "
            "it is not. Use the `.safetensors` file that Hugging Face has beside it, or save the "
            "weights as one with `safetensors.torch.save_file`."
        )
    raise ValueError(
        f"A file of weights ends in one of {', '.join(SUFFIXES)}. Received: {str(path)!r}"
    )


def read(path: str | os.PathLike, source: str | None = None) -> NamedWeights:
    """Read the weights in a file, under the names that the layers have here.

    Args:
        path: A file that Keras saved of one of these nets, or one of a source of the catalogue.
        source: The source, as in `Entry.source`; by the ending of the name by default.

    Returns:
        By name of each layer, its arrays.

    Raises:
        ValueError: If there is no such file, or it cannot be read as one of its source.
    """
    path = Path(path)
    source = source or source_of(path)
    if not path.is_file():
        raise ValueError(f"`weights` names no file: {str(path)!r}")
    try:
        return READERS[source](path)
    except ImportError:
        raise
    # Each format has its own parser, and each parser its own errors for a broken file.
    except Exception as error:
        raise ValueError(f"{str(path)!r} cannot be read as a file of {source}: {error}") from error


def _read_saved(path: Path) -> NamedWeights:
    """Read a file that `save_weights` or `save` wrote: of one of these nets, or a preset.

    The names of keras_hub's files end like those of this package. The names of the layers tell
    them apart.
    """
    if path.name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read("model.weights.h5"))
    else:
        file = path
    with h5py.File(file, "r") as groups:
        if "conv1_conv" not in (name for name, _ in own_variables(groups)):
            return collect(own_variables(groups["layers"]))
    return CONVERTERS["keras_hub"](path)


# By source, the function that reads its files.
READERS: dict[str, Callable[[Path], NamedWeights]] = {"keras_preact": _read_saved, **CONVERTERS}
