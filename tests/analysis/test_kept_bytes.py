"""Bytes that training keeps, as computed from shapes, against those that a traced step keeps."""

from __future__ import annotations

import math
from typing import Any

import keras
import pytest
import tensorflow as tf

from keras_preact.analysis import model_cost
from tests.nets import net

BATCH, SHAPE = 2, (16, 16, 3)
# Operations that pass their input on, and those that take no more than a shape.
_ALIASES = ("Identity", "IdentityN", "Reshape", "StopGradient")
_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank")


def _kept_by_graph(model: keras.Model) -> int:
    """Return the bytes of an example's maps that backward operations take from forward ones."""

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            scores = model(tf.zeros((BATCH, *SHAPE)), training=True)
            loss = keras.losses.CategoricalCrossentropy()(tf.zeros((BATCH, 10)), scores)
        return loss, *tape.gradient(loss, [each.value for each in model.trainable_variables])

    loss, *gradients = step.get_concrete_function().graph.outputs
    forward = _run([loss])
    kept = {}
    for operation in _run(gradients) - forward:
        for tensor in map(_origin, () if operation.type in _OF_SHAPES else operation.inputs):
            if tensor.op in forward and _is_maps(tensor.shape):
                kept[tensor.ref()] = math.prod(tensor.shape) * tensor.dtype.size
    return sum(kept.values()) // BATCH


def _is_maps(shape: Any) -> bool:
    """Tell maps, or all their pixels in a row, from kernels, which have fewer rows."""
    return shape[0] == BATCH if shape.rank == 4 else shape.rank == 2 and shape[0] >= 64 * BATCH


def _run(outputs: list[Any]) -> set[Any]:
    """Return the operations that tensors follow from; the others of a graph do not run."""
    run, found = set(), [each.op for each in outputs]
    while found:
        operation = found.pop()
        if operation not in run:
            run.add(operation)
            found += [each.op for each in operation.inputs]
    return run


def _origin(tensor: Any) -> Any:
    while tensor.op.type in _ALIASES:
        index = tensor.value_index if tensor.op.type == "IdentityN" else 0
        tensor = tensor.op.inputs[index]
    return tensor


@pytest.mark.parametrize("rematerialize", [False, "norms"])
@pytest.mark.parametrize(
    "changes", [{}, {"order": "original", "unit": "basic"}, {"order": "pyramid"}], ids=str
)
def test_kept_bytes_are_those_of_a_traced_step(changes, rematerialize):
    model = net({**changes, "rematerialize": rematerialize}, input_shape=SHAPE)
    computed = model_cost(model).training_bytes
    # Pooled maps have rank 2.
    assert computed == pytest.approx(_kept_by_graph(model), rel=0.01)


def test_norms_rematerialized_keep_the_inputs_of_norms():
    plain, lean = (net({"rematerialize": each}, input_shape=SHAPE) for each in (False, "norms"))
    inputs = sum(
        4 * math.prod(layer.input.shape[1:])
        for layer in lean.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    # Beside them the images, and the classifier's input.
    others = 4 * (math.prod(SHAPE) + 64)
    assert model_cost(lean).training_bytes == inputs + others
    assert model_cost(plain).training_bytes == 2 * inputs + others


def test_stacked_and_rematerialized_units():
    forms = ({}, {"scan_units": True}, {"rematerialize": True}, {"rematerialize": "norms"})
    separate, stacked, units, norms = (
        model_cost(net({"units": (1, 6), **each}, input_shape=SHAPE)).training_bytes
        for each in forms
    )
    assert stacked == separate
    # Of 64 pixels in each of five units: an activation of 64 channels, and of the 16 inside two
    # convolutions' outputs and activations.
    assert separate - units == 5 * 64 * 4 * (64 + 4 * 16)
    assert norms < separate


def test_16_bits_take_half():
    one, half = (
        model_cost(net(input_shape=SHAPE, dtype=dtype)).training_bytes
        for dtype in ("float32", "mixed_bfloat16")
    )
    assert half / one == pytest.approx(0.5, rel=0.01)
