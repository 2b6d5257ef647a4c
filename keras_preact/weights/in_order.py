"""Files of weights whose layer names say nothing, such as `conv2d_12`: read by order and shape."""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np

from keras_preact.named_weights import named_weights, set_named_weights
from keras_preact.weights.converters.arrays import numbered
from keras_preact.weights.keras_h5 import SavedLayers, saved_layers

# Name of a layer in its file, and its arrays under the keys of `NamedWeights`.
FileLayer = tuple[str, dict[str, np.ndarray]]

_OBJECT = re.compile(r"layer_with_weights-(\d+)/(\w+)/\.ATTRIBUTES/VARIABLE_VALUE")
_NUMBERED = re.compile(r"(.*?)(?:_(\d+))?")


def load_in_order(model: keras.Model, path: str | os.PathLike) -> None:
    """Load every weight of a model from a file that has the same layers in the same order.

    The order is the one in which Keras lists the layers of a functional model, and saves them.
    Every layer of the file must have the shapes of the model's at its place. Shapes do not tell
    apart nets that differ in activations or epsilons only, so compare scores on known images.

    Args:
        model: The model, built.
        path: A checkpoint of TensorFlow's objects, as `Model.save_weights` of Keras 2 wrote it:
            the path without `.index`. Or an `.h5` or `.keras` file, or a `.weights.h5` file of
            Keras 3, in which only layers with arrays of the same ranks have an order.

    Raises:
        ValueError: If there is no such file, or it parts from the model: at which layer, and what
            both have there. The model's weights are then as they were.
    """
    named = named_weights(model)
    file = _file_layers(Path(path), [_ranks(arrays) for arrays in named.values()])
    loaded = {}
    for place, (ours, theirs) in enumerate(itertools.zip_longest(named.items(), file), 1):
        if ours is None or theirs is None or _shapes(ours) != _shapes(theirs):
            raise ValueError(
                f"{str(path)!r} does not hold the weights of {model.name!r}: they part at layer "
                f"{place} of those with weights. The model has {_described(ours)}, the file has "
                f"{_described(theirs)}."
            )
        loaded[ours[0]] = theirs[1]
    set_named_weights(model, loaded)


def _shapes(layer: FileLayer) -> list[tuple[int, ...]]:
    return [array.shape for array in layer[1].values()]


def _described(layer: FileLayer | None) -> str:
    return "no more" if layer is None else f"{layer[0]!r}, of shapes {_shapes(layer)}"


def _ranks(arrays: dict[str, np.ndarray]) -> tuple[int, ...]:
    """Return the ranks of a layer's arrays, which tell convolutions, norms and matrices apart."""
    return tuple(array.ndim for array in arrays.values())


def _file_layers(path: Path, ranks: list[tuple[int, ...]]) -> Iterable[FileLayer]:
    """Return the layers of a file in their order.

    Args:
        path: The file.
        ranks: Those of each layer of the model, in its order.
    """
    if path.with_name(path.name + ".index").is_file():
        return _checkpoint(path)
    if not path.is_file():
        raise ValueError(f"There is no file of weights {str(path)!r}, and no {path.name}.index.")
    layers = saved_layers(path)
    if zipfile.is_zipfile(path):
        return _in_order_of_configuration(path, layers)
    if all(key.isdecimal() for arrays in layers.values() for key in arrays):
        return _in_order_of_ranks(layers, ranks)
    return [(name, numbered(name, arrays)) for name, arrays in layers.items()]


def _checkpoint(path: Path) -> list[FileLayer]:
    """Return the layers of an object-based checkpoint of TensorFlow."""
    # Other backends do without it.
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    layers: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for name in reader.get_variable_to_shape_map():
        if match := _OBJECT.fullmatch(name):
            layers[int(match[1])][match[2]] = reader.get_tensor(name)
    names = {place: f"layer_with_weights-{place}" for place in sorted(layers)}
    return [(name, numbered(name, layers[place])) for place, name in names.items()]


def _in_order_of_configuration(path: Path, layers: SavedLayers) -> list[FileLayer]:
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))["config"]
    names = [layer["config"]["name"] for layer in config["layers"]]
    return [(name, layers[name]) for name in names if name in layers]


def _in_order_of_ranks(layers: SavedLayers, ranks: list[tuple[int, ...]]) -> Iterator[FileLayer]:
    """Yield layers that are numbered by class, each where the model has one of its kind."""
    queues: dict[tuple[int, ...], list[FileLayer]] = defaultdict(list)
    for layer in sorted(layers.items(), key=_number):
        queues[_ranks(layer[1])].append(layer)
    for each in ranks:
        if queues[each]:
            yield queues[each].pop(0)
    yield from itertools.chain(*queues.values())


def _number(layer: FileLayer) -> tuple[str, int]:
    """Return the class's name and the number of a layer: `conv2d` comes before `conv2d_1`."""
    match = _NUMBERED.fullmatch(layer[0])
    return (match[1], int(match[2] or 0)) if match else (layer[0], 0)
