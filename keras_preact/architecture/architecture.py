"""`Architecture`: one frozen dataclass that says everything about a net."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_preact.architecture.checks import check_parts, check_plan, checked_fields
from keras_preact.architecture.plan import Plan
from keras_preact.blocks.head import MAPS, TOKENS
from keras_preact.blocks.operations import SIZED
from keras_preact.blocks.stem import STEMS
from keras_preact.messages import did_you_mean
from keras_preact.spec.fields import RULES, Fields, documented
from keras_preact.spec.unit import Unit


@documented
@dataclass(frozen=True, kw_only=True)
class Architecture(Fields):
    """Topology and initial weights of a net: everything but its input and its classes.

    Args:
        {fields}

    Raises:
        ValueError: If a value is of the wrong kind or out of its range.
    """

    def __post_init__(self) -> None:
        for name, value in checked_fields(self).items():
            object.__setattr__(self, name, value)
        check_parts(self)
        check_plan(self.plan)

    @functools.cached_property
    def plan(self) -> Plan:
        """Units, channels and strides, as they follow from the fields."""
        return Plan(self)

    @property
    def stages(self) -> dict[int, tuple[Unit, ...]]:
        """The units of each stage. The stem is stage 1, so stages count from 2, as in the paper."""
        return self.plan.stages

    @property
    def reached_strides(self) -> tuple[int, ...]:
        """Pixels of the input per pixel after the stem and each stage, without dilation."""
        return self.plan.reached_strides

    @property
    def input_size(self) -> int:
        """Default height and width of the input, in pixels."""
        return STEMS[self.stem].input_size

    @property
    def sized(self) -> bool:
        """Whether the weights fit images of one height and width only."""
        return self.encoder_depth > 0 or self.spatial in SIZED

    @property
    def output_rank(self) -> int:
        """Rank of the body's output: `keras_preact.blocks.head.MAPS` or `TOKENS`."""
        return TOKENS if self.encoder_depth else MAPS

    def replace(self, **changes: Any) -> Architecture:
        """Return the architecture with some fields changed, checked again.

        Args:
            **changes: New values by name of the field.

        Raises:
            ValueError: If a name is no field, or a value is out of its range.
        """
        _check_names(changes)
        return dataclasses.replace(self, **changes)

    def get_config(self) -> dict[str, Any]:
        """Return the fields as plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Make an architecture of the result of `get_config`.

        Raises:
            ValueError: If a name is no field, or a value is out of its range.
        """
        _check_names(config)
        return cls(**config)


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in RULES:
            raise ValueError(
                f"`{name}` is no field of `Architecture`.{did_you_mean(name, RULES)} "
                f"Fields: {list(RULES)}"
            )
