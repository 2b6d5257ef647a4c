"""Type of tensors in annotations, and the memory that their numbers take."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras

# A symbolic Keras tensor, a tensor of the backend, or, as an argument, an array that converts to
# one. No type has them all.
Tensor: TypeAlias = Any


def bytes_of(shape: Sequence[int], dtype: Any) -> int:
    """Return the memory of a tensor in bytes, known without a look at its numbers."""
    return math.prod(shape) * bits_of(dtype) // 8


def bits_of(dtype: Any) -> int:
    """Return the bits of a number; a truth value takes eight."""
    bits = re.findall(r"\d+", keras.backend.standardize_dtype(dtype))
    return int(bits[0]) if bits else 8
