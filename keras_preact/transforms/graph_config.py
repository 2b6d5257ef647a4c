"""The configuration of a functional model, as surgery needs it.

`keras.Model.get_config` lists layers, each with the calls made of it; a tensor is the name of the
layer it came from. Cutting and joining graphs there needs nothing of Keras's inside.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_preact.layers import BatchNormalization, Conv2D, DepthwiseConv2D
from keras_preact.weights.named import NamedWeights

DEPTHWISE = (DepthwiseConv2D, keras.layers.DepthwiseConv2D)
CONVOLUTIONS = (Conv2D, keras.layers.Conv2D, *DEPTHWISE)
NORMS = (BatchNormalization, keras.layers.BatchNormalization)

Config = dict[str, Any]


def functional_config(model: Any) -> Config:
    """A copy of a functional model's configuration.

    Raises:
        ValueError: If the model is not functional.
    """
    if not (isinstance(model, keras.Model) and "input_layers" in model.get_config()):
        raise ValueError(
            f"`model` must be a functional Keras model. Received: {model!r} "
            f"(of type {type(model).__name__})"
        )
    return copy.deepcopy(model.get_config())


def tensors(value: Any) -> Iterator[Config]:
    """Every symbolic tensor in the arguments of a layer's calls."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)


def source(tensor: Config) -> str:
    """Name of the layer that a symbolic tensor came from."""
    return tensor["config"]["keras_history"][0]


def tensor(layer: str, like: Config) -> Config:
    """The output of another layer, of the shape and dtype of `like`."""
    return {**like, "config": {**like["config"], "keras_history": [layer, 0, 0]}}


def put_in_place(config: Config, layer: keras.layers.Layer) -> None:
    """Put a layer of the same name in the place of a configuration's, called on the same."""
    inbound_nodes = config["inbound_nodes"]
    for call in inbound_nodes:
        call["kwargs"] = {}
    config.clear()
    config.update(keras.saving.serialize_keras_object(layer))
    config.update({"name": layer.name, "inbound_nodes": inbound_nodes})


def renamed(layers: list[Config], rename: Callable[[str], str]) -> list[Config]:
    """The layers under other names, wherever they or their outputs are named."""
    layers = copy.deepcopy(layers)
    for layer in layers:
        layer["name"] = layer["config"]["name"] = rename(layer["name"])
        for each in tensors(layer["inbound_nodes"]):
            each["config"]["keras_history"][0] = rename(source(each))
    return layers


def redirected(value: Any, names: dict[str, str]) -> Any:
    """`input_layers` or `output_layers` of a configuration, with some layers' names replaced."""
    if isinstance(value, dict):
        return {key: redirected(each, names) for key, each in value.items()}
    if len(value) == 3 and isinstance(value[0], str):
        return [names.get(value[0], value[0]), *value[1:]]
    return [redirected(each, names) for each in value]


def of_kind(config: Config, kinds: tuple[type[keras.layers.Layer], ...]) -> list[Config]:
    """The layers of a functional model that are of one of these classes."""
    return [layer for layer in config["layers"] if is_kind(layer, kinds)]


def is_kind(layer: Config, kinds: tuple[type[keras.layers.Layer], ...]) -> bool:
    """Whether a layer is of one of these classes; a subclass may do anything else."""
    name = layer["registered_name"] or f"{layer['module']}.{layer['class_name']}"
    return name in {_serialized_name(kind) for kind in kinds}


def _serialized_name(kind: type[keras.layers.Layer]) -> str:
    own = kind.__module__.startswith("keras.")
    return f"keras.layers.{kind.__name__}" if own else keras.saving.get_registered_name(kind)


def taken_by(layer: Config) -> Iterator[Config]:
    """The tensors that a layer is called on."""
    return tensors(layer["inbound_nodes"])


def is_called_once(layer: Config) -> bool:
    """Whether the layer has one call, of one tensor that is the first output of its source."""
    histories = [each["config"]["keras_history"][1:] for each in taken_by(layer)]
    return len(layer["inbound_nodes"]) == 1 and [list(each) for each in histories] == [[0, 0]]


def always_trains(layer: Config) -> bool:
    """Whether a call says `training=True`, so that inference is not what it does."""
    return any(call["kwargs"].get("training") for call in layer["inbound_nodes"])


def output_names(outputs: Any) -> Iterator[str]:
    """Names of the layers in a configuration's `output_layers`."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if len(outputs) == 3 and isinstance(outputs[0], str):
        yield outputs[0]
        return
    for each in outputs:
        yield from output_names(each)


def takers_by_name(config: Config) -> dict[str, list[Config]]:
    """By the name of a layer, those that take its output, once for each time that they do."""
    takers = defaultdict(list)
    for layer in config["layers"]:
        for each in taken_by(layer):
            takers[source(each)].append(layer)
    # Of no class: what takes an output of the model.
    for name in output_names(config["output_layers"]):
        takers[name].append({"name": None, "registered_name": "output", "inbound_nodes": []})
    return takers


def gives_to_one(layer: Config, takers: list[Config]) -> bool:
    """Whether it is a convolution, not activated, that one layer takes."""
    return is_linear_convolution(layer) and len(takers) == 1


def is_linear_convolution(layer: Config) -> bool:
    """Whether it is a convolution, called once and not activated."""
    return (
        is_kind(layer, CONVOLUTIONS)
        and is_called_once(layer)
        and layer["config"]["activation"] == "linear"
    )


def is_of_channels(layer: Config, convolution: Config) -> bool:
    """Whether a layer's axis is that of the channels of a convolution's outputs."""
    channel_axis = 1 if convolution["config"]["data_format"] == "channels_first" else 3
    return layer["config"]["axis"] % 4 == channel_axis


def leave_out(layer: Config, config: Config) -> None:
    """Remove a layer; what took its output takes its input."""
    config["layers"].remove(layer)
    (x,) = tensors(layer["inbound_nodes"])
    for other in config["layers"]:
        for each in taken_by(other):
            if source(each) == layer["name"]:
                each["config"] = x["config"]
    config["output_layers"] = redirected(config["output_layers"], {layer["name"]: source(x)})


def multiply(convolution: Config, factor: np.ndarray | float, weights: NamedWeights) -> None:
    """Scale what a convolution gives, by its weights.

    Args:
        convolution: Not activated.
        factor: One for all channels, or one `(channels,)` for each.
        weights: Those of the model, changed in place.
    """
    kernel, *bias = weights[convolution["name"]].values()
    # A kernel's last axis is that of the channels that come out; in a depthwise one the last two.
    shape = kernel.shape[2:] if is_kind(convolution, DEPTHWISE) else kernel.shape[-1:]
    arrays = [kernel * np.broadcast_to(factor, np.prod(shape)).reshape(shape)]
    arrays += [each * factor for each in bias]
    weights[convolution["name"]] = {str(place): array for place, array in enumerate(arrays)}


def add_bias(bias: np.ndarray, convolution: Config, weights: NamedWeights) -> None:
    """Add to what a convolution gives, by its bias.

    Args:
        bias: `(channels,)`.
        convolution: Not activated; it gets a bias if it has none.
        weights: Those of the model, changed in place.
    """
    arrays = weights[convolution["name"]]
    arrays["1"] = arrays.get("1", 0.0) + bias
    convolution["config"]["use_bias"] = True
    convolution.pop("build_config", None)
