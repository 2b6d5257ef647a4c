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
) -> tuple[Tensor, list[Tensor]]:
    """Call a layer with other values in place of its variables', and leave those untouched.

    Args:
        layer: A built layer or model.
        variables: Variables of the layer.
        values: A tensor for each of them, of its shape and dtype.
        *args: Arguments of the call.
        training: Whether this is a training step.

    Returns:
        The layer's outputs, and the values its variables would have after the call.
    """
    with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
        outputs = layer(*args, training=training)
    return outputs, [scope.get_current_value(variable) for variable in variables]
