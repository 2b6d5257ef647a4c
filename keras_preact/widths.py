"""The channels of a net's units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_preact.dense import dense_stages

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture


@dataclass(frozen=True)
class Width:
    """The channels of one unit.

    Attributes:
        shortcut: Those of its shortcut.
        channels: Those that go out.
    """

    shortcut: int
    channels: int


# By stage, the channels of its units.
Widths = list[list[Width]]


def widths(architecture: Architecture) -> Widths:
    """The channels of each unit, by stage."""
    rule = UNIT_WIDTHS.get(architecture.unit, WIDENINGS[architecture.widening])
    return rule(architecture)


def _by_stage(architecture: Architecture) -> Widths:
    """All units of a stage alike."""
    return [
        [Width(channels, channels)] * count
        for count, channels in zip(architecture.units, architecture.channels, strict=True)
    ]


def _linear(architecture: Architecture) -> Widths:
    """Units on one line over the net, where its stages end on it; else on a line to each end."""
    units, channels = architecture.units, architecture.channels
    multiple = 1 / architecture.bottleneck_ratio if architecture.unit == "bottleneck" else 1
    start = architecture.stem_channels * multiple
    whole = line(sum(units), start, channels[-1], multiple)
    stages = [
        whole[last - count : last]
        for count, last in zip(units, itertools.accumulate(units), strict=True)
    ]
    if tuple(stage[-1] for stage in stages) != channels:
        ends = itertools.pairwise([start, *channels])
        stages = [
            # The end is given, whatever it is a multiple of.
            [*line(count, first, last, multiple)[:-1], last]
            for count, (first, last) in zip(units, ends, strict=True)
        ]
    return [[Width(each, each) for each in stage] for stage in stages]


def line(units: int, start: float, end: float, multiple: float = 1) -> list[int]:
    """The channels of units that widen by equal steps (arXiv:1610.02915).

    Args:
        units: Number of units.
        start: Channels before the first.
        end: Channels of the last.
        multiple: Of what the channels are multiples; rounded half up, as in the authors' code.

    Returns:
        The channels of each unit.
    """
    exact = [(start * (units - index) + end * index) / units for index in range(1, units + 1)]
    return [round(math.floor(each / multiple + 0.5) * multiple) for each in exact]


def _dense(architecture: Architecture) -> Widths:
    """Units that each add the same to what comes in (arXiv:1608.06993)."""
    return [
        [
            Width(
                stage.entering + index * stage.growth, stage.entering + (index + 1) * stage.growth
            )
            for index in range(count)
        ]
        for count, stage in zip(architecture.units, dense_stages(architecture), strict=True)
    ]


WIDENINGS: dict[str, Callable[[Architecture], Widths]] = {
    "stage": _by_stage,
    "linear": _linear,
}
# Kinds of unit that decide it themselves.
UNIT_WIDTHS: dict[str, Callable[[Architecture], Widths]] = {
    "dense": _dense,
    "dense_basic": _dense,
}
