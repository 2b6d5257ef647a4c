"""Widths that use up a budget, at the proportions that a candidate has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

# Largest step to the next width of which there is a net, where groups leave few.
_FARTHEST = 4096

# From the widths of the stages to the share of the budget that the net uses; more than 1 is too
# much, and infinity stands for a net that does not exist.
Share = Callable[[tuple[int, ...]], float]


def fill(
    proportions: Sequence[float], share: Share, exists: Callable[[int], bool] = lambda width: True
) -> tuple[int, ...] | None:
    """Scale widths until the net uses 95% to 100% of a budget.

    Args:
        proportions: Widths of the stages; only their proportions count.
        share: The share of the budget that a net of some widths uses. It rises with the widths.
        exists: Whether a stage may have a width, for instance with the groups that the net has.

    Returns:
        The widths. Where none reach 95% at about these proportions, of all that were tried and do
        reach it the least out of proportion, else those that come closest; None where even the
        smallest net is beyond the budget.
    """
    known: dict[tuple[int, ...], float] = {}

    def looked_up(widths: tuple[int, ...]) -> float:
        if widths not in known:
            known[widths] = share(widths)
        return known[widths]

    tried = []
    for multiple in MULTIPLES:
        grid = _Grid(multiple, exists)
        targets = _scaled(proportions, looked_up, grid)
        filled = None if targets is None else _fill(targets, looked_up, grid)
        if targets is None or filled is None:
            continue
        keeps = max(map(_distortion, filled, targets)) <= math.log1p(_DISTORTION)
        if keeps and looked_up(filled) >= FILLED:
            return filled
        tried.append(filled)

    def merit(widths: tuple[int, ...]) -> tuple[float, ...]:
        used = looked_up(widths)
        return min(used, FILLED), -_spread(widths, proportions), used

    return max(tried, key=merit, default=None)


@dataclass(frozen=True)
class _Grid:
    """Widths that a stage may have: the multiples of a number of which there are nets."""

    multiple: int
    exists: Callable[[int], bool]

    def nearest(self, width: float) -> int | None:
        """Return the nearest of them; None if there is none."""
        place = max(1, round(width / self.multiple))
        for distance in range(place + _FARTHEST // self.multiple):
            for each in (place - distance, place + distance):
                if each > 0 and self.exists(each * self.multiple):
                    return each * self.multiple
        return None

    def next(self, width: int, direction: int) -> int | None:
        """Return the next below (`direction` is -1) or above (1); None if there is none."""
        for distance in range(self.multiple, _FARTHEST + self.multiple, self.multiple):
            each = width + direction * distance
            if each <= 0:
                return None
            if self.exists(each):
                return each
        return None

    def rounded(self, widths: Sequence[float]) -> tuple[int, ...] | None:
        """Return the nearest of each."""
        nearest = list(map(self.nearest, widths))
        return None if None in nearest else tuple(each for each in nearest if each)


def _scaled(proportions: Sequence[float], share: Share, grid: _Grid) -> list[float] | None:
    """Return widths, not rounded, that about use the budget; None if there are no such nets."""
    scale = 1.0
    for _ in range(_CORRECTIONS):
        widths = grid.rounded([scale * each for each in proportions])
        used = math.inf if widths is None else share(widths)
        if not math.isfinite(used):
            return None
        # Costs grow with the square of the widths, or a little more slowly.
        scale /= math.sqrt(used)
    return [scale * each for each in proportions]


def _fill(targets: Sequence[float], share: Share, grid: _Grid) -> tuple[int, ...] | None:
    widths = grid.rounded(targets)
    while widths and share(widths) > 1:
        widths = _stepped(widths, targets, -1, share, grid)
    while widths and share(widths) < FILLED:
        wider = _stepped(widths, targets, 1, share, grid)
        if wider is None:
            break
        widths = wider
    return widths


def _stepped(
    widths: tuple[int, ...], targets: Sequence[float], direction: int, share: Share, grid: _Grid
) -> tuple[int, ...] | None:
    """Return widths with one changed by a step, the one that is then least out of proportion.

    Args:
        widths: Of the stages.
        targets: Widths that have the proportions.
        direction: 1 for a wider stage, and never beyond the budget; -1 for a narrower one.
        share: See `fill`.
        grid: Widths that a stage may have.
    """
    changed = []
    for place, width in enumerate(widths):
        other = grid.next(width, direction)
        if other is not None:
            changed.append((*widths[:place], other, *widths[place + 1 :]))
    possible = [each for each in changed if direction < 0 or share(each) <= 1]
    return min(possible, key=lambda each: max(map(_distortion, each, targets)), default=None)


def _distortion(width: int, target: float) -> float:
    return abs(math.log(width / target))


def _spread(widths: Sequence[int], proportions: Sequence[float]) -> float:
    """Return how far widths are out of proportion, whatever their scale."""
    factors = [math.log(each / own) for each, own in zip(widths, proportions, strict=True)]
    return max(factors) - min(factors)
