"""Receptive fields: pixels of the input that one pixel of a map depends on."""

from __future__ import annotations

import math
from typing import Any

from keras_preact.analysis.costs.graph import Call
from keras_preact.layers import SelfAttention2D


def receptive_fields(made: list[Call]) -> list[int | None]:
    """Compute the receptive field of every call's output, along the longer of height and width.

    A kernel of k pixels, d apart, over a map whose pixels are s pixels of the input apart, adds
    `(k - 1) * d * s` (Araujo, Norris, Sim, "Computing receptive fields of convolutional neural
    networks", Distill 2019). Statistics of norms and factors of channels, which depend on all
    pixels, are left out; self-attention between pixels is not.

    Args:
        made: All calls of a model, each after those it takes its inputs from.

    Returns:
        Pixels for each call; None where an output depends on every pixel.
    """
    known: dict[int, tuple[float, float]] = {}
    fields = []
    for call in made:
        before = [known.get(id(each), (1, 1)) for each in call.inputs]
        field = max((each[0] for each in before), default=1)
        spacing = max((each[1] for each in before), default=1)
        for _ in range(call.units):
            field, spacing = _after(call, field, spacing)
        known[id(call.output)] = field, spacing
        fields.append(None if math.isinf(field) else int(field))
    return fields


def _after(call: Call, field: float, spacing: float) -> tuple[float, float]:
    layer = call.layer
    rank = len(call.output.shape)
    if isinstance(layer, SelfAttention2D) or any(len(each.shape) > rank for each in call.inputs):
        # Every pixel meets every other; or they are pooled or flattened, and what comes out has no
        # place in the image any more.
        return math.inf, spacing
    kernel = _largest(layer, "kernel_size", "pool_size")
    if rank == 4 and kernel:
        dilation = _largest(layer, "dilation_rate", "dilation") or 1
        field += (kernel - 1) * dilation * spacing
        spacing *= _largest(layer, "strides") or 1
    return field, spacing


def _largest(layer: Any, *names: str) -> int | None:
    values = [getattr(layer, name) for name in names if hasattr(layer, name)]
    if not values:
        return None
    return max(values[0]) if isinstance(values[0], tuple | list) else values[0]
