"""Costs of nets: parameters, multiply-adds, activations and bytes of weights.

They are counted as is usual:

- Parameters are the numbers that training changes, without the moving statistics of norms.
- FLOPs are multiply-adds of convolutions, dense layers and the products of attention: one per pair
  of a multiplication and an addition, as in the ResNet papers ("3.8 billion FLOPs (multiply-adds)",
  arXiv:1512.03385). Norms, activations, pooling, additions and biases do not count.
- Activations are the elements of every convolution's output ("Designing Network Design Spaces",
  arXiv:2003.13678). They follow the time that a net takes on an accelerator better than FLOPs do.

All counts are for one example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import keras

from keras_preact import layers
from keras_preact.analysis.costs.graph import Call, Shape, calls
from keras_preact.analysis.costs.kept import kept_bytes
from keras_preact.analysis.costs.receptive_field import receptive_fields
from keras_preact.layer_names import HEAD, parse, stage_of
from keras_preact.tensor import bytes_of


class UnknownLayerError(ValueError):
    """Error for a layer with weights that `COSTS` has no cost of."""


@dataclass(frozen=True)
class Work:
    """Work of one call of a layer, for one example.

    Attributes:
        flops: Multiply-adds.
        activations: Elements of a convolution's output.
    """

    flops: int = 0
    activations: int = 0


@dataclass(frozen=True)
class Cost:
    """Cost of a part of a net, for one example.

    Attributes:
        parameters: Numbers that training changes.
        weight_bytes: Memory of all weights, moving statistics too.
        flops: Multiply-adds.
        activations: Elements of the convolutions' outputs.
    """

    parameters: int = 0
    weight_bytes: int = 0
    flops: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.weight_bytes + other.weight_bytes,
            self.flops + other.flops,
            self.activations + other.activations,
        )


@dataclass(frozen=True)
class LayerCost:
    """Cost of one call of a layer.

    Attributes:
        name: The layer's name.
        kind: Name of its class.
        stage: Name of its stage, as in `StageCost`.
        units: Number of stacked units that it stands for.
        output_shape: Shape of its output for one example.
        receptive_field: See `StageCost`.
        cost: Cost of all the units that it stands for.
        training_bytes: Memory of the maps that it is the first to keep for the backward pass of
            training, of one example, by the rules of `keras_preact.analysis.costs.kept`.
    """

    name: str
    kind: str
    stage: str
    units: int
    output_shape: Shape
    receptive_field: int | None
    cost: Cost
    training_bytes: int = 0


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage.

    Attributes:
        name: `"stem"`, `"stage2"` and so on, `"head"`; the prefix of the names of other layers.
        units: Residual units.
        output_shape: Shape of its output for one example.
        receptive_field: Pixels of the input, along height and width, that one pixel of the output
            depends on; None where it depends on all of them.
        cost: Cost of all its layers.
    """

    name: str
    units: int
    output_shape: Shape
    receptive_field: int | None
    cost: Cost


@dataclass(frozen=True)
class NetCost:
    """Cost of a net, for one example.

    Attributes:
        layers: Every call of a layer, in the order of computation.
        stages: Their sums by stage.
    """

    layers: tuple[LayerCost, ...]
    stages: tuple[StageCost, ...]

    @property
    def total(self) -> Cost:
        """Return the cost of the whole net."""
        return reduce(add, (stage.cost for stage in self.stages), Cost())

    @property
    def training_bytes(self) -> int:
        """Return the memory of the maps that training keeps of one example."""
        return sum(layer.training_bytes for layer in self.layers)


def model_cost(model: keras.Model, input_shape: Shape | None = None) -> NetCost:
    """Count the cost of a functional model, by layer and by stage.

    Nothing is computed: the counts follow from the shapes. A layer that is called twice, or for
    every frame of a `keras.layers.TimeDistributed`, costs its parameters once.

    Args:
        model: A functional model; its stages are told apart where its layers are named as
            `keras_preact.layer_names` says.
        input_shape: Shape of one example, without unknown sizes; by default the model's own.

    Returns:
        The cost of one example.

    Raises:
        UnknownLayerError: If `COSTS` lacks a layer that has weights.
        ValueError: If the model is not functional, or a shape is unknown or does not fit.
    """
    made = calls(model, input_shape)
    fields = receptive_fields(made)
    known: set[int] = set()
    kept = kept_bytes(made)
    rows = [_layer_cost(*each, known) for each in zip(made, fields, kept, strict=True)]
    names = list(dict.fromkeys(row.stage for row in rows))
    return NetCost(
        tuple(rows),
        tuple(_stage_cost(name, [row for row in rows if row.stage == name]) for name in names),
    )


def _layer_cost(
    call: Call, receptive_field: int | None, training_bytes: int, known: set[int]
) -> LayerCost:
    parameters, weight_bytes = (0, 0) if id(call.layer) in known else _weights(call.layer)
    known.add(id(call.layer))
    output_shape = tuple(call.output.shape[1:])
    if None in output_shape:
        raise ValueError(f"The shape that {call.name!r} gives is not known: {output_shape}")
    work = _work(call, output_shape)
    return LayerCost(
        name=call.name,
        kind=type(call.layer).__name__,
        stage=_stage_name(call.name),
        units=call.units,
        output_shape=output_shape,
        receptive_field=receptive_field,
        cost=Cost(
            # The layers of stacked units hold the weights of all of them.
            parameters,
            weight_bytes,
            call.units * call.frames * work.flops,
            call.units * call.frames * work.activations,
        ),
        training_bytes=training_bytes,
    )


def _weights(layer: Any) -> tuple[int, int]:
    """Return parameters and bytes of a layer's weights."""
    if not isinstance(layer, keras.layers.Layer):
        return 0, 0
    # Frozen or not: Keras keeps apart what training would change.
    trained = [each for part in layer._flatten_layers() for each in part._trainable_variables]
    parameters = sum(math.prod(each.shape) for each in trained)
    return parameters, sum(bytes_of(each.shape, each.dtype) for each in layer.weights)


def _work(call: Call, output_shape: Shape) -> Work:
    for kind in type(call.layer).__mro__:
        if kind in COSTS:
            shapes = tuple(tuple(each.shape[1:]) for each in call.inputs)
            return COSTS[kind](call.layer, shapes, output_shape)
    if getattr(call.layer, "weights", None):
        raise UnknownLayerError(
            f"The cost of a {type(call.layer).__name__} is not known, of which {call.name!r} is "
            "one. Add a line for it to `keras_preact.analysis.COSTS`."
        )
    return Work()


def _stage_name(layer_name: str) -> str:
    stage = stage_of(layer_name)
    if stage is None:
        return "head" if layer_name in HEAD else layer_name.split("_")[0]
    return "stem" if stage == 1 else f"stage{stage}"


def _stage_cost(name: str, rows: list[LayerCost]) -> StageCost:
    return StageCost(
        name,
        sum(_units(row.name for row in rows).values()),
        rows[-1].output_shape,
        rows[-1].receptive_field,
        reduce(add, (row.cost for row in rows), Cost()),
    )


def _units(names: Iterable[str]) -> dict[str, int]:
    """Return the number of units per prefix of layers' names: 8 for `stage2_unit2to9`."""
    return {name.unit_name: name.units for name in map(parse, names) if name}


CostFunction = Callable[[Any, tuple[Shape, ...], Shape], Work]


def _convolution(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count one product per output element with the kernel of its channel, `(…, channels in)`."""
    elements = math.prod(output)
    return Work(elements * math.prod(layer.kernel.shape[:-1]), elements)


def _transposed(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count one product per input element with its kernel, `(…, channels out, channels in)`."""
    return Work(math.prod(inputs[0]) * math.prod(layer.kernel.shape[:-1]), math.prod(output))


def _separable(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count a depthwise convolution, and one of one pixel on its maps."""
    *_, between, channels = layer.pointwise_kernel.shape
    elements = math.prod(output)
    pixels = elements // channels
    flops = pixels * between * math.prod(layer.kernel_size) + elements * between
    return Work(flops, pixels * between + elements)


def _depthwise(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    elements = math.prod(output)
    return Work(elements * math.prod(layer.kernel_size), elements)


def _winograd(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count the products of the convolution that it is, as is usual, whatever the algorithm."""
    elements = math.prod(output)
    return Work(elements * math.prod(layer.kernel_size) * inputs[0][-1], elements)


def _dense(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    return Work(math.prod(output) * layer.kernel.shape[0])


def _einsum_dense(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count each input element once per place on the axes that only the kernel has."""
    taken, kernel = layer.equation.partition("->")[0].split(",")
    own = [size for axis, size in zip(kernel, layer.kernel.shape, strict=True) if axis not in taken]
    return Work(math.prod(inputs[0]) * math.prod(own))


def _attention(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count projections of query, key, value and result, and two products (arXiv:1706.03762)."""
    config = layer.get_config()
    heads, key_dim = config["num_heads"], config["key_dim"]
    value_dim = config["value_dim"] or key_dim
    query, value, *key = inputs
    key = key[0] if key else value
    projections = (
        math.prod(query) * heads * key_dim
        + math.prod(key) * heads * key_dim
        + math.prod(value) * heads * value_dim
        + math.prod(output) * heads * value_dim
    )
    pairs = math.prod(query[:-1]) * math.prod(value[:-1])
    return Work(projections + pairs * heads * (key_dim + value_dim))


def _self_attention_2d(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count one projection, and products of queries, distances and keys, weights and values."""
    height, width = layer.map_size
    pixels = height * width
    projection = math.prod(inputs[0]) * layer.kernel.shape[1]
    return Work(projection + pixels * layer.filters * (height + width + 2 * pixels))


def _token_attention(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count the products of queries with keys and of weights with values (arXiv:1706.03762)."""
    return Work(2 * output[0] * math.prod(output))


def _nothing(layer: Any, inputs: tuple[Shape, ...], output: Shape) -> Work:
    """Count nothing: the work is elementwise."""
    return Work()


# Work of one call by kind of layer; a subclass works as its parent. Layers without weights that
# are not listed count as elementwise work.
COSTS: dict[type, CostFunction] = {
    keras.layers.Conv1D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.Conv3D: _convolution,
    keras.layers.Conv1DTranspose: _transposed,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Conv3DTranspose: _transposed,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.DepthwiseConv1D: _depthwise,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.Dense: _dense,
    keras.layers.EinsumDense: _einsum_dense,
    keras.layers.MultiHeadAttention: _attention,
    keras.layers.BatchNormalization: _nothing,
    keras.layers.GroupNormalization: _nothing,
    keras.layers.LayerNormalization: _nothing,
    keras.layers.RMSNormalization: _nothing,
    keras.layers.UnitNormalization: _nothing,
    keras.layers.Normalization: _nothing,
    keras.layers.PReLU: _nothing,
    layers.WinogradConv2D: _winograd,
    layers.SelfAttention2D: _self_attention_2d,
    layers.TokenAttention: _token_attention,
    layers.EvoNormS0: _nothing,
    layers.FilterResponseNormalization: _nothing,
    layers.ScaleShift: _nothing,
    layers.SkipInit: _nothing,
    layers.TokenEmbedding: _nothing,
}
