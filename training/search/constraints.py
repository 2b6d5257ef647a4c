"""Limits on the cost of the nets of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_preact.analysis import UnknownLayerError
from keras_preact.spec.rules import POSITIVE, POSITIVE_INTEGER
from training.search.hypermodel import PreActHyperModel

_EXPECTED = {
    "max_parameters": POSITIVE_INTEGER,
    "max_flops": POSITIVE_INTEGER,
    "max_latency": POSITIVE,
    "latency_batch_size": POSITIVE_INTEGER,
}


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Limits that candidates keep to, checked before anything is built.

    Args:
        max_parameters: Most parameters; None for no limit.
        max_flops: Most multiply-adds for one image, as `keras_preact.analysis` counts them.
        max_latency: Longest time for a batch, in seconds, by the sum of what this process measures
            of the net's parts, each when it is first needed.
        latency_batch_size: Images of that batch.

    Raises:
        ValueError: If a limit is not above 0, or not a whole number where it counts something.
    """

    max_parameters: int | None = None
    max_flops: int | None = None
    max_latency: float | None = None
    latency_batch_size: int = 1

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, rule = getattr(self, each.name), _EXPECTED[each.name]
            if not rule.holds(value) and not (value is None and each.default is None):
                raise ValueError(f"`{each.name}` must be {rule.expected}. Received: {value!r}")

    def holds(self, hypermodel: PreActHyperModel, values: Mapping[str, Any]) -> bool:
        """Return whether the net of a candidate exists and keeps to the limits.

        Args:
            hypermodel: The hypermodel that the values belong to.
            values: The hyperparameters.

        Returns:
            False, too, where the values do not fit one another.
        """
        try:
            cost = hypermodel.cost(values)
            return (
                (self.max_parameters is None or cost.parameters <= self.max_parameters)
                and (self.max_flops is None or cost.flops <= self.max_flops)
                and (
                    self.max_latency is None
                    or self._seconds(hypermodel, values) <= self.max_latency
                )
            )
        except UnknownLayerError:
            raise
        except ValueError:
            return False

    def check(self, hypermodel: PreActHyperModel) -> None:
        """Check that something in a search space can hold.

        Args:
            hypermodel: Holds the space.

        Raises:
            ValueError: If even the smallest candidates are beyond a limit, or no values fit one
                another.
        """
        smallest = []
        for values in hypermodel.smallest():
            if self.holds(hypermodel, values):
                return
            smallest.append(values)
        values = min(smallest, key=lambda each: hypermodel.cost(each).flops)
        cost = hypermodel.cost(values)
        figures = [("parameters", cost.parameters, self.max_parameters)]
        figures.append(("FLOPs", cost.flops, self.max_flops))
        if self.max_latency is not None:
            figures.append(("seconds", self._seconds(hypermodel, values), self.max_latency))
        received = ", ".join(
            f"{value:,} {name}" + (f" (limit {limit:,})" if limit is not None else "")
            for name, value, limit in figures
        )
        raise ValueError(f"No candidate keeps to the limits. The smallest has {received}: {values}")

    def _seconds(self, hypermodel: PreActHyperModel, values: Mapping[str, Any]) -> float:
        return hypermodel.seconds(values, self.latency_batch_size)
