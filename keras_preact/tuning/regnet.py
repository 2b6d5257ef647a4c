"""RegNet's rule: units and channels of all stages from four numbers (arXiv:2003.13678)."""

from __future__ import annotations

import math
from collections import Counter

from keras_preact.spec.rules import POSITIVE, POSITIVE_INTEGER, number, or_none

# Allowed values of the numbers.
NUMBERS = {
    "depth": POSITIVE_INTEGER,
    "slope": number(lambda value: value >= 0, "from 0"),
    "multiplier": number(lambda value: value > 1, "above 1"),
    "width": POSITIVE,
}


def regnet_stages(
    depth: int,
    slope: float,
    width: float,
    *,
    multiplier: float | None = None,
    stages: int | None = None,
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Lay out the stages of a net whose widths grow linearly and are then quantized.

    Section 3.3, equations 2 to 4. Unit `j` of `depth` would have `width * (1 + slope * j)`
    channels; each gets the nearest of `width * multiplier ** s`, nearest in the logarithm, and
    units of one width are a stage.

    Args:
        depth: Number of units.
        slope: Growth of the width from one unit to the next, in widths of the first.
        width: Channels of the first unit.
        multiplier: Quotient of a width and the one before, above 1. By default the one that puts
            the last unit into stage number `stages`.
        stages: The number of stages that the net must have; any by default.

    Returns:
        Units and channels of each stage. The channels are not yet rounded.

    Raises:
        ValueError: If a number is out of its range, or the rule gives another number of stages.
    """
    depth = NUMBERS["depth"].check("depth", depth)
    slope = NUMBERS["slope"].check("slope", slope)
    width = NUMBERS["width"].check("width", width)
    multiplier = or_none(NUMBERS["multiplier"]).check("multiplier", multiplier)
    stages = or_none(POSITIVE_INTEGER).check("stages", stages)
    widest = 1 + slope * (depth - 1)
    steps = (stages or 1) - 1
    if multiplier is not None:
        quotient = multiplier
    else:
        quotient = widest ** (1 / steps) if steps and widest > 1 else math.inf
    units = Counter(round(math.log(1 + slope * unit, quotient)) for unit in range(depth))
    if stages not in (None, len(units)):
        raise ValueError(
            f"A depth of {depth} with slope {slope:g} and multiplier {quotient:.4g} gives "
            f"{len(units)} stages, and the net has {stages}."
        )
    return tuple(units.values()), tuple(width * quotient**exponent for exponent in units)
