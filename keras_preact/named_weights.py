"""Weights of a model by the paths of its layers, independent of the form of a net's units.

A net with stacked units (`keras_preact.layers.StackedUnits`), with nested ones and with flat ones
has the same paths here: `stage2_unit5_conv1` is one slice of a stack, or a layer. In a model that
holds the net `body` it is `body/stage2_unit5_conv1` (`keras_preact.composition`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.composition import layers_by_path
from keras_preact.layer_names import parse, unit_name
from keras_preact.layers import StackedUnits
from keras_preact.layers.lora import restart_lora
from keras_preact.tensor import bytes_of

# By path of the layer, its arrays, under the keys that `Layer.save_own_variables` gives them.
NamedWeights = dict[str, dict[str, np.ndarray]]

# The first norm of a net is the stem's or the first unit's, as `Architecture.activated_stem` says.
_ACTIVATED_STEM = {"stem_norm": True, "stage2_unit1_norm1": False}


def named_weights(model: keras.Model) -> NamedWeights:
    """Copy the weights of a model.

    Args:
        model: A built model, such as a net of this package or one that holds several.

    Returns:
        By path of each layer that has weights, its arrays. A layer of two nested models has two
        paths, and comes twice.

    Raises:
        ValueError: If two layers have the same path.
    """
    return collect(
        (path, {key: ops.convert_to_numpy(each) for key, each in variables.items()})
        for path, _, variables in _layers(model)
    )


def weights_bytes(model: keras.Model) -> int:
    """Return the bytes of all weights of a model, each once."""
    return sum(bytes_of(weight.shape, weight.dtype) for weight in model.weights)


def collect(layers: Iterable[tuple[str, Mapping[str, Any]]]) -> NamedWeights:
    """Collect weights of layers by path. Those of stacked units are split by unit.

    Raises:
        ValueError: If two layers have the same path.
    """
    named: NamedWeights = {}
    for path, arrays in layers:
        for each, own in _by_unit(path, {key: np.asarray(arrays[key]) for key in arrays}):
            if each in named:
                raise ValueError(f"Two layers with weights have the path {each!r}.")
            named[each] = own
    return named


def set_named_weights(model: keras.Model, named: NamedWeights) -> None:
    """Set the weights of a net to those of another, whose units may have another form.

    LoRA's matrices begin anew: `named_weights` gives kernels that they are merged into.

    Args:
        model: A built model.
        named: Weights of every layer of the model. Of a layer that has several paths, those under
            one of them are enough: Keras saves a layer of two nested models once.

    Raises:
        ValueError: If names or shapes differ. The model's weights are then as they were.
    """
    expected = placeholders(model)
    named = _under_every_path(named, model)
    stray, missing = sorted(named.keys() - expected), sorted(expected.keys() - named)
    if stray or missing:
        counts = f"{len(named)} layers with weights are given, the net has {len(expected)}; "
        names = f"only given: {stray[:3]}, only in the net: {missing[:3]}"
        raise ValueError(f"{counts}{names}{_first_norm_hint(stray, missing)}")
    for name, arrays in expected.items():
        shapes, given = _shapes(arrays), _shapes(named[name])
        if shapes != given:
            raise ValueError(f"{name!r} has weights of shapes {shapes}. Received: {given}")
    for path, layer, variables in _layers(model):
        layer.load_own_variables(_gathered(path, layer, variables, named))
        restart_lora(layer)


def _first_norm_hint(stray: Sequence[str], missing: Sequence[str]) -> str:
    """Return how to build the net of the given weights, if it differs by its first norm alone."""
    if len(stray) != 1 or len(missing) != 1:
        return ""
    given, expected = (path.rpartition("/")[2] for path in (*stray, *missing))
    if {given, expected} != _ACTIVATED_STEM.keys():
        return ""
    return f". They are of a net with activated_stem={_ACTIVATED_STEM[given]}"


def placeholders(model: keras.Model) -> NamedWeights:
    """Return arrays of the shapes of `named_weights`, which take no memory."""
    return collect((path, _without_values(variables)) for path, _, variables in _layers(model))


def _without_values(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.broadcast_to(0.0, each.shape) for key, each in variables.items()}


def _under_every_path(named: NamedWeights, model: keras.Model) -> NamedWeights:
    """Return weights under all paths of the layers that have one of them."""
    paths: dict[int, list[list[str]]] = defaultdict(list)
    for path, layer, variables in _layers(model):
        paths[id(layer)].append([each for each, _ in _by_unit(path, _without_values(variables))])
    result = {**named}
    for same in (same for several in paths.values() for same in zip(*several, strict=True)):
        if given := [path for path in same if path in named]:
            result |= {path: named[given[0]] for path in same if path not in named}
    return result


def _layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer, dict[str, Any]]]:
    """Yield every layer that has variables of its own: its path, itself, and they by their keys."""
    for path, layer in [(model.name, model), *layers_by_path(model)]:
        variables: dict[str, Any] = {}
        layer.save_own_variables(variables)
        if variables:
            yield path, layer, variables


def _by_unit(path: str, arrays: dict[str, np.ndarray]) -> Iterable[tuple[str, dict]]:
    stack = parse(path)
    if not stack or stack.last is None or stack.role:
        return [(path, arrays)]
    layers: NamedWeights = {}
    # Unit by unit, as separate units have their layers: files are read in this order, too.
    for number, own in enumerate(zip(*arrays.values(), strict=True), stack.unit):
        unit = f"{stack.prefix}{unit_name(stack.stage, number)}"
        for key, array in zip(arrays, own, strict=True):
            layer, _, own_key = key.rpartition(".")
            layers.setdefault(f"{unit}_{layer}", {})[own_key] = array
    return layers.items()


def _gathered(
    path: str, layer: keras.layers.Layer, keys: Iterable[str], named: NamedWeights
) -> dict[str, np.ndarray]:
    if not isinstance(layer, StackedUnits):
        return named[path]
    prefix = path.removesuffix(layer.name)
    return {
        key: np.stack([named[f"{prefix}{unit}_{inner}"][own_key] for unit in layer.unit_names])
        for key in keys
        for inner, _, own_key in [key.rpartition(".")]
    }


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {key: array.shape for key, array in arrays.items()}
