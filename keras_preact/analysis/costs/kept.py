"""Bytes that a step of training keeps for its backward pass, from the shapes of the maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_preact import layers
from keras_preact.analysis.costs.graph import Call
from keras_preact.tensor import Tensor, bits_of, bytes_of

# Which tensors a gradient takes: given the inputs and the output of a call. Tensors that the layer
# makes inside stand as one of the same size.
Kept = Callable[[Any, Sequence[Tensor], Tensor], list[tuple[Any, int]]]


def kept_bytes(made: Sequence[Call]) -> list[int]:
    """Compute the bytes of one example that each call is the first to keep.

    Gradients are taken as on TensorFlow without a GPU: a convolution keeps its input, a batch norm
    its input, a ReLU its output. What two calls keep counts once. Weights do not count.

    Args:
        made: All calls of a model, each after those it takes its inputs from.

    Returns:
        Bytes for each call, of all the units and frames that it stands for.
    """
    seen: set[Any] = set()
    # Maps that are computed again.
    recomputed: set[int] = set()
    same: dict[int, Tensor] = {}
    results = []
    for call in made:
        inputs = [same.get(id(each), each) for each in call.inputs]
        total = 0
        for key, size in _kept(call, inputs, recomputed, same):
            if key not in seen:
                seen.add(key)
                total += size
        results.append(call.units * call.frames * total)
    return results


def _kept(
    call: Call, inputs: list[Tensor], recomputed: set[int], same: dict[int, Tensor]
) -> list[tuple[Any, int]]:
    """Return keys and bytes of what a call keeps, and note what it gives."""
    layer, output = call.layer, call.output
    again = bool(inputs) and id(inputs[0]) in recomputed
    if call.kept_input is not None:
        return [_whole(call.kept_input)]
    if getattr(layer, "rematerialize", False):
        recomputed.add(id(output))
        return _inputs(layer, inputs[:1], output)
    if isinstance(layer, keras.layers.Activation):
        if layer.activation is keras.activations.linear:
            same[id(output)] = inputs[0]
            return []
        if again and isinstance(layer, layers.Activation):
            recomputed.add(id(output))
            return []
    if again and isinstance(layer, layers.PaddedConvolution):
        return []
    for kind in type(layer).__mro__:
        if kind in KEPT:
            return KEPT[kind](layer, inputs, output)
    return []


def _whole(tensor: Tensor, dtype: Any = None) -> tuple[Any, int]:
    return id(tensor), bytes_of(tensor.shape[1:], dtype or tensor.dtype)


def _inputs(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> list[tuple[Any, int]]:
    return [_whole(each, layer.compute_dtype) for each in inputs]


def _output(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> list[tuple[Any, int]]:
    return [_whole(output)]


def _both(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> list[tuple[Any, int]]:
    return [*_inputs(layer, inputs, output), *_output(layer, inputs, output)]


def _activation(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> list[tuple[Any, int]]:
    by_output = ("relu", "sigmoid", "tanh", "elu", "selu", "softmax")
    of_output = getattr(layer.activation, "__name__", "") in by_output
    return (_output if of_output else _inputs)(layer, inputs, output)


def _inside(copies: int) -> Kept:
    """Return the rule of a layer that keeps its input and more maps that it makes, in float32."""

    def rule(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> list[tuple[Any, int]]:
        own = 4 if bits_of(output.dtype) < 32 else bits_of(output.dtype) // 8
        inside = ((id(output), "inside"), copies * own * math.prod(output.shape[1:]))
        return [*_inputs(layer, inputs, output), inside]

    return rule


def _separable(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> list[tuple[Any, int]]:
    """Return the input, and the maps between the two convolutions."""
    *_, between, channels = layer.pointwise_kernel.shape
    key, size = _whole(output)
    return [*_inputs(layer, inputs, output), ((key, "between"), size * between // channels)]


def _mask(layer: Any, inputs: Sequence[Tensor], output: Tensor) -> list[tuple[Any, int]]:
    key, size = _whole(output)
    return [((key, "mask"), size)]


# By kind of layer; a subclass keeps as its parent. Others keep nothing of the size of maps: sums,
# averages and what moves maps.
KEPT: dict[type, Kept] = {
    keras.layers.Activation: _activation,
    keras.layers.Conv1D: _inputs,
    keras.layers.Conv2D: _inputs,
    keras.layers.Conv3D: _inputs,
    keras.layers.Conv1DTranspose: _inputs,
    keras.layers.Conv2DTranspose: _inputs,
    keras.layers.Conv3DTranspose: _inputs,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.DepthwiseConv1D: _inputs,
    keras.layers.DepthwiseConv2D: _inputs,
    keras.layers.Dense: _inputs,
    keras.layers.EinsumDense: _inputs,
    keras.layers.Multiply: _inputs,
    keras.layers.MaxPooling2D: _both,
    keras.layers.Dropout: _mask,
    keras.layers.BatchNormalization: _inputs,
    keras.layers.GroupNormalization: _inputs,
    keras.layers.LayerNormalization: _inputs,
    layers.EvoNormS0: _inside(3),
    layers.FilterResponseNormalization: _inside(2),
    layers.SelfAttention2D: _inputs,
}
