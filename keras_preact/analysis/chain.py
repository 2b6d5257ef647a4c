"""Nets taken apart into stem, residual units with the two terms of each sum, and head.

Analyses run one unit at a time. So a thousand layers take only the memory of the maps between
units, and no deep recursion.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import keras

from keras_preact.composition import (
    NestedNet,
    calls_of,
    functional,
    named_layers,
    nested_net,
    output_of,
)
from keras_preact.layer_names import data_format, has_stages, parse
from keras_preact.layers import Rematerialized, StackedUnits
from keras_preact.tensor import Tensor
from keras_preact.transforms import unroll


@dataclass(frozen=True)
class ResidualUnit:
    """Residual unit as models that share their layers with the net.

    Attributes:
        name: Such as `"stage2_unit1"`.
        branch: Model from the unit's input to the residual.
        shortcut: Model from the unit's input to the term that the residual is added to; None where
            that is the input itself.
        close: Model from the sum to the unit's output; None where that is the sum itself, as in
            pre-activation.
    """

    name: str
    branch: keras.Model
    shortcut: keras.Model | None
    close: keras.Model | None

    @property
    def keeps_shape(self) -> bool:
        """Return whether output and input have the same shape."""
        return tuple(self.branch.input.shape) == tuple(self.branch.output.shape)

    def terms(self, x: Tensor, training: bool = False) -> list[Tensor]:
        """Return the two terms of the unit's sum: shortcut and branch."""
        shortcut = x if self.shortcut is None else self.shortcut(x, training=training)
        return [shortcut, self.branch(x, training=training)]

    def closed(self, total: Tensor, training: bool = False) -> Tensor:
        """Return the unit's output, from its sum."""
        return total if self.close is None else self.close(total, training=training)

    def __call__(self, x: Tensor, training: bool = False) -> Tensor:
        shortcut, branch = self.terms(x, training)
        return self.closed(shortcut + branch, training)


@dataclass(frozen=True)
class Chain:
    """Net as a sequence of stem, units and head.

    Attributes:
        stem: Model from images to the first unit's input.
        units: The residual units.
        head: Model from the last unit's output to the net's.
        channel_axis: Axis of the channels in the maps.
    """

    stem: keras.Model
    units: tuple[ResidualUnit, ...]
    head: keras.Model
    channel_axis: int


def take_apart(model: keras.Model) -> Chain:
    """Take a net apart into stem, residual units and head.

    Args:
        model: A net built by this package, or a functional model that holds one: what is around the
            net is part of stem and head. Stacked units are unrolled, with copies of the weights.

    Returns:
        The parts. Those of a net without stacked units share its weights.

    Raises:
        ValueError: If the model is no such net, its units do not end in an addition, or its output
            depends on more than the last unit's.
    """
    model = functional(model)
    if any(isinstance(layer, StackedUnits) for _, layer in named_layers(model)):
        model = unroll(model)
    if not has_stages(model):
        return _around(model, nested_net(model))
    groups = _layers_by_unit(model)
    if not groups:
        raise ValueError(
            "`model` must be a net of keras_preact, with layers named as "
            f"`keras_preact.layer_names` documents. Received: {model.name!r}"
        )
    inputs = [_outside_input(name, group, model) for name, group in groups.items()]
    outputs = [*inputs[1:], output_of(list(groups.values())[-1][-1])]
    units = [
        _unit(name, group, x, output)
        for (name, group), x, output in zip(groups.items(), inputs, outputs, strict=True)
    ]
    return Chain(
        stem=keras.Model(model.input, inputs[0]),
        units=tuple(units),
        head=_rest(model, outputs[-1]),
        channel_axis=1 if data_format(model) == "channels_first" else 3,
    )


def _around(model: keras.Model, net: NestedNet) -> Chain:
    """Take apart the net in a model; what is before and after it becomes part of stem and head."""
    # Whether it is training is said to every part, which overrides what the call in the model says.
    chain = take_apart(net.model)
    last = _like(chain.head.input)
    return dataclasses.replace(
        chain,
        stem=keras.Model(model.input, net.called(chain.stem)),
        head=keras.Model(last, _rest(model, net.output)(chain.head(last))),
    )


def _like(tensor: Tensor) -> Tensor:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)


def _rest(model: keras.Model, tensor: Tensor) -> keras.Model:
    """Build the model from a tensor in another one to its output, which may be in a dictionary."""
    output = model.outputs[0] if len(model.outputs) == 1 else model.output
    if tensor is output:
        x = _like(tensor)
        return keras.Model(x, x)
    try:
        return keras.Model(tensor, output)
    except ValueError as error:
        raise ValueError(
            f"The output of {model.name!r} must depend on that of its last unit only. Received a "
            f"model with the inputs {[each.name for each in model.inputs]}, which goes on from "
            "further tensors"
        ) from error


def _layers_by_unit(model: keras.Model) -> dict[str, list[keras.layers.Layer]]:
    groups: dict[str, list[keras.layers.Layer]] = {}
    for layer in model.layers:
        name = parse(layer.name)
        if name and name.last is None and not name.prefix:
            groups.setdefault(name.unit_name, []).append(layer)
    return groups


def _outside_input(name: str, group: list[keras.layers.Layer], model: keras.Model) -> Tensor:
    """Return the tensor that comes into a unit."""
    calls = calls_of(group, model)
    inside = {id(tensor) for call in calls for tensor in call.outputs}
    outside = {
        id(tensor): tensor
        for call in calls
        for tensor in call.input_tensors
        if id(tensor) not in inside
    }
    if len(outside) != 1:
        raise ValueError(f"`{name}` must take one tensor. Received: {list(outside.values())}")
    return next(iter(outside.values()))


def _unit(name: str, group: list[keras.layers.Layer], x: Tensor, output: Tensor) -> ResidualUnit:
    (first, *_) = group
    if isinstance(first, Rematerialized):
        first = first.layer
    if isinstance(first, keras.Model):
        group, x, output = first.layers, first.input, first.output
    additions = [layer for layer in group if layer.name == f"{name}_add"]
    if not additions:
        raise ValueError(f"`{name}` must end in an addition, `{name}_add`. Received one without")
    shortcut, branch = additions[0].input
    total = additions[0].output
    return ResidualUnit(
        name=name,
        branch=keras.Model(x, branch),
        shortcut=None if shortcut is x else keras.Model(x, shortcut),
        close=None if output is total else keras.Model(total, output),
    )
