"""Numbers of a request in the dtype that a signature takes."""

from __future__ import annotations

from typing import Any

import numpy as np


def cast_numbers(value: Any, dtype: np.dtype) -> np.ndarray:
    """Convert numbers to a dtype that holds them, as TensorFlow Serving does those of JSON.

    Args:
        value: An array, or lists of numbers.
        dtype: One of numbers. Of integers, it takes no fractions, and none out of its range; of
            floating point, whatever it can round.

    Returns:
        The numbers in that dtype.

    Raises:
        ValueError: If they are no numbers, or others would come of them.
    """
    array = np.asarray(value)
    if array.dtype == dtype:
        return array
    integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    same_kind = array.dtype.kind != "b" and np.can_cast(array.dtype, dtype, "same_kind")
    # A list of nothing does not say of what.
    if array.size and not (integers or same_kind):
        raise ValueError(f"values of dtype {array.dtype}")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    kept = cast == array if integers else np.isfinite(cast) == np.isfinite(array)
    if not kept.all():
        raise ValueError(f"{array[~kept][0]}, which is out of its range")
    return cast
