"""What turns the output of a net's body into class scores, as layers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_preact.layers import TokenPooling

# Ranks of what a body gives: `(batch, height, width, channels)` and `(batch, tokens, channels)`.
MAPS, TOKENS = 4, 3


def _average(data_format: str, **common: Any) -> keras.layers.Layer:
    return keras.layers.GlobalAveragePooling2D(data_format=data_format, **common)


def _maximum(data_format: str, **common: Any) -> keras.layers.Layer:
    return keras.layers.GlobalMaxPooling2D(data_format=data_format, **common)


def _of_tokens(kind: str) -> Callable[..., keras.layers.Layer]:
    return lambda data_format, **common: TokenPooling(kind, **common)


# By rank, the ways to one vector an image. The first is what a classifier takes.
POOLINGS: dict[int, dict[str, Callable[..., keras.layers.Layer]]] = {
    MAPS: {"avg": _average, "max": _maximum},
    TOKENS: {kind: _of_tokens(kind) for kind in ("token", "avg", "max")},
}


def global_pool(
    x: Any, kind: str | None, data_format: str, dtype: keras.DTypePolicy, name: str
) -> Any:
    """One vector an image, from maps or tokens; what a classifier takes by default."""
    poolings = POOLINGS[len(x.shape)]
    layer = poolings[kind or next(iter(poolings))]
    return layer(data_format, dtype=dtype, name=name)(x)


def classifier(x: Any, classes: int, activation: Any, dtype: keras.DTypePolicy, name: str) -> Any:
    """Dense layer to class scores, in float32 where the policy computes in 16 bits."""
    mixed = dtype.compute_dtype != dtype.variable_dtype
    dtype = dtype.variable_dtype if mixed else dtype
    return keras.layers.Dense(classes, activation=activation, dtype=dtype, name=name)(x)
