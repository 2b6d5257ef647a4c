"""Blurs in place of strides (arXiv:1904.11486)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_preact.architecture import Unit
    from keras_preact.operations import Operation
    from keras_preact.parts import Parts


@dataclass(frozen=True)
class Blurred:
    """An operation that takes a blurred and subsampled map.

    Attributes:
        operation: What comes after the blur.
        unit: Says by how much to subsample.
    """

    operation: Operation
    unit: Unit

    @property
    def activates(self) -> bool:
        """Whether the operation ends in an activation."""
        return getattr(self.operation, "activates", False)

    def __call__(
        self, x: Any, parts: Parts, *, normalized: bool, zero_init: bool, name: str
    ) -> Any:
        x = blurred(x, self.unit, parts, name=f"{name}_blur")
        return self.operation(x, parts, normalized=normalized, zero_init=zero_init, name=name)


def blurred(x: Any, unit: Unit, parts: Parts, *, name: str) -> Any:
    """A unit's stride, taken by a blur; where dilation replaces it, the blur alone, as dilated."""
    return parts.blur(x, unit.stride, unit.dilation // unit.rate, name=name)


def antialiased(operations: Iterable[Operation], unit: Unit) -> tuple[Operation, ...]:
    """A branch's operations, with each stride moved into a blur before the operation after it.

    So the blur comes after the activation, as in the paper.

    Args:
        operations: Those of a unit with its nominal stride, which its last one does not carry.
        unit: The unit itself, whose stride may have become dilation.

    Returns:
        As many operations.

    Raises:
        ValueError: If the last one has a stride.
    """
    result: list[Operation] = []
    blurs = False
    for operation in operations:
        strided = getattr(operation, "stride", 1) != 1
        if strided:
            operation = dataclasses.replace(operation, stride=1)
        result.append(Blurred(operation, unit) if blurs else operation)
        blurs = strided
    if blurs:
        raise ValueError(
            "The last operation of a branch must have no stride with `blur_pool`. "
            f"Received: {result[-1]}"
        )
    return tuple(result)
