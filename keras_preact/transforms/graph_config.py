"""Configuration of a functional model, as surgery needs it.

`keras.Model.get_config` lists layers, each with the calls made of it; a tensor is the name of the
layer it came from. Cutting and joining graphs there needs nothing of Keras's inside. A model holds
a graph of its own, and one for every functional model in it (`graphs`).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_preact.composition import functional, layers_by_path, required_functional
from keras_preact.layer_names import inside
from keras_preact.layers import BatchNormalization, Conv2D, DepthwiseConv2D, Rematerialized
from keras_preact.loss_scaling import scaling_when_compiled
from keras_preact.named_weights import NamedWeights, set_named_weights

DEPTHWISE_LAYERS = (DepthwiseConv2D, keras.layers.DepthwiseConv2D)
CONVOLUTION_LAYERS = (Conv2D, keras.layers.Conv2D, *DEPTHWISE_LAYERS)
NORM_LAYERS = (BatchNormalization, keras.layers.BatchNormalization)
# Layers that apply the layer in them as it is. Other wrappers may do anything with it.
_WRAPPERS = (Rematerialized, keras.layers.TimeDistributed)

Config = dict[str, Any]


def functional_config(model: Any) -> Config:
    """Return a copy of a functional model's configuration.

    A `keras.Sequential`, the model itself or one in it, is the functional model that it stands for.

    Raises:
        ValueError: If the model is not functional.
    """
    model = required_functional(model)
    config = copy.deepcopy(model.get_config())
    if "input_layers" not in config:
        raise ValueError(
            f"`model` must have the configuration of a functional model. Received: {model!r}, "
            f"whose class, {type(model).__name__}, has another"
        )
    _open_sequential(config, model)
    return config


def _open_sequential(config: Config, model: keras.Model) -> None:
    """Write every `keras.Sequential` in a functional model as a functional model, in place."""
    layers: dict[str, Any] = {layer.name: layer for layer in model.layers}
    for entry in config["layers"]:
        layer = layers.get(entry["name"], entry)  # An operation is no layer.
        while isinstance(layer, keras.layers.Wrapper):
            entry, layer = entry["config"]["layer"], layer.layer
        opened = functional(layer)
        if opened is not layer:
            entry.pop("build_config", None)
            entry.update(copy.deepcopy(keras.saving.serialize_keras_object(opened)))
        if isinstance(opened, keras.Model) and "input_layers" in entry["config"]:
            _open_sequential(entry["config"], opened)


def graphs(config: Config, prefix: str = "") -> Iterator[tuple[str, Config]]:
    """Yield the graphs in a functional model's configuration, a nested one before that around it.

    Args:
        config: The configuration.
        prefix: How the paths of its layers begin.

    Yields:
        How the paths of a graph's layers begin, and the graph, a configuration too.
    """
    for layer in config["layers"]:
        for own_prefix, graph in nested_graph(layer, prefix):
            yield from graphs(graph, own_prefix)
    yield prefix, config


def with_wrapped(layer: Config) -> Iterator[Config]:
    """Yield the configuration of a layer, and those of the layers that it wraps."""
    yield layer
    while is_kind(layer, _WRAPPERS):
        layer = layer["config"]["layer"]
        yield layer


def nested_graph(layer: Config, prefix: str) -> Iterator[tuple[str, Config]]:
    """Yield the graph that a layer stands for, if it is a functional model or wraps one.

    Args:
        layer: Configuration of the layer.
        prefix: How the paths of the layers beside it begin.

    Yields:
        How the paths of the graph's layers begin, and the graph.
    """
    while is_kind(layer, _WRAPPERS):
        prefix = inside(prefix, layer["config"]["name"])
        layer = layer["config"]["layer"]
    if "input_layers" in layer["config"]:
        # It was built for other layers, perhaps.
        layer.pop("build_config", None)
        yield inside(prefix, layer["config"]["name"]), layer["config"]


@contextlib.contextmanager
def weights_in(weights: NamedWeights, prefix: str) -> Iterator[NamedWeights]:
    """Give the weights of a graph by the names of its layers; what becomes of them is kept.

    Args:
        weights: Weights of the whole model, by path.
        prefix: How the paths of the graph's layers begin.
    """
    paths = [path for path in weights if path.startswith(prefix)]
    own = {path.removeprefix(prefix): weights.pop(path) for path in paths}
    yield own
    weights.update({prefix + path: arrays for path, arrays in own.items()})


def rebuilt(model: keras.Model, config: Config, weights: NamedWeights) -> keras.Model:
    """Build a model of a configuration that `functional_config(model)` gave, and of weights.

    Raises:
        ValueError: If the weights are not those of the configuration's layers.
    """
    kind = keras.Model if isinstance(model, keras.Sequential) else type(model)
    result = kind.from_config(config)
    _quantize_inside(result, model)
    set_named_weights(result, weights)
    return scaling_when_compiled(result)


def _quantize_inside(result: keras.Model, model: keras.Model) -> None:
    """Quantize the layers of a built model that those of the same paths in another model are.

    The configuration of a layer that holds layers, such as `keras.layers.MultiHeadAttention`, does
    not tell that `model.quantize` has changed those.
    """
    quantized = {path: layer for path, layer in layers_by_path(model) if layer.quantization_mode}
    for path, layer in layers_by_path(result):
        if path in quantized and not layer.quantization_mode:
            own = quantized[path]
            # Keras 3.12 has no such configuration.
            config = getattr(own, "quantization_config", None)
            layer.quantize(own.quantization_mode, config=config)


def tensors(value: Any) -> Iterator[Config]:
    """Yield every symbolic tensor in the arguments of a layer's calls."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


def source(tensor: Config) -> str:
    """Return the name of the layer that a symbolic tensor came from."""
    return tensor["config"]["keras_history"][0]


def tensor(layer: str, like: Config) -> Config:
    """Return a layer's output, with the shape and dtype of the tensor `like`."""
    return {**like, "config": {**like["config"], "keras_history": [layer, 0, 0]}}


def insert(config: Config, layer: keras.layers.Layer) -> None:
    """Insert a layer in the place of another of the same name, with the same inputs."""
    inbound_nodes = config["inbound_nodes"]
    for call in inbound_nodes:
        call["kwargs"] = {}
    config.clear()
    config.update(keras.saving.serialize_keras_object(layer))
    config.update({"name": layer.name, "inbound_nodes": inbound_nodes})


def renamed(layers: list[Config], rename: Callable[[str], str]) -> list[Config]:
    """Rename layers, wherever they or their outputs are named."""
    layers = copy.deepcopy(layers)
    for layer in layers:
        layer["name"] = layer["config"]["name"] = rename(layer["name"])
        for each in tensors(layer["inbound_nodes"]):
            each["config"]["keras_history"][0] = rename(source(each))
    return layers


def redirected(value: Any, names: dict[str, str]) -> Any:
    """Replace names of layers in a configuration's `input_layers` or `output_layers`."""
    if isinstance(value, dict):
        return {key: redirected(each, names) for key, each in value.items()}
    if len(value) == 3 and isinstance(value[0], str):
        return [names.get(value[0], value[0]), *value[1:]]
    return [redirected(each, names) for each in value]


def layers_of(config: Config, kinds: tuple[type[keras.layers.Layer], ...]) -> list[Config]:
    """Return the layers of a functional model that are of one of these classes."""
    return [layer for layer in config["layers"] if is_kind(layer, kinds)]


def is_kind(layer: Config, kinds: tuple[type[keras.layers.Layer], ...]) -> bool:
    """Return whether a layer is of one of these classes; a subclass may do anything else."""
    name = layer["registered_name"] or f"{layer['module']}.{layer['class_name']}"
    return name in {_serialized_name(kind) for kind in kinds}


def _serialized_name(kind: type[keras.layers.Layer]) -> str:
    own = kind.__module__.startswith("keras.")
    return f"keras.layers.{kind.__name__}" if own else keras.saving.get_registered_name(kind)


def inputs_of(layer: Config) -> Iterator[Config]:
    """Yield the tensors that a layer is called on."""
    return tensors(layer["inbound_nodes"])


def is_called_once(layer: Config) -> bool:
    """Return whether a layer has one call, on one tensor, the first output of its source."""
    histories = [each["config"]["keras_history"][1:] for each in inputs_of(layer)]
    return len(layer["inbound_nodes"]) == 1 and [list(each) for each in histories] == [[0, 0]]


def always_trains(layer: Config) -> bool:
    """Return whether a call says `training=True`, which holds in inference too.

    Keras writes down a default of `training=True` as well, such as that of its augmentation. That
    does not count: `predict` and exports, which say `training=False`, run it in inference.
    """
    said = any(call["kwargs"].get("training") for call in layer["inbound_nodes"])
    return said and not _trains_by_default(layer)


def _trains_by_default(layer: Config) -> bool:
    """Return whether the class of a layer has `training=True` in the signature of its call."""
    name = layer["registered_name"]
    kind: Any = (
        keras.saving.get_registered_object(name)
        if name
        else getattr(keras.layers, layer["class_name"], None)
    )
    call = getattr(kind, "call", None)
    training = inspect.signature(call).parameters.get("training") if call else None
    return training is not None and training.default is True


def holds_training(layer: Config) -> bool:
    """Return whether a call of a layer, or one in a graph nested in it, says `training=True`."""
    return always_trains(layer) or any(
        holds_training(each) for _, graph in nested_graph(layer, "") for each in graph["layers"]
    )


def trained_layers(graph: Config) -> set[str]:
    """Return the layers that may run as in training though the graph runs in inference, by name.

    These are those of calls with `training=True`, and those of calls that may come after one: Keras
    passes it on to whatever is called next. A call surely comes before if the other depends on it,
    and one that says `training=False` surely does not train.
    """
    calls = {
        (layer["name"], index): [
            tuple(each["config"]["keras_history"][:2]) for each in tensors(call)
        ]
        for layer in graph["layers"]
        for index, call in enumerate(layer["inbound_nodes"])
    }
    holding = {layer["name"] for layer in graph["layers"] if holds_training(layer)}
    before = [_before(call, calls) for call in calls if call[0] in holding]
    inferring = {
        (layer["name"], index)
        for layer in graph["layers"]
        for index, call in enumerate(layer["inbound_nodes"])
        if call["kwargs"].get("training") is False
    }
    return {
        call[0] for call in calls.keys() - inferring if not all(call in each for each in before)
    }


def _before(call: tuple, calls: dict[tuple, list[tuple]]) -> set[tuple]:
    """Return the calls that a call depends on."""
    found, pending = set(), list(calls[call])
    while pending:
        each = pending.pop()
        if each not in found:
            found.add(each)
            pending.extend(calls.get(each, ()))
    return found


def output_names(outputs: Any) -> Iterator[str]:
    """Yield the names of the layers in a configuration's `output_layers`."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if len(outputs) == 3 and isinstance(outputs[0], str):
        yield outputs[0]
        return
    for each in outputs:
        yield from output_names(each)


def consumers(config: Config) -> dict[str, list[Config]]:
    """Return, by name, the layers that take a layer's output, once per time that they do."""
    users = defaultdict(list)
    for layer in config["layers"]:
        for each in inputs_of(layer):
            users[source(each)].append(layer)
    # An output of the model has a consumer too, of no class.
    for name in output_names(config["output_layers"]):
        users[name].append({"name": None, "registered_name": "output", "inbound_nodes": []})
    return users


def has_single_consumer(layer: Config, users: list[Config]) -> bool:
    """Return whether a layer is a convolution, not activated, with a single consumer."""
    return is_linear_convolution(layer) and len(users) == 1


def is_linear_convolution(layer: Config) -> bool:
    """Return whether a layer is a convolution, called once and not activated."""
    return (
        is_kind(layer, CONVOLUTION_LAYERS)
        and is_called_once(layer)
        and layer["config"]["activation"] == "linear"
    )


def is_of_channels(layer: Config, convolution: Config) -> bool:
    """Return whether a layer's axis is that of the channels of a convolution's outputs."""
    channel_axis = 1 if convolution["config"]["data_format"] == "channels_first" else 3
    return layer["config"]["axis"] % 4 == channel_axis


def bypass(layer: Config, config: Config) -> None:
    """Remove a layer. The layers that took its output take its input."""
    config["layers"].remove(layer)
    (x,) = tensors(layer["inbound_nodes"])
    for other in config["layers"]:
        for each in inputs_of(other):
            if source(each) == layer["name"]:
                each["config"] = x["config"]
    config["output_layers"] = redirected(config["output_layers"], {layer["name"]: source(x)})


def scale_outputs(convolution: Config, factor: np.ndarray | float, weights: NamedWeights) -> None:
    """Scale the outputs of a convolution, by its weights.

    Args:
        convolution: A convolution without activation.
        factor: One factor for all channels, or one per channel, `(channels,)`.
        weights: Weights of the model, changed in place.
    """
    kernel, *bias = weights[convolution["name"]].values()
    # A kernel's last axis is that of the output channels; in a depthwise one the last two are.
    shape = kernel.shape[2:] if is_kind(convolution, DEPTHWISE_LAYERS) else kernel.shape[-1:]
    arrays = [kernel * np.broadcast_to(factor, math.prod(shape)).reshape(shape)]
    arrays += [each * factor for each in bias]
    weights[convolution["name"]] = {str(place): array for place, array in enumerate(arrays)}


def shift_outputs(bias: np.ndarray, convolution: Config, weights: NamedWeights) -> None:
    """Add to the outputs of a convolution, by its bias.

    Args:
        bias: One number per channel, `(channels,)`.
        convolution: A convolution without activation. It gets a bias if it has none.
        weights: Weights of the model, changed in place.
    """
    arrays = weights[convolution["name"]]
    arrays["1"] = arrays.get("1", 0.0) + bias
    convolution["config"]["use_bias"] = True
    convolution.pop("build_config", None)
