"""Models that are made of models: every layer by its path, and the nets among them.

A path is the names of the nested models and wrappers around a layer, and its own, joined by
slashes: `body/stem_conv`. A unit that is a nested model adds nothing to it, so that a layer has the
same path in every form of a net's units.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.layer_names import (
    expression_of,
    first_convolution,
    has_stages,
    layers_by_path,
    net_paths,
    stage_numbers,
)
from keras_preact.tensor import Tensor


def named_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield every layer of a model with its path, whatever the model is made of.

    `model.layers` ends at nested models, as which a deep net holds its units. This goes into nested
    models, `keras.Sequential`, and wrappers such as `keras.layers.TimeDistributed`. A layer that is
    called twice, or is part of two nested models, comes once. Each layer inside stacked units
    (`keras_preact.layers.StackedUnits`) comes once for all of them: freezing it freezes it in every
    unit, and its `weights` are those of all units, stacked.

        for path, layer in keras_preact.named_layers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False

    Args:
        model: Any Keras model, built.

    Yields:
        Path and layer, a nested model before its layers.
    """
    seen = set()
    for path, layer in layers_by_path(model):
        if id(layer) not in seen:
            seen.add(id(layer))
            yield path, layer
            yield from _layers_of_units(path, layer)


def _layers_of_units(
    path: str, layer: keras.layers.Layer
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers of stacked units, which are out of sight of Keras."""
    # Of `keras_preact.layers.StackedUnits`, which this module lies below.
    for name, part in getattr(layer, "unit_layers", dict)().items():
        yield f"{path}_{name}", part


def functional(model: Any) -> Any:
    """Return the functional model that a built `keras.Sequential` is; any other model as it is."""
    if isinstance(model, keras.Sequential) and hasattr(model, "inputs"):
        return keras.Model(_single(model.inputs), _single(model.outputs), name=model.name)
    return model


def required_functional(model: Any) -> keras.Model:
    """Return the functional model that a model is (`functional`).

    Raises:
        ValueError: If it is none.
    """
    made = functional(model)
    if not (isinstance(made, keras.Model) and hasattr(made, "_run_through_graph")):
        raise ValueError(
            f"`model` must be a functional Keras model. Received: {model!r} "
            f"(of type {type(model).__name__})"
        )
    return made


def nets(model: keras.Model) -> list[keras.Model]:
    """Return the nets of this package that a model is or holds, at any depth.

    Raises:
        ValueError: If there is none.
    """
    layers = [model, *_layers_in(model)] if isinstance(model, keras.Model) else []
    found = [each for each in layers if isinstance(each, keras.Model) and has_stages(each)]
    if not found:
        stage_numbers(model)  # Raises, and says what a net is.
    return found


def only_net(model: keras.Model) -> keras.Model:
    """Return the one net of this package that a model is or holds, at any depth.

    Raises:
        ValueError: If there is none, or there are several.
    """
    found = nets(model)
    if len(found) > 1:
        raise _several(model)
    return found[0]


def _several(model: keras.Model) -> ValueError:
    paths = net_paths(model)
    return ValueError(
        f"{model.name!r} holds several nets, {paths}. Give one of them, such as "
        f"{expression_of(paths[0])}."
    )


@dataclass(frozen=True)
class NestedNet:
    """Nested model that is or holds a net, and its one call in the graph around it.

    Attributes:
        model: The nested model.
        input: Tensor that it is called on.
        options: Other arguments of the call, such as `training=True`.
        output: Tensor that it gives.
    """

    model: keras.Model
    input: Tensor
    options: dict[str, Any]
    output: Tensor

    def called(self, model: keras.Model) -> Any:
        """Call another model in its place."""
        return model(self.input, **self.options)


def nested_net(model: keras.Model) -> NestedNet:
    """Find the one nested model that is or holds a net of this package, and its call.

    Args:
        model: A functional model, which is no such net itself.

    Raises:
        ValueError: If the model is not functional, there is no net or there are several, or it is
            not called just once.
    """
    found = nets(model)
    required_functional(model)
    holding = [
        layer
        for layer in model.layers
        if any(each is net for net in found for each in (layer, *_layers_in(layer)))
    ]
    if len(holding) != 1:
        raise _several(model)
    (layer,) = holding
    calls = calls_of([layer], model)
    if not isinstance(layer, keras.Model) or len(calls) != 1:
        raise ValueError(
            f"The net in {model.name!r} must be a nested model that is called once. Received: "
            f"{layer.name!r}, a {type(layer).__name__} that is called {len(calls)} times"
        )
    (call,) = calls
    options = {key: each for key, each in call.arguments.kwargs.items() if not _holds_tensor(each)}
    return NestedNet(layer, _single(call.input_tensors), options, _single(call.outputs))


def before_net(model: keras.Model) -> keras.Model:
    """Build the model of what a model does before the first convolution of its net.

    Raises:
        ValueError: If there is no such net, there are several, or it is not called just once.
    """
    model = functional(model)
    if has_stages(model):
        return keras.Model(model.input, first_convolution(model).input)
    net = nested_net(model)
    return keras.Model(model.input, net.called(before_net(net.model)))


def calls_of(layers: Iterable[keras.layers.Layer], model: keras.Model) -> list[Any]:
    """Return every call of some layers in the graph of a model, as Keras's nodes.

    A layer may be called several times, as those of CBAM are, and in other graphs as well.
    """
    inside = {id(layer) for layer in layers}
    nodes = itertools.chain(*model._nodes_by_depth.values())
    return [node for node in nodes if id(node.operation) in inside]


def output_of(layer: keras.layers.Layer) -> Any:
    """Return the output of a layer in the graph around it; a nested model's `output` is inside."""
    return keras.Operation.output.fget(layer)


def _layers_in(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return [each for _, each in named_layers(layer)]


def _holds_tensor(value: Any) -> bool:
    return any(map(keras.utils.is_keras_tensor, keras.tree.flatten(value)))


def _single(tensors: list[Tensor]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors
