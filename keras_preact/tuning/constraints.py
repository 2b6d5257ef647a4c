"""Limits on the cost of the nets of a search."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from keras_preact.messages import require, suggesting_arguments
from keras_preact.spec.rules import BOOLEAN, POSITIVE, POSITIVE_INTEGER, plain

_EXPECTED = {
    "max_parameters": POSITIVE_INTEGER,
    "max_flops": POSITIVE_INTEGER,
    "max_latency": POSITIVE,
    "latency_batch_size": POSITIVE_INTEGER,
    "fill": BOOLEAN,
}


@suggesting_arguments
@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Limits that candidates keep to, checked before anything is built.

    Args:
        max_parameters: Most parameters; None for no limit.
        max_flops: Most multiply-adds for one image, as `keras_preact.analysis` counts them.
        max_latency: Longest time for a batch, in seconds, by the sum of what this process measures
            of the net's parts, each when it is first needed.
        latency_batch_size: Images of that batch.
        fill: Whether the widths of every candidate are scaled until it uses 95% to 100% of the
            limit that it reaches first. The search is then over shapes: accuracy grows with cost,
            so nets far below the limit lose to others of the same shape. Without a limit nothing
            is scaled.

    Raises:
        ValueError: If a limit is not finite and above 0, or not a whole number where it counts
            something.
        TypeError: If there is no such limit.
    """

    max_parameters: int | None = None
    max_flops: int | None = None
    max_latency: float | None = None
    latency_batch_size: int = 1
    fill: bool = True

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, rule = plain(getattr(self, each.name)), _EXPECTED[each.name]
            may_be_none = each.default is None
            require(
                value != math.inf or not may_be_none,
                each.name,
                "None for there to be no limit",
                value,
            )
            allowed = rule.holds(value) or (value is None and may_be_none)
            require(allowed, each.name, rule.expected, value)
            object.__setattr__(self, each.name, value)

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        limits = (self.max_parameters, self.max_flops, self.max_latency)
        return any(limit is not None for limit in limits)

    @property
    def fills(self) -> bool:
        """Whether widths follow from a limit."""
        return self.fill and self.limited

    def share(self, parameters: int, flops: int, seconds: float) -> float:
        """Return the share of the limit that a net reaches first; 0 without a limit.

        Args:
            parameters: Parameters of the net.
            flops: Its multiply-adds for one image.
            seconds: Its time for a batch. Ignored without such a limit.
        """
        used: list[tuple[Any, Any]] = [
            (parameters, self.max_parameters),
            (flops, self.max_flops),
            (seconds, self.max_latency),
        ]
        return max((value / limit for value, limit in used if limit is not None), default=0.0)
