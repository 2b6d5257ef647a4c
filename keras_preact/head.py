"""What turns a net's last maps into class scores, as layers of their own."""

from __future__ import annotations

from typing import Any

import keras


def global_pool(x: Any, kind: str, data_format: str, dtype: keras.DTypePolicy, name: str) -> Any:
    """Mean (`"avg"`) or maximum (`"max"`) over height and width."""
    layers = {
        "avg": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
    }
    return layers[kind](data_format=data_format, dtype=dtype, name=name)(x)


def classifier(x: Any, classes: int, activation: Any, dtype: keras.DTypePolicy, name: str) -> Any:
    """Dense layer to class scores, in float32 where the policy computes in 16 bits."""
    mixed = dtype.compute_dtype != dtype.variable_dtype
    dtype = dtype.variable_dtype if mixed else dtype
    return keras.layers.Dense(classes, activation=activation, dtype=dtype, name=name)(x)
