"""Compound scaling: depth, width and resolution grown by one coefficient."""

from __future__ import annotations

import math

from keras_preact.architecture import Architecture
from keras_preact.rules import POSITIVE, POSITIVE_INTEGER, Rule


def compound_scale(
    architecture: Architecture,
    phi: float,
    depth: float = 1.2,
    width: float = 1.1,
    resolution: float = 1.15,
    divisor: int = 8,
) -> tuple[Architecture, int]:
    """A deeper and wider net, and the size of the images that suits it (arXiv:1905.11946).

    The units of each stage are multiplied by `depth**phi` and rounded up; the channels of the
    stages and the stem by `width**phi` and rounded to a multiple of `divisor`, by EfficientNet's
    rule; the default input size by `resolution**phi`. With the paper's factors, the defaults,
    `depth * width**2 * resolution**2` is about 2, so that the work grows as `2**phi`.

    EfficientNet-B1 to B7 were published with factors rounded by hand, which `phi=1` takes as they
    are: `compound_scale(b0, 1, depth=1.4, width=1.2, resolution=300 / 224)` is B3.

    Args:
        architecture: The net to scale.
        phi: The coefficient; 0 leaves the net as it is, but for rounding, and below 0 it shrinks.
        depth: Factor of the units, above 0.
        width: Factor of the channels, above 0.
        resolution: Factor of the images' height and width, above 0.
        divisor: What the numbers of channels are multiples of.

    Returns:
        The scaled architecture, and the height and width of its images, in pixels.

    Raises:
        ValueError: If an argument is out of its range, or the channels do not fit the
            architecture's other fields, such as `norm_groups`.
    """
    factors = {"depth": depth, "width": width, "resolution": resolution}
    for name, value in factors.items():
        _check(name, value, POSITIVE)
    _check("divisor", divisor, POSITIVE_INTEGER)
    if not isinstance(phi, int | float) or not math.isfinite(phi):
        raise ValueError(f"`phi` must be a finite number. Received: {phi!r}")
    depth, width, resolution = (factor**phi for factor in factors.values())
    scaled = architecture.replace(
        units=tuple(_round_up(count * depth) for count in architecture.units),
        channels=tuple(_round_channels(each * width, divisor) for each in architecture.channels),
        stem_channels=_round_channels(architecture.stem_channels * width, divisor),
    )
    return scaled, max(1, round(architecture.input_size * resolution))


def _check(name: str, value: float, rule: Rule) -> None:
    if not rule.holds(value):
        raise ValueError(f"`{name}` must be {rule.expected}. Received: {value!r}")


def _round_up(count: float) -> int:
    # 1.1 * 10 is a little above 11 in binary.
    return math.ceil(round(count, 9))


def _round_channels(channels: float, divisor: int) -> int:
    """The nearest multiple, or the next where that would take more than a tenth away."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
