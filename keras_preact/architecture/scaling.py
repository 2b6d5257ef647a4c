"""Compound scaling: one coefficient for depth, width and resolution (arXiv:1905.11946)."""

from __future__ import annotations

import math

from keras_preact.architecture.architecture import Architecture
from keras_preact.spec.rules import POSITIVE, POSITIVE_INTEGER, plain


def compound_scale(
    architecture: Architecture,
    phi: float,
    depth: float = 1.2,
    width: float = 1.1,
    resolution: float = 1.15,
    divisor: int = 8,
) -> tuple[Architecture, int]:
    """Make a net deeper and wider, and find the image size that suits it (arXiv:1905.11946).

    The units of each stage are multiplied by `depth**phi` and rounded up. The channels of the
    stages and the stem are multiplied by `width**phi` and rounded to a multiple of `divisor`, by
    EfficientNet's rule. The default input size is multiplied by `resolution**phi`. With the paper's
    factors, the defaults, `depth * width**2 * resolution**2` is about 2, so that the work grows as
    `2**phi`.

    EfficientNet-B1 to B7 were published with factors rounded by hand. `phi=1` uses the factors
    unchanged: `compound_scale(b0, 1, depth=1.4, width=1.2, resolution=300 / 224)` is B3.

    Args:
        architecture: The net to scale.
        phi: The coefficient. At 0 the net stays the same up to rounding; below 0 it shrinks.
        depth: Factor of the units, above 0.
        width: Factor of the channels, above 0.
        resolution: Factor of the images' height and width, above 0.
        divisor: Divisor of the numbers of channels.

    Returns:
        The scaled architecture, and the height and width of its images, in pixels.

    Raises:
        ValueError: If an argument is out of its range, or the channels do not fit the
            architecture's other fields, such as `norm_groups`.
    """
    factors = {"depth": depth, "width": width, "resolution": resolution}
    factors = {name: POSITIVE.check(name, value) for name, value in factors.items()}
    divisor = POSITIVE_INTEGER.check("divisor", divisor)
    phi = plain(phi)
    if not isinstance(phi, int | float) or not math.isfinite(phi):
        raise ValueError(f"`phi` must be a finite number. Received: {phi!r}")
    depth, width, resolution = (factor**phi for factor in factors.values())
    scaled = architecture.replace(
        units=tuple(_round_up(count * depth) for count in architecture.units),
        channels=tuple(_round_channels(each * width, divisor) for each in architecture.channels),
        stem_channels=_round_channels(architecture.stem_channels * width, divisor),
    )
    return scaled, max(1, round(architecture.input_size * resolution))


def _round_up(count: float) -> int:
    # 1.1 * 10 is a little above 11 in binary.
    return math.ceil(round(count, 9))


def _round_channels(channels: float, divisor: int) -> int:
    """Return the nearest multiple, or the next where that would remove more than a tenth."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor
