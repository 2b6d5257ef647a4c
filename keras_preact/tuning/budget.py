"""Widths that use up a budget, at the proportions that a candidate has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

# Widths are multiples of the first of these that fills the budget well enough: what runs fast on
# vectors of 8 or 16 numbers, where there is a choice.
MULTIPLES = (32, 16, 8, 4, 2, 1)
# Share of the budget from which it counts as filled.
FILLED = 0.95
# Largest change of a width's proportion, as a share of it, for the sake of a coarse multiple.
_DISTORTION = 0.15
# Corrections of the scale. Each leaves a fraction of what was wrong with it, and one that comes to
# widths that were there before takes no time.
_CORRECTIONS = 20

# From the channels of the stages to the share of the budget that the net uses; more than 1 is too
# much, and infinity stands for a net that does not exist.
Share = Callable[[tuple[int, ...]], float]


def fill(channels: Sequence[float], share: Share) -> tuple[int, ...] | None:
    """Scale widths until the net uses 95% to 100% of a budget.

    Args:
        channels: Widths of the stages; only their proportions count.
        share: The share of the budget that a net of some widths uses. It rises with the widths.

    Returns:
        The widths. Where none reach 95% at these proportions, those that come closest; None where
        even the smallest net is beyond the budget.
    """
    known: dict[tuple[int, ...], float] = {}

    def looked_up(widths: tuple[int, ...]) -> float:
        if widths not in known:
            known[widths] = share(widths)
        return known[widths]

    best, most = None, 0.0
    for multiple in MULTIPLES:
        targets = _scaled(channels, looked_up, multiple)
        filled = None if targets is None else _fill(targets, looked_up, multiple)
        if targets is None or filled is None:
            continue
        keeps = max(map(_distortion, filled, targets)) <= math.log1p(_DISTORTION)
        if keeps and looked_up(filled) >= FILLED:
            return filled
        if looked_up(filled) > most:
            best, most = filled, looked_up(filled)
    return best


def _scaled(channels: Sequence[float], share: Share, multiple: int) -> list[float] | None:
    """Return widths, not rounded, that about use the budget; None if there are no such nets."""
    scale = 1.0
    for _ in range(_CORRECTIONS):
        used = share(_rounded([scale * each for each in channels], multiple))
        if not math.isfinite(used):
            return None
        # Costs grow with the square of the widths, or a little more slowly.
        scale /= math.sqrt(used)
    return [scale * each for each in channels]


def _fill(targets: Sequence[float], share: Share, multiple: int) -> tuple[int, ...] | None:
    widths: tuple[int, ...] | None = _rounded(targets, multiple)
    while widths and share(widths) > 1:
        widths = _stepped(widths, targets, -multiple, share)
    while widths and share(widths) < FILLED:
        wider = _stepped(widths, targets, multiple, share)
        if wider is None:
            break
        widths = wider
    return widths


def _rounded(widths: Sequence[float], multiple: int) -> tuple[int, ...]:
    return tuple(multiple * max(1, round(each / multiple)) for each in widths)


def _stepped(
    widths: tuple[int, ...], targets: Sequence[float], step: int, share: Share
) -> tuple[int, ...] | None:
    """Return widths with one changed by a step, the one that is then least out of proportion.

    Args:
        widths: Of the stages.
        targets: Widths that have the proportions.
        step: Added to one of them; never above 0 beyond the budget.
        share: See `fill`.
    """
    changed = [
        tuple(width + step * (index == place) for index, width in enumerate(widths))
        for place in range(len(widths))
    ]
    possible = [each for each in changed if min(each) > 0 and (step < 0 or share(each) <= 1)]
    return min(possible, key=lambda each: max(map(_distortion, each, targets)), default=None)


def _distortion(width: int, target: float) -> float:
    return abs(math.log(width / target))
