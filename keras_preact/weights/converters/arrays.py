"""Collection of arrays under the keys of Keras's layers, for all converters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np

from keras_preact.named_weights import NamedWeights

# The order in which a layer creates, and so numbers, its variables.
_ORDERS = (
    ("kernel", "bias", "gain"),
    ("gamma", "beta", "moving_mean", "moving_variance"),
    ("gamma", "beta", "v"),
    ("class_token", "positions"),
    ("gamma", "beta", "tau"),
    ("kernel", "height_embedding", "width_embedding"),
    ("scale", "shift"),
)
# By part of a layer's name, the first of its variables; others begin with the kernel.
_FIRST = {"norm": "gamma", "skip_init": "gain", "tokens": "class_token"}
# All of them, those that end in another's name first.
VARIABLES = sorted({name for order in _ORDERS for name in order}, key=len, reverse=True)


def by_layer(
    arrays: Iterable[tuple[str, np.ndarray]],
    rename: Callable[[str], tuple[str, str] | None],
    path: str | os.PathLike,
) -> NamedWeights:
    """Weights by layer, from a source's own names.

    Args:
        arrays: Names and values, as the file has them.
        rename: From a name to that of our layer and variable (`"kernel"`, `"gamma"`, …), or None
            for what no net of this kind has.
        path: The file, for messages.

    Returns:
        The weights, kernels of 1x1 convolutions in the classifier being matrices.

    Raises:
        ValueError: If a name is unknown, or the file holds none that is known.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays:
        renamed = rename(name)
        if renamed is None:
            raise ValueError(f"{str(path)!r} holds {name!r}, which no net of this package has.")
        layer, variable = renamed
        if layer == "predictions" and array.ndim == 4:
            array = array[0, 0]
        layers.setdefault(layer, {})[variable] = array
    if not layers:
        raise ValueError(f"{str(path)!r} holds no weights.")
    return {layer: numbered(layer, variables) for layer, variables in layers.items()}


def variables_of(layer: str, count: int) -> tuple[str, ...]:
    """Return the names of a layer's variables in their order, the inverse of numbering them.

    Args:
        layer: Name of the layer here.
        count: Number of its variables. Of three, a norm's third is EvoNorm's `v`.
    """
    first = next((each for part, each in _FIRST.items() if part in layer), "kernel")
    orders = [order[order.index(first) :] for order in _ORDERS if first in order]
    return next(order[:count] for order in sorted(orders, key=len) if len(order) >= count)


def numbered(layer: str, variables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a layer's arrays under the numbers of its variables instead of their names.

    Raises:
        ValueError: If no layer has such variables.
    """
    for order in _ORDERS:
        if variables.keys() <= set(order):
            names = [name for name in order if name in variables]
            return {str(number): variables[name] for number, name in enumerate(names)}
    raise ValueError(f"{layer!r} cannot have the variables {sorted(variables)}.")
