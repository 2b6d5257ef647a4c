"""Axis of the channels in maps and images, wherever in a model they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import keras

from keras_preact.composition import functional, layers_by_path
from keras_preact.tensor import Tensor

# By Keras's name of a format, the axis of the channels in `(batch, height, width, channels)`, or
# with the channels first.
_AXES = {"channels_first": 1, "channels_last": 3}


def maps_axis(model: keras.Model, layer: keras.layers.Layer) -> int:
    """Return the axis of the channels in the maps that a layer gives: 1 or 3.

    Args:
        model: A functional model.
        layer: One of its layers, at any depth.

    Returns:
        The axis, as the layer itself or the nearest one before it has it, or else the next one
        behind it; where no layer tells, that of Keras's setting.
    """
    nested = [functional(each) for _, each in layers_by_path(model)]
    for holder in [model, *filter(_has_graph, nested)]:
        for node in _nodes(holder):
            if node.operation is layer:
                return _before(node.outputs[0], holder) or _by_default()
    return _by_default()


def input_axis(model: keras.Model) -> int:
    """Return the axis of the channels in the images that a model takes: 1 or 3.

    Args:
        model: A functional model with one input.

    Returns:
        The axis, as the first layer that tells has it, however the model arranges the axes before;
        where no layer tells, that of Keras's setting.
    """
    model = functional(model)
    return _behind(model.inputs[0], model) or _by_default()


def _before(tensor: Tensor, model: keras.Model) -> int | None:
    """Return the axis of the channels in a tensor, as the layers before it tell."""
    if len(tensor.shape) != 4:
        return None
    if any(tensor is each for each in model.inputs):
        return _behind(tensor, model)
    operation, index, place = tensor._keras_history
    if axis := _told(operation):
        return axis
    inner = functional(operation)
    if _has_graph(inner):
        return _before(inner.outputs[place], inner)
    order = _order(operation) or (0, 1, 2, 3)
    for each in operation._inbound_nodes[index].input_tensors:
        if axis := _before(each, model):
            return order.index(axis)
    return None


def _behind(tensor: Tensor, model: keras.Model) -> int | None:
    """Return the axis of the channels in a tensor, as the layers behind it tell."""
    if len(tensor.shape) != 4:
        return None
    # By tensor that is made of it, the axes that it has in their order.
    orders: dict[int, tuple[int, ...]] = {id(tensor): (0, 1, 2, 3)}
    for node in _nodes(model):
        for each in node.input_tensors:
            if (own := orders.get(id(each))) is None:
                continue
            if axis := _told_of_input(node, each):
                return own[axis]
            changed = _order(node.operation)
            for output in node.outputs:
                if changed:
                    orders[id(output)] = tuple(own[axis] for axis in changed)
                elif output.shape == each.shape:
                    orders[id(output)] = own
    return None


def _told_of_input(node: Any, tensor: Tensor) -> int | None:
    """Return the axis of the channels in an input of a call, as the layer has it."""
    inner = functional(node.operation)
    if not _has_graph(inner):
        return _told(node.operation)
    place = next(place for place, each in enumerate(node.input_tensors) if each is tensor)
    return _behind(inner.inputs[place], inner)


def _told(operation: Any) -> int | None:
    return _AXES.get(getattr(operation, "data_format", None) or "")


def _order(operation: Any) -> tuple[int, ...] | None:
    """Return the axes of a tensor in the order in which a layer arranges them, if it does."""
    if isinstance(operation, keras.layers.Permute):
        return (0, *operation.dims)
    # Of `keras.ops.transpose`, whose class is not public.
    axes = getattr(operation, "axes", None)
    return tuple(axes) if type(operation).__name__ == "Transpose" and axes else None


def _nodes(model: keras.Model) -> Iterator[Any]:
    """Return the calls in a functional model, each after those it takes its inputs from."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return itertools.chain.from_iterable(model._nodes_by_depth[depth] for depth in depths)


def _has_graph(model: Any) -> bool:
    return isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth")


def _by_default() -> int:
    return _AXES[keras.config.image_data_format()]
