"""Padding that is alike on every side, whatever the stride.

TensorFlow's `"same"` pads a strided layer by as little as its output size needs, more at the bottom
and right than at the top and left. Torch and PyTorch, in which the published nets were trained, pad
half the kernel on every side. The two agree where the stride is 1.
"""

from __future__ import annotations

from typing import Any


def check_odd(name: str, sizes: tuple[int, ...]) -> None:
    """Raise a `ValueError` if a kernel or window has an even side, of which there is no half."""
    if any(size % 2 == 0 for size in sizes):
        raise ValueError(
            f'With `padding="fixed"`, `{name}` must be odd in height and width. Received: {sizes}'
        )


def pad_widths(pads: tuple[int, ...], data_format: str) -> list[list[int]]:
    """Return the pixels to add before and after each axis of a batch."""
    spatial = [[size, size] for size in pads]
    if data_format == "channels_first":
        return [[0, 0], [0, 0], *spatial]
    return [[0, 0], *spatial, [0, 0]]


def padded_shape(
    shape: tuple[int | None, ...], pads: tuple[int, ...], data_format: str
) -> tuple[int | None, ...]:
    """Return the shape of a batch of maps after padding."""
    first = 2 if data_format == "channels_first" else 1
    shape = list(shape)
    for axis, size in enumerate(pads, first):
        shape[axis] = None if shape[axis] is None else shape[axis] + 2 * size
    return tuple(shape)


class FixedPadding:
    """Mixin of the convolutions and poolings that know `padding="fixed"`.

    Attributes:
        fixed: Whether half of the kernel or window is padded on every side.
        pads: Pixels to add before and after height and width; None where the layer adds none.
    """

    fixed: bool
    pads: tuple[int, ...] | None

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if self.pads:
            input_shape = padded_shape(input_shape, self.pads, self.data_format)
        return super().compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "padding": "fixed" if self.fixed else config["padding"]}
