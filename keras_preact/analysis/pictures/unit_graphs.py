"""Kinds of units in a net, as graphs of labeled operations, read from the net's layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact import layers
from keras_preact.analysis.costs.graph import Call, Shape, calls
from keras_preact.layer_names import parse

INPUT = "input"


@dataclass(frozen=True)
class Node:
    """Operation of a unit.

    Attributes:
        name: Name of its layer without the unit's: `"conv1"`.
        kind: `"conv"`, `"norm"`, `"act"`, `"pool"`, `"add"`, `"multiply"` or `"other"`.
        label: Its text: `"3×3 conv, 64, /2"`.
        inputs: Names of the operations whose outputs it takes. `INPUT` is the unit's own input.
        output_shape: Shape of its output for one example.
    """

    name: str
    kind: str
    label: str
    inputs: tuple[str, ...]
    output_shape: Shape


@dataclass(frozen=True)
class UnitGraph:
    """Kind of unit.

    Attributes:
        units: Names of the units of this kind, or of stacks of them; the graph is the first's.
        input_shape: Shape of the input of the first, for one example.
        nodes: Its operations, each after those whose outputs it takes. The last gives its output.
    """

    units: tuple[str, ...]
    input_shape: Shape
    nodes: tuple[Node, ...]


def unit_graphs(model: keras.Model, input_shape: Shape | None = None) -> list[UnitGraph]:
    """Return one unit of each kind in a net.

    Two units are of one kind where they differ in nothing but the sizes of their maps, their
    numbers of channels and their dropout rates.

    Args:
        model: A net with layers named as `keras_preact.layer_names` says.
        input_shape: Shape of one example, without unknown sizes; by default the model's own.

    Returns:
        The kinds, in the order in which they first occur.

    Raises:
        ValueError: If the model is not functional or has no units, or the shape is unknown or does
            not fit.
    """
    units: dict[str, list[Call]] = {}
    for call in calls(model, input_shape):
        name = parse(call.name)
        if name and name.role:
            units.setdefault(name.unit_name, []).append(call)
    if not units:
        raise ValueError(
            f"{model.name!r} has no residual units, with layers named `stage{{s}}_unit{{u}}_…`."
        )
    kinds: dict[Any, list[str]] = {}
    for name in sorted(units, key=_in_order):
        kinds.setdefault(_structure(units[name]), []).append(name)
    return [_graph(tuple(names), units[names[0]]) for names in kinds.values()]


def _in_order(unit: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", unit))


def _structure(made: list[Call]) -> tuple[Any, ...]:
    """Return all that two units of one kind have in common."""
    nodes = _nodes(made)
    return tuple(
        (node.name, node.inputs, type(call.layer), str(_settings(call.layer)))
        for node, call in zip(nodes, made, strict=True)
    )


def _settings(layer: Any) -> dict[str, Any]:
    config = layer.get_config() if isinstance(layer, keras.layers.Layer) else {}
    names = (
        "kernel_size",
        "pool_size",
        "strides",
        "dilation_rate",
        "activation",
        "scale",
        "offset",
    )
    return {
        **{name: config[name] for name in names if name in config},
        "grouped": config.get("groups", 1) > 1 if "kernel_size" in config else None,
    }


def _graph(names: tuple[str, ...], made: list[Call]) -> UnitGraph:
    made_inside = {id(call.output) for call in made}
    entering = [each for call in made for each in call.inputs if id(each) not in made_inside]
    return UnitGraph(names, tuple(entering[0].shape[1:]), _nodes(made))


def _nodes(made: list[Call]) -> tuple[Node, ...]:
    names = {id(call.output): parse(call.name).role for call in made}
    nodes = []
    for call in made:
        kind, label = _description(call.layer)
        inputs = dict.fromkeys(
            names.get(id(each), INPUT) for each in call.inputs if len(each.shape) > 0
        )
        nodes.append(
            Node(names[id(call.output)], kind, label, tuple(inputs), tuple(call.output.shape[1:]))
        )
    return tuple(nodes)


def _description(layer: Any) -> tuple[str, str]:
    """Return kind and label of a layer."""
    for kind in type(layer).__mro__:
        if kind in DESCRIPTIONS:
            return DESCRIPTIONS[kind](layer)
    return "other", _words(layer)


def _words(layer: Any) -> str:
    """Return the name of a class in words: `spatial dropout` of `SpatialDropout2D`."""
    name = re.sub(r"\d+D$", "", type(layer).__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _times(sizes: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in sizes)


def _details(layer: Any) -> str:
    """Return stride, dilation and groups, where they are not 1, and an activation."""
    details = []
    if max(layer.strides) > 1:
        details.append(f"/{max(layer.strides)}")
    if max(getattr(layer, "dilation_rate", (1,))) > 1:
        details.append(f"dilation {max(layer.dilation_rate)}")
    if getattr(layer, "groups", 1) > 1:
        details.append(f"{layer.groups} groups")
    activation = getattr(layer, "activation", None)
    if activation not in (None, keras.activations.linear):
        details.append(_activation_name(activation.__name__))
    return "".join(f", {each}" for each in details)


def _conv(layer: Any) -> tuple[str, str]:
    return "conv", f"{_times(layer.kernel_size)} conv, {layer.filters}{_details(layer)}"


def _standardized_conv(layer: Any) -> tuple[str, str]:
    kind, label = _conv(layer)
    return kind, label.replace("conv", "ws-conv", 1)


def _depthwise(layer: Any) -> tuple[str, str]:
    return "conv", f"{_times(layer.kernel_size)} depthwise{_details(layer)}"


def _dense(layer: Any) -> tuple[str, str]:
    activation = layer.activation.__name__
    ending = "" if activation == "linear" else f", {_activation_name(activation)}"
    return "conv", f"dense, {layer.units}{ending}"


def _max_pool(layer: Any) -> tuple[str, str]:
    return "pool", f"{_times(layer.pool_size)} max pool{_details(layer)}"


def _avg_pool(layer: Any) -> tuple[str, str]:
    if max(layer.pool_size) == 1:
        return "pool", f"subsampling{_details(layer)}"
    return "pool", f"{_times(layer.pool_size)} avg pool{_details(layer)}"


def _activation(layer: Any) -> tuple[str, str]:
    return "act", _activation_name(layer.get_config()["activation"])


def _activation_name(name: Any) -> str:
    known = {"relu": "ReLU", "silu": "SiLU", "gelu": "GELU", "leaky_relu": "leaky ReLU"}
    return known.get(name, str(name).replace("_", " "))


def _rescaling(layer: Any) -> tuple[str, str]:
    if (layer.scale, layer.offset) == (-1, 1):
        return "other", "1 − g"
    offset = f" + {layer.offset:g}" if layer.offset else ""
    return "other", f"× {layer.scale:g}{offset}"


def _named(kind: str, label: str) -> Callable[[Any], tuple[str, str]]:
    return lambda layer: (kind, label)


# Descriptions by kind of layer. A subclass is described as its parent is, and a layer that is not
# listed by the name of its class.
DESCRIPTIONS: dict[type, Callable[[Any], tuple[str, str]]] = {
    keras.layers.Conv1D: _conv,
    keras.layers.Conv2D: _conv,
    layers.StandardizedConv2D: _standardized_conv,
    layers.ScaledStandardizedConv2D: _standardized_conv,
    layers.SelfAttention2D: lambda layer: ("conv", f"self-attention, {layer.heads} heads"),
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dense: _dense,
    keras.layers.BatchNormalization: _named("norm", "batch norm"),
    keras.layers.GroupNormalization: lambda layer: ("norm", f"group norm, {layer.groups}"),
    keras.layers.LayerNormalization: _named("norm", "layer norm"),
    layers.EvoNormS0: lambda layer: ("norm", f"EvoNorm-S0, {layer.groups}"),
    layers.FilterResponseNormalization: _named("norm", "FRN, TLU"),
    layers.ScaleShift: _named("norm", "scale and shift"),
    keras.layers.Activation: _activation,
    keras.layers.MaxPooling2D: _max_pool,
    keras.layers.AveragePooling2D: _avg_pool,
    layers.BlurPool2D: lambda layer: ("pool", f"3×3 blur, /{layer.strides[0]}"),
    keras.layers.GlobalAveragePooling2D: _named("pool", "global avg pool"),
    keras.layers.GlobalMaxPooling2D: _named("pool", "global max pool"),
    keras.layers.Add: _named("add", "+"),
    keras.layers.Multiply: _named("multiply", "×"),
    keras.layers.Rescaling: _rescaling,
    keras.layers.Dropout: lambda layer: ("other", f"dropout {layer.rate:g}"),
}
