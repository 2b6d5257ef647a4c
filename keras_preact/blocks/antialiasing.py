"""Blurs in place of strides (arXiv:1904.11486)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.operations import Operation
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor


@dataclass(frozen=True)
class Blurred(Operation):
    """An operation on maps that are blurred and subsampled first.

    Attributes:
        operation: The operation after the blur.
        unit: Its unit, which has the stride.
    """

    operation: Operation
    unit: Unit

    @property
    def activates(self) -> bool:
        """Whether the operation ends in an activation."""
        return self.operation.activates

    def __call__(self, x: Tensor, make: LayerFactory, *, name: str, **options: Any) -> Tensor:
        x = blurred(x, self.unit, make, name=f"{name}_blur")
        return self.operation(x, make, name=name, **options)


def blurred(x: Tensor, unit: Unit, make: LayerFactory, *, name: str) -> Tensor:
    """Blur maps, then take the unit's stride. Where dilation replaces it, dilate the blur."""
    return make.blur(x, unit.stride, unit.dilation // unit.rate, name=name)


def antialiased(operations: Iterable[Operation], unit: Unit) -> tuple[Operation, ...]:
    """Move each stride of a branch into a blur before the operation after it.

    So the blur comes after the activation, as in the paper.

    Args:
        operations: Operations of a unit with its nominal stride. The last one has none.
        unit: The unit, whose stride may have become dilation.

    Returns:
        As many operations.

    Raises:
        ValueError: If the last one has a stride.
    """
    result: list[Operation] = []
    blurs = False
    for operation in operations:
        strided = operation.stride != 1
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
