"""Global pooling and classifier of a net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_preact.layers import TokenPooling
from keras_preact.tensor import Tensor

# Ranks of a body's output: `(batch, height, width, channels)` and `(batch, tokens, channels)`.
MAPS, TOKENS = 4, 3


def _average(data_format: str, **common: Any) -> keras.layers.Layer:
    return keras.layers.GlobalAveragePooling2D(data_format=data_format, **common)


def _maximum(data_format: str, **common: Any) -> keras.layers.Layer:
    return keras.layers.GlobalMaxPooling2D(data_format=data_format, **common)


def _of_tokens(kind: str) -> Callable[..., keras.layers.Layer]:
    return lambda data_format, **common: TokenPooling(kind, **common)


# By rank, the ways to one vector per image. The first is the classifier's.
POOLINGS: dict[int, dict[str, Callable[..., keras.layers.Layer]]] = {
    MAPS: {"avg": _average, "max": _maximum},
    TOKENS: {kind: _of_tokens(kind) for kind in ("token", "avg", "max")},
}


def global_pool(
    x: Tensor, kind: str | None, data_format: str, dtype: keras.DTypePolicy, name: str
) -> Tensor:
    """Apply global pooling.

    Args:
        x: Maps or tokens.
        kind: One of `POOLINGS`; None for that of a classifier.
        data_format: `"channels_last"` or `"channels_first"`.
        dtype: Dtype policy of the layer.
        name: Name of the layer.

    Returns:
        One vector per image, `(batch, channels)`.
    """
    poolings = POOLINGS[len(x.shape)]
    layer = poolings[kind or next(iter(poolings))]
    return layer(data_format, dtype=dtype, name=name)(x)


def classifier(
    x: Tensor, classes: int, activation: Any, dtype: keras.DTypePolicy, name: str
) -> Tensor:
    """Apply the dense layer to class scores, in the dtype of its weights.

    So class scores are float32 in mixed precision, and in 16 bits only where the weights are.

    Args:
        x: One vector per image, `(batch, channels)`.
        classes: Number of classes.
        activation: Activation of the class scores; None for logits.
        dtype: Dtype policy of the net's layers.
        name: Name of the layer.

    Returns:
        Class scores `(batch, classes)`.
    """
    mixed = dtype.compute_dtype != dtype.variable_dtype
    dtype = dtype.variable_dtype if mixed else dtype
    return keras.layers.Dense(classes, activation=activation, dtype=dtype, name=name)(x)
