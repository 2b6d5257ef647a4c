"""Layers as pure functions of their variables, which loops and recomputation need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_preact.tensor import Tensor


def pure_call(
    layer: keras.layers.Layer,
    variables: Sequence[keras.Variable],
    values: Sequence[Tensor],
    *args: Any,
    training: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Call a layer with other values in place of its variables', and leave those untouched.

    Args:
        layer: A built layer or model.
        variables: Variables of the layer.
        values: A tensor for each of them, of its shape and dtype.
        *args: Arguments of the call.
        training: Whether this is a training step.

    Returns:
        The layer's outputs, the values its variables would have after the call, and the losses that
        activity regularizers and `add_loss` gave, for the caller's `add_loss`.
    """
    state = list(zip(variables, values, strict=True))
    with keras.StatelessScope(state, collect_losses=True) as scope:
        outputs = layer(*args, training=training)
    if scope.losses:
        _forget(layer, scope.losses)
    return outputs, [scope.get_current_value(variable) for variable in variables], scope.losses


def _forget(layer: keras.layers.Layer, losses: list[Tensor]) -> None:
    """Let no part of a layer take losses for its own, which Keras knows by their `id`.

    Once they are gone, a loss of the caller's may have the same.
    """
    for part in layer._flatten_layers():
        part._loss_ids.difference_update(map(id, losses))
