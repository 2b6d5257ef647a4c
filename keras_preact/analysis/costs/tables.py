"""Costs of nets from only their `Architecture`: sums over parts that are each counted once.

The parts are the stem, the units and the head. Each is built by itself, as layers on a symbolic
input, and counted as any model is, so that there is no second copy of the formulas. Two units are
the same part where `Architecture.stages` says the same of them and their maps have the same size.

The sum over a stage is kept as well. Its key is the channels that enter and leave the stage and the
number of units, which decide all about it in a family of nets that differ in `units` and
`channels`. So a candidate costs one look-up per stage. Where channels widen linearly, over the
whole net, a stage's widths depend on the other stages too, and its units are looked up one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras

from keras_preact.analysis.costs.cost import Cost, model_cost
from keras_preact.analysis.costs.graph import Shape
from keras_preact.architecture import Architecture, Unit
from keras_preact.blocks.stages import residual_stage, without_name_and_numbers
from keras_preact.blocks.stem import stem
from keras_preact.build import body_end, head, layer_factory, net_inputs
from keras_preact.tensor import Tensor

# Values of a part that are added up, in the order of a table's own.
Values = tuple[float, ...]


class PartTable:
    """Values of the nets of a family, as sums over their parts.

    Args:
        architecture: One net of the family. The others have as many stages, and differ from it in
            `units` and `channels` only.
        input_shape: Shape of an image, as builders take it, without unknown sizes.
        classes: Number of classes.
        measure: Function from a model of only one part to the values of that part.
        include_top: See the builders.
        pooling: See the builders.
        data_format: See the builders.
        dtype: See the builders.

    Raises:
        ValueError: If the shape is not that of an image, or its height or width is unknown.
    """

    def __init__(
        self,
        architecture: Architecture,
        input_shape: Sequence[int] | None,
        classes: int,
        measure: Callable[[keras.Model], Values],
        *,
        include_top: bool = True,
        pooling: str | None = None,
        data_format: str | None = None,
        dtype: Any = None,
    ) -> None:
        self.architecture = architecture
        self._classes = classes
        self._measure = measure
        self._include_top, self._pooling = include_top, pooling
        self._make = layer_factory(architecture, data_format, dtype)
        inputs = net_inputs(self._make, architecture, include_top, input_shape=input_shape)
        self._input_shape = tuple(inputs.shape[1:])
        if None in self._input_shape:
            raise ValueError(
                f"`input_shape` must be known in height and width. Received: {input_shape}"
            )
        self._measured: dict[tuple[Hashable, Shape], tuple[Values, Shape]] = {}
        self._stages: dict[tuple[int, ...], Values] = {}
        self._places = range(len(architecture.units))

    def sums(self, units: Sequence[int], channels: Sequence[int]) -> Values:
        """Return the values of one net of the family.

        Args:
            units: Residual units of each stage.
            channels: Output channels of each stage.

        Returns:
            The sum of each value over the net's parts.

        Raises:
            ValueError: If there is no net of these units and channels.
        """
        if not len(units) == len(channels) == len(self._places):
            # Says what is wrong.
            self.architecture.replace(units=units, channels=channels)
        entering = (self.architecture.stem_channels, *channels)
        keys = list(zip(self._places, entering, channels, units, strict=False))
        try:
            return _added([self._stages[key] for key in keys])
        except KeyError:
            values = self._by_stage(units, channels)
        if self.architecture.widening == "stage":
            self._stages.update(zip(keys, values, strict=True))
        return _added(values)

    def _by_stage(self, units: Sequence[int], channels: Sequence[int]) -> list[Values]:
        """Return the values of each stage, with the stem in the first and the head in the last."""
        net = self.architecture.replace(units=tuple(units), channels=tuple(channels))
        values, shape = self._part("stem", self._input_shape, self._stem)
        stages, found = [], [values]
        for stage_units in net.stages.values():
            for unit in stage_units:
                values, shape = self._unit(unit, shape)
                found.append(values)
            stages.append(_added(found))
            found = []
        head, _ = self._part("head", shape, self._head)
        return [*stages[:-1], _added([stages[-1], head])]

    def _unit(self, unit: Unit, shape: Shape) -> tuple[Values, Shape]:
        unit = without_name_and_numbers(unit)
        return self._part(unit, shape, lambda x: residual_stage(x, (unit,), self._make))

    def _part(
        self, name: Hashable, shape: Shape, apply: Callable[[Tensor], Tensor]
    ) -> tuple[Values, Shape]:
        """Return the values of a part, and the shape of its output."""
        if (name, shape) not in self._measured:
            inputs = keras.Input(shape, dtype=self._make.dtype.compute_dtype)
            model = keras.Model(inputs, apply(inputs))
            self._measured[name, shape] = self._measure(model), tuple(model.output_shape[1:])
        return self._measured[name, shape]

    def _stem(self, x: Tensor) -> Tensor:
        return stem(x, self._make)

    def _head(self, x: Tensor) -> Tensor:
        x = body_end(x, self._make)
        return head(x, self._make, self._include_top, self._pooling, self._classes, "softmax")


def _added(values: list[Values]) -> Values:
    return tuple(map(sum, zip(*values, strict=True)))


class CostTable(PartTable):
    """Costs of a family of nets, for searches: over 100,000 nets per second once it is filled.

    Args:
        architecture: One net of the family. The others have as many stages, and differ from it in
            `units` and `channels` only.
        input_shape: Shape of an image, `(height, width, channels)`, or with the channels first; by
            default that of the builders.
        classes: Number of classes.
        **options: `include_top`, `pooling`, `data_format` and `dtype`; see the builders.

    Raises:
        ValueError: If the shape is not that of an image, or its height or width is unknown.
    """

    def __init__(
        self,
        architecture: Architecture,
        input_shape: Sequence[int] | None = None,
        classes: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(architecture, input_shape, classes, _counted, **options)

    def cost(self, units: Sequence[int], channels: Sequence[int]) -> Cost:
        """Return the cost of one net of the family.

        Args:
            units: Residual units of each stage.
            channels: Output channels of each stage.

        Returns:
            The total that `model_cost` gives of the net, for one example.

        Raises:
            ValueError: If there is no net of these units and channels.
        """
        return Cost(*map(int, self.sums(units, channels)))


def _counted(part: keras.Model) -> Values:
    cost = model_cost(part).total
    return cost.parameters, cost.weight_bytes, cost.flops, cost.activations


def architecture_cost(
    architecture: Architecture, input_shape: Sequence[int] | None = None, classes: int = 1000
) -> Cost:
    """Count the cost of a net that is not built.

    For many nets that differ only in units and channels, a `CostTable` is faster.

    Args:
        architecture: Says everything about the net.
        input_shape: See `CostTable`.
        classes: Number of classes.

    Returns:
        `model_cost(PreActResNet(architecture, …)).total`.

    Raises:
        ValueError: If the shape is not that of an image, or its height or width is unknown.
    """
    table = CostTable(architecture, input_shape, classes)
    return table.cost(architecture.units, architecture.channels)
