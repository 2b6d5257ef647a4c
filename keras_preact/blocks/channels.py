"""Channels of the units of a net."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from keras_preact.spec.fields import Fields


@dataclass(frozen=True)
class Width:
    """Channels of one unit.

    Attributes:
        shortcut: Channels of its shortcut.
        channels: Its output channels.
    """

    shortcut: int
    channels: int


# By stage, the channels of its units.
Widths = list[list[Width]]


def residual_widths(net: Fields) -> Widths:
    """Return the channels of residual units, as `net.widening` says."""
    return WIDENINGS[net.widening](net, 1)


def bottleneck_widths(net: Fields) -> Widths:
    """Return the channels of bottlenecks: those inside are whole numbers."""
    return WIDENINGS[net.widening](net, 1 / net.bottleneck_ratio)


def _by_stage(net: Fields, multiple: float) -> Widths:
    """Give all units of a stage the same channels."""
    return [
        [Width(channels, channels)] * count
        for count, channels in zip(net.units, net.channels, strict=True)
    ]


def _linear(net: Fields, multiple: float) -> Widths:
    """Put the units on one line over the net if its stages end on it, else on one per stage."""
    start = net.stem_channels * multiple
    whole = line(sum(net.units), start, net.channels[-1], multiple)
    stages = [
        whole[last - count : last]
        for count, last in zip(net.units, itertools.accumulate(net.units), strict=True)
    ]
    if tuple(stage[-1] for stage in stages) != net.channels:
        ends = itertools.pairwise([start, *net.channels])
        stages = [
            # The last unit has the channels of its stage, whether or not they are a multiple.
            [*line(count, first, last, multiple)[:-1], last]
            for count, (first, last) in zip(net.units, ends, strict=True)
        ]
    return [[Width(each, each) for each in stage] for stage in stages]


def line(units: int, start: float, end: float, multiple: float = 1) -> list[int]:
    """Return the channels of units that widen by equal steps (arXiv:1610.02915).

    Args:
        units: Number of units.
        start: Channels before the first.
        end: Channels of the last.
        multiple: Divisor of the channels. They are rounded half up, as in the authors' code.

    Returns:
        The channels of each unit.
    """
    exact = [(start * (units - index) + end * index) / units for index in range(1, units + 1)]
    return [round(math.floor(each / multiple + 0.5) * multiple) for each in exact]


WIDENINGS: dict[str, Callable[[Fields, float], Widths]] = {
    "stage": _by_stage,
    "linear": _linear,
}


@dataclass(frozen=True)
class DenseStage:
    """Channels of one stage of dense units.

    Attributes:
        entering: Input channels of the first unit, after the transition.
        growth: Channels that each unit adds, the paper's k.
        rest: Channels of the stage that are left over. It must be 0.
    """

    entering: int
    growth: int
    rest: int


def dense_stages(net: Fields) -> list[DenseStage]:
    """Return what `net.channels` means for stages of dense units."""
    stages = []
    entering = net.stem_channels
    for count, channels in zip(net.units, net.channels, strict=True):
        stages.append(DenseStage(entering, *divmod(channels - entering, count)))
        entering = int(channels * net.compression)
    return stages


def dense_widths(net: Fields) -> Widths:
    """Return the channels of dense units, which each add the same number (arXiv:1608.06993)."""
    return [
        [
            Width(
                stage.entering + index * stage.growth, stage.entering + (index + 1) * stage.growth
            )
            for index in range(count)
        ]
        for count, stage in zip(net.units, dense_stages(net), strict=True)
    ]
