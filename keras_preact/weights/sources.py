"""Reading of weights from files of any source."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_preact.layer_names import parse, stage_of
from keras_preact.named_weights import NamedWeights, collect
from keras_preact.weights import safetensors_file
from keras_preact.weights.converters import CONVERTERS, keras_applications, keras_hub
from keras_preact.weights.converters.arrays import VARIABLES
from keras_preact.weights.keras_h5 import saved_layers

# Keras's files are of this package, of keras.applications or of keras_hub: the names of the layers
# tell them apart. Longer endings come first.
SUFFIXES = {
    ".weights.h5": "keras",
    ".keras": "keras",
    ".safetensors": "timm",
    ".npz": "bit",
    ".h5": "keras",
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
    """Read the weights in a file, under the paths that the layers have here.

    Args:
        path: A file that Keras saved of one of these nets, or one of a source of the catalogue.
        source: The source, as in `Entry.source`; by the ending of the name by default.

    Returns:
        By path of each layer, its arrays.

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


def of_one_net(named: NamedWeights) -> NamedWeights:
    """Return weights by the names of a net's layers, where all are in one nested model."""
    outer = {path.partition("/")[0] for path in named if "/" in path}
    if len(outer) != 1 or not all("/" in path for path in named):
        return named
    return of_one_net({path.partition("/")[2]: arrays for path, arrays in named.items()})


def _read_keras(path: Path) -> NamedWeights:
    """Read a file that `save_weights` or `save` wrote, of a net of whatever source."""
    layers = saved_layers(path)
    names = {each.rpartition("/")[2] for each in layers}
    if any(map(stage_of, names)) or not layers:
        return collect((each, _numbered(each, layers[each])) for each in layers)
    for naming in (keras_applications.NAMING, keras_hub.NAMING):
        if naming.knows(names):
            return naming.renamed(layers, path)
    if "conv1_conv" in names:  # Of the stem, in both.
        return keras_hub.NAMING.renamed(layers, path)
    raise ValueError(
        f"its layers with weights are {[*layers][:4]}, of {len(layers)}. Those of a net are named "
        "`stem_conv`, `stage2_unit1_conv1`, … by this package, `conv1_conv`, "
        "`conv2_block1_1_conv`, … by keras.applications, and `conv1_conv`, "
        "`stack0_block0_1_conv`, … by keras_hub"
    )


def _numbered(path: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a layer's arrays under the keys of `Layer.save_own_variables`."""
    if all(key[-1].isdecimal() for key in arrays):
        return arrays
    stack = parse(path)
    if not stack or stack.last is None:
        return {str(number): array for number, array in enumerate(arrays.values())}
    # `conv1_kernel` is the first variable of `conv1` in every unit.
    counts: Counter[str] = Counter()
    numbered = {}
    for key, array in arrays.items():
        variable = next((each for each in VARIABLES if key.endswith(f"_{each}")), None)
        if variable is None:
            raise ValueError(f"{path!r} holds {key!r}, which no layer of stacked units has")
        layer = key.removesuffix(f"_{variable}")
        numbered[f"{layer}.{counts[layer]}"] = array
        counts[layer] += 1
    return numbered


def _read_safetensors(path: Path) -> NamedWeights:
    """Read a file of timm's or of `keras_preact.to_config_folder`; the names tell them apart."""
    if safetensors_file.has_own_names(path):
        return safetensors_file.read(path)
    return CONVERTERS["timm"](path)


# By source, the function that reads its files.
READERS: dict[str, Callable[[Path], NamedWeights]] = {
    **CONVERTERS,
    "keras": _read_keras,
    "keras_preact": _read_keras,
    "timm": _read_safetensors,
}
