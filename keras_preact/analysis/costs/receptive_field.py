"""Receptive fields: pixels of the input that one pixel of a map depends on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_preact.analysis.costs.graph import Call
from keras_preact.layers import NearestResize, SelfAttention2D

# Pixels along a side that one pixel of a resized map is computed from.
_INTERPOLATED = {"bilinear": 2, "bicubic": 4, "lanczos3": 6, "lanczos5": 10}
_GLOBAL_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)


@dataclass(frozen=True)
class _Sight:
    """Pixels of the input that one pixel of a map depends on.

    Attributes:
        field: Their number, less `added`; infinite where it is all of them.
        spacing: Pixels of the input from one pixel of the map to the next.
        added: Pixels that kernels have added since the map was enlarged, if it ever was.
        grain: Spacing of the map that was enlarged. Where its pixels are repeated, kernels add
            whole ones of them.
        pooled: Whether these are statistics of whole maps, which have no place in the image.
    """

    field: float = 1
    spacing: float = 1
    added: float = 0
    grain: float = 1
    pooled: bool = False

    @property
    def total(self) -> float:
        """Pixels of the input, in all."""
        return self.field + math.ceil(self.added / self.grain) * self.grain

    def through(self, kernel: int, dilation: int, stride: int) -> _Sight:
        """Return what a kernel's output depends on."""
        added = self.added + (kernel - 1) * dilation * self.spacing
        return replace(self, added=added, spacing=self.spacing * stride)

    def enlarged(self, scale: float) -> _Sight:
        """Return what a map of so many times the pixels, along a side, depends on."""
        grain = max(self.grain, self.spacing)
        return replace(self, field=self.total, spacing=self.spacing / scale, added=0, grain=grain)


def receptive_fields(made: list[Call]) -> list[int | None]:
    """Compute the receptive field of every call's output, along the longer of height and width.

    A kernel of k pixels, d apart, over a map whose pixels are s pixels of the input apart, adds
    `(k - 1) * d * s` (Araujo, Norris, Sim, "Computing receptive fields of convolutional neural
    networks", Distill 2019). Over an enlarged map, where some pixels see more than others, the
    largest field counts. Statistics of norms and factors of channels, which depend on all pixels,
    are left out of the maps that they act on; self-attention between pixels is not.

    Args:
        made: All calls of a model, each after those it takes its inputs from.

    Returns:
        Pixels for each call; None where an output depends on every pixel.
    """
    known: dict[int, _Sight] = {}
    fields = []
    for call in made:
        sight = _of_inputs(call, [known.get(id(each), _Sight()) for each in call.inputs])
        for _ in range(call.units):
            sight = _after(call, sight)
        known[id(call.output)] = sight
        fields.append(None if math.isinf(sight.total) else math.ceil(sight.total))
    return fields


def _of_inputs(call: Call, inputs: Sequence[_Sight]) -> _Sight:
    """Return what all inputs of a call depend on together."""
    if isinstance(call.layer, NearestResize):
        x, like = inputs
        # The second gives its height and width only.
        return replace(x.enlarged(x.spacing / like.spacing), spacing=like.spacing)
    maps = [each for each in inputs if not each.pooled] or inputs or [_Sight()]
    widest = max(maps, key=lambda each: each.total)
    return replace(widest, spacing=max(each.spacing for each in maps))


def _after(call: Call, sight: _Sight) -> _Sight:
    """Return what a call's output depends on, beyond its inputs."""
    layer = call.layer
    if sight.pooled:
        return sight
    if _pools(call):
        return replace(sight, field=math.inf, pooled=True)
    if isinstance(layer, keras.layers.Identity):
        # Of all frames, each is seen by itself; or nothing changes.
        return sight
    rank = len(call.output.shape)
    if isinstance(layer, SelfAttention2D) or any(len(each.shape) > rank for each in call.inputs):
        # Every pixel meets every other; or they are flattened, and what comes out has no place in
        # the image any more.
        return replace(sight, field=math.inf)
    if rank != 4:
        return sight
    kernel = _largest(layer, "kernel_size", "pool_size")
    if not kernel:
        return _resized(call, sight)
    stride = _largest(layer, "strides") or 1
    dilation = _largest(layer, "dilation_rate", "dilation") or 1
    if isinstance(layer, keras.layers.Conv2DTranspose):
        # Of as many pixels as the stride, only one is of the map, the others are zeros.
        spread = max((kernel - 1) * dilation + 1 - stride, 0)
        return sight.enlarged(stride).through(spread + 1, 1, 1)
    return sight.through(kernel, dilation, stride)


def _pools(call: Call) -> bool:
    """Return whether a call makes one vector of whole maps, by their statistics."""
    if isinstance(call.layer, _GLOBAL_POOLING):
        return True
    before = call.inputs[0].shape[1:] if call.inputs else ()
    after = call.output.shape[1:]
    return len(before) == 3 and len(after) == 1 and after[0] < math.prod(before)


def _resized(call: Call, sight: _Sight) -> _Sight:
    """Return what a map depends on that may be resized."""
    layer = call.layer
    if not (hasattr(layer, "interpolation") and hasattr(layer, "data_format")):
        return sight
    axis = 2 if layer.data_format == "channels_first" else 1
    before, after = call.inputs[0].shape, call.output.shape
    scale = min(after[each] / before[each] for each in (axis, axis + 1))
    if scale == 1:
        return sight
    sight = sight.through(_INTERPOLATED.get(layer.interpolation, 1), 1, 1)
    return sight.enlarged(scale) if scale > 1 else replace(sight, spacing=sight.spacing / scale)


def _largest(layer: Any, *names: str) -> int | None:
    values = [getattr(layer, name) for name in names if hasattr(layer, name)]
    if not values:
        return None
    return max(values[0]) if isinstance(values[0], tuple | list) else values[0]
