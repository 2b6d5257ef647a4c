"""How far numbers are from the truth, a computation in float64, and how far rounding may take them.

A tolerance is the unit round-off of a dtype times the roundings on the way to a number. Numbers in
16 bits are never held against another kernel of 16 bits: some processors' kernels sum in 16 bits.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

# Bits of the significand, with the leading one.
_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}

# F(4x4, 3x3) rounds numbers that are larger than the pixels made of them. With the transforms A, G
# and B of pixels, kernel and inputs, the root of the mean square grows along one axis by
# √(A² (G²1 ∘ B²1) / 3), which is 5.6 in the last row of a tile. It is squared for two axes.
WINOGRAD_AMPLIFICATION = 31


def unit_roundoff(dtype: str) -> float:
    """Return the largest relative error of one rounding to a dtype."""
    return 2.0 ** -_BITS[dtype]


def tolerance(dtype: str = "float32", *, roundings: int = 1, summed: int = 0) -> float:
    """Return the error that rounding explains, as a share of the largest magnitude.

    Args:
        dtype: In which a number is stored. Sums are taken in float32, or in float64 for float64.
        roundings: How often a number is rounded to `dtype` on the way.
        summed: Length of the longest sum. Its error grows as the square root of its length (Higham
            and Mary, A new approach to probabilistic rounding error analysis, 2019); twice that
            leaves room for the worst of many numbers.
    """
    sums = "float64" if dtype == "float64" else "float32"
    return roundings * unit_roundoff(dtype) + 2 * math.sqrt(summed) * unit_roundoff(sums)


def float64(values: Any, rounded_to: str | None = None) -> np.ndarray:
    """Return a tensor as a float64 array, after rounding to a dtype if one is named."""
    if rounded_to is not None:
        values = keras.ops.cast(values, rounded_to)
    return keras.ops.convert_to_numpy(keras.ops.cast(values, "float64"))


def error(received: Any, truth: Any) -> float:
    """Return the largest difference from the truth, as a share of its largest magnitude."""
    received, truth = float64(received), float64(truth)
    assert received.shape == truth.shape
    return float(np.abs(received - truth).max() / np.abs(truth).max())


def in_float64(layer: keras.layers.Layer, input_shape: tuple[int | None, ...]) -> Any:
    """Return a copy of a layer that computes in float64.

    Args:
        layer: A built layer. Its weights are rounded to its compute dtype, as it does itself.
        input_shape: What the copy is built on.
    """
    copy = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
    copy.build(input_shape)
    copy.set_weights([float64(weight, layer.compute_dtype) for weight in layer.weights])
    return copy
