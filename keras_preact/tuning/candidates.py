"""`Candidates`: the nets of a search space, with their costs, none of them built."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras_tuner

from keras_preact import analysis
from keras_preact.architecture import Architecture
from keras_preact.blocks.units import UNITS
from keras_preact.tuning.budget import fill
from keras_preact.tuning.constraints import Constraints
from keras_preact.tuning.regnet import regnet_stages
from keras_preact.tuning.space import SearchSpace, are_numbers, label

# Choices that matter only in training: they change neither the cost nor which values fit together.
_FREE = ("drop_block", "drop_path", "dropout")
# Value of a candidate whose widths fill a budget: the channels of its stages, as in "16-32-64".
# They are kept with the others, since latencies measured anew would give others.
CHANNELS = "channels"

# Values of a trial by the hyperparameters' names; keys that KerasTuner adds are ignored.
Values = Mapping[str, Any]


class Candidates:
    """The nets that a search space holds, within limits.

    The hyperparameters are `units_stage2`, `units_stage3` and so on (stages count from 2, as in
    the layers' names), `channels_stage2` and so on or `widen`, those of `space.regnet` and the
    names of `space.choices`: those that the space lets vary.

    Args:
        architecture: Fields that all nets share. The default of a hyperparameter is its value where
            that is among the space's, or the first.
        space: Fields that vary.
        input_shape: Shape of an image, as builders take it.
        classes: Number of classes.
        constraints: Limits on the nets; none by default.

    Raises:
        ValueError: If the space does not fit the architecture.
    """

    def __init__(
        self,
        architecture: Architecture,
        space: SearchSpace,
        input_shape: Sequence[int] | None,
        classes: int,
        constraints: Constraints | None = None,
    ) -> None:
        self.base = architecture
        self.space = space
        self.constraints = constraints or Constraints()
        self._input_shape = input_shape
        self._classes = classes
        self._units = self._stage_options("units", space.units)
        self._channels = self._stage_options("channels", space.channels)
        self._widen = () if self.constraints.fills else space.widen
        self._words = {
            name: {label(value): value for value in values}
            for name, values in space.choices.items()
            if not are_numbers(values)
        }
        self._kinds = [name for name in space.choices if name not in _FREE]
        self._sizes: dict[tuple[Any, ...], tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._cost_tables: dict[tuple[Any, ...], analysis.CostTable] = {}
        self._latency_tables: dict[tuple[Any, ...], analysis.LatencyTable] = {}

    def declare(self, hp: keras_tuner.HyperParameters) -> None:
        """Register every hyperparameter of the nets.

        Args:
            hp: Hyperparameters to add them to, unless they are there already.
        """
        for prefix, options in (("units", self._units), ("channels", self._channels)):
            defaults = getattr(self.base, prefix)
            for (name, values), default in zip(options.items(), defaults, strict=False):
                declare(hp, name, values, default)
        if self._widen:
            declare(hp, "widen", self._widen, 1.0)
        for name, values in self.space.regnet.items():
            if name != "width" or not self.constraints.fills:
                declare(hp, name, values, None)
        for name, values in self.space.choices.items():
            default = getattr(self.base, name)
            if name in self._words:
                values, default = list(map(label, values)), label(default)
            declare(hp, name, values, default)

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Return all hyperparameters of the nets, with their defaults."""
        hp = keras_tuner.HyperParameters()
        self.declare(hp)
        return hp

    def fields(self, values: Values) -> dict[str, Any]:
        """Return the fields of a candidate's architecture that the space lets vary.

        Args:
            values: The hyperparameters.

        Raises:
            ValueError: If the values do not fit one another, or nothing of them fits a budget that
                is to be filled.
        """
        units, channels = self._size(values)
        fields = {name: self._choice(name, values) for name in self.space.choices}
        if units != self.base.units:
            fields["units"] = list(units)
        if channels != self.base.channels:
            fields["channels"] = list(channels)
        return fields

    def architecture(self, values: Values) -> Architecture:
        """Return the architecture of a candidate.

        Args:
            values: The hyperparameters.

        Raises:
            ValueError: If the values do not fit one another.
        """
        return self.base.replace(**self.fields(values))

    def completed(self, values: Values) -> dict[str, Any]:
        """Return a candidate's values with the widths that fill the budget, where it is filled.

        Args:
            values: The hyperparameters.

        Raises:
            ValueError: If the values do not fit one another, or nothing of them fits the budget.
        """
        if not self.constraints.fills:
            return dict(values)
        _, channels = self._size(values)
        return {**values, CHANNELS: "-".join(map(str, channels))}

    def cost(self, values: Values) -> analysis.Cost:
        """Return the cost of a candidate per image, within microseconds and without building it.

        Args:
            values: The hyperparameters.

        Returns:
            The same as `keras_preact.analysis.model_cost` of the net.

        Raises:
            ValueError: If the values do not fit one another.
        """
        return self._cost(values, *self._size(values))

    def seconds(self, values: Values) -> float:
        """Return the seconds that a candidate takes for a batch, from measurements of its parts.

        Args:
            values: The hyperparameters.

        Returns:
            The sum over the net's parts, for a batch of `constraints.latency_batch_size`.

        Raises:
            ValueError: If the values do not fit one another.
        """
        return self._seconds(values, *self._size(values))

    def share(self, values: Values) -> float:
        """Return the share of its budget that a candidate uses; see `Constraints.share`.

        Args:
            values: The hyperparameters.

        Raises:
            ValueError: If the values do not fit one another.
        """
        return self._share(values, *self._size(values))

    def holds(self, values: Values) -> bool:
        """Return whether a candidate exists and keeps to the limits.

        Args:
            values: The hyperparameters.

        Returns:
            False, too, where the values do not fit one another.
        """
        try:
            return self.share(values) <= 1
        except analysis.UnknownLayerError:
            raise
        except ValueError:
            return False

    def check(self) -> None:
        """Check that something in the space can hold.

        Raises:
            ValueError: If even the smallest candidates are beyond a limit, or no values fit one
                another.
        """
        smallest = []
        for values in self.smallest():
            if self.holds(values):
                return
            smallest.append(values)
        costs = [self._cost(each, *self._least(each)) for each in smallest]
        cost, values = min(zip(costs, smallest, strict=True), key=lambda pair: pair[0].flops)
        limits = self.constraints
        figures: list[tuple[str, float, float | None]] = [
            ("parameters", cost.parameters, limits.max_parameters),
            ("FLOPs", cost.flops, limits.max_flops),
        ]
        if limits.max_latency is not None:
            seconds = self._seconds(values, *self._least(values))
            figures.append(("seconds", seconds, limits.max_latency))
        received = ", ".join(
            f"{value:,} {name}" + (f" (limit {limit:,})" if limit is not None else "")
            for name, value, limit in figures
        )
        raise ValueError(f"No candidate keeps to the limits. The smallest has {received}: {values}")

    def smallest(self) -> Iterator[dict[str, Any]]:
        """Yield the candidates with the fewest units and channels, one per combination of choices.

        Costs rise with units and channels, so where none of these keeps to a limit nothing does.

        Yields:
            Values of a candidate that exists.

        Raises:
            ValueError: If no candidate's values fit one another.
        """
        values = self.hyperparameters().values
        values.update({name: min(units) for name, units in self._units.items()})
        refusals = []
        found = False
        for kind in itertools.product(*map(self._labels, self._kinds)):
            values.update(zip(self._kinds, kind, strict=True))
            for width in self._widths():
                values.update(width)
                try:
                    self._with(values, *self._least(values))
                except ValueError as refusal:
                    refusals.append(refusal)
                    continue
                found = True
                yield dict(values)
                break
        if not found:
            raise ValueError(
                f"No net of the search space exists. Of the first, {refusals[0]}"
            ) from refusals[0]

    def _widths(self) -> list[dict[str, Any]]:
        """Return every choice of sizes, from the smallest on."""
        if self.space.regnet:
            names = list(self.space.regnet)
            sizes = [
                dict(zip(names, each, strict=True))
                for each in itertools.product(*self.space.regnet.values())
            ]
            return sorted(sizes, key=lambda each: (each["depth"], each["slope"]))
        if self._widen:
            return [{"widen": factor} for factor in sorted(self._widen)]
        widths = sorted(itertools.product(*self._channels.values()), key=sum)
        return [dict(zip(self._channels, each, strict=True)) for each in widths]

    def _stage_options(self, prefix: str, options: Any) -> dict[str, tuple[int, ...]]:
        """Return the options of each stage, by hyperparameter."""
        stages = len(self.base.units)
        if not options:
            return {}
        if not isinstance(options[0], tuple):
            options = (options,) * stages
        if len(options) != stages:
            raise ValueError(
                f"`{prefix}` must have one list for each of the net's {stages} stages. "
                f"Received: {len(options)} lists"
            )
        return {f"{prefix}_stage{stage}": each for stage, each in enumerate(options, 2)}

    def _labels(self, name: str) -> list[Any]:
        """Return the values of the hyperparameter of a choice."""
        return list(self._words.get(name, self.space.choices[name]))

    def _choice(self, name: str, values: Values) -> Any:
        """Return the value of a field that a trial's word or number stands for."""
        return self._words[name][values[name]] if name in self._words else values[name]

    def _kind(self, values: Values) -> tuple[Any, ...]:
        """Return a key that nets share if they differ only in units and channels."""
        return tuple([values[name] for name in self._kinds])

    def _with(
        self, values: Values, units: tuple[int, ...], channels: tuple[int, ...]
    ) -> Architecture:
        """Return the architecture of a candidate's choices with some units and channels."""
        kinds = {name: self._choice(name, values) for name in self._kinds}
        return self.base.replace(units=units, channels=channels, **kinds)

    def _cost(
        self, values: Values, units: tuple[int, ...], channels: tuple[int, ...]
    ) -> analysis.Cost:
        kind = self._kind(values)
        if kind not in self._cost_tables:
            architecture = self._with(values, units, channels)
            self._cost_tables[kind] = analysis.CostTable(
                architecture, self._input_shape, self._classes
            )
        return self._cost_tables[kind].cost(units, channels)

    def _seconds(self, values: Values, units: tuple[int, ...], channels: tuple[int, ...]) -> float:
        kind = self._kind(values)
        if kind not in self._latency_tables:
            architecture = self._with(values, units, channels)
            self._latency_tables[kind] = analysis.LatencyTable(
                architecture,
                self._input_shape,
                self._classes,
                batch_size=self.constraints.latency_batch_size,
            )
        return self._latency_tables[kind].seconds(units, channels)

    def _share(self, values: Values, units: tuple[int, ...], channels: tuple[int, ...]) -> float:
        """Return the share of its budget that a candidate of this size would use."""
        cost = self._cost(values, units, channels)
        limits = self.constraints
        seconds = 0.0
        # Measured only where everything else holds: what it takes to count takes no time.
        if limits.max_latency and limits.share(cost.parameters, cost.flops, seconds) <= 1:
            seconds = self._seconds(values, units, channels)
        return limits.share(cost.parameters, cost.flops, seconds)

    def _size(self, values: Values) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return units and channels of each stage."""
        units, channels = self._proportions(values)
        if not self.constraints.fills:
            return units, tuple(max(1, round(each)) for each in channels)
        if CHANNELS in values:
            return units, tuple(map(int, values[CHANNELS].split("-")))
        key = (units, channels, *self._kind(values))
        if key not in self._sizes:
            filled = fill(channels, lambda wide: self._share_or_inf(values, units, wide))
            if filled is None:
                raise ValueError(f"No widths of these units fit the limits: {dict(values)}")
            self._sizes[key] = units, filled
        return self._sizes[key]

    def _share_or_inf(
        self, values: Values, units: tuple[int, ...], channels: tuple[int, ...]
    ) -> float:
        try:
            return self._share(values, units, channels)
        except analysis.UnknownLayerError:
            raise
        except ValueError:
            # There is no such net, for instance with these groups.
            return math.inf

    def _proportions(self, values: Values) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return units and channels of each stage, before rounding and without a budget."""
        units = tuple([values[name] for name in self._units]) or self.base.units
        own = tuple([values[name] for name in self._channels]) or self.base.channels
        channels: tuple[float, ...] = own
        if self.space.regnet:
            numbers = {name: values[name] for name in self.space.regnet if name in values}
            given = {"width": self.base.channels[0] * self._width_share({}), **numbers}
            units, channels = regnet_stages(**given, stages=len(self.base.units))
        if not (self._widen or self.space.regnet):
            return units, channels
        factor = values["widen"] * self._width_share({}) if self._widen else 1.0
        return units, tuple(each * factor / self._width_share(values) for each in channels)

    def _least(self, values: Values) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the smallest size that a candidate's values may stand for."""
        units, channels = self._proportions(values)
        if self.constraints.fills:
            channels = (self._least_width(values, units),) * len(channels)
        return units, tuple(max(1, round(each)) for each in channels)

    def _least_width(self, values: Values, units: tuple[int, ...]) -> int:
        """Return the smallest width that all stages may have."""
        widest = max(self.base.channels)
        for width in range(1, widest):
            try:
                self._with(values, units, (width,) * len(units))
            except ValueError:
                continue
            return width
        # Says, where it is used, why there is no such net.
        return widest

    def _width_share(self, values: Values) -> float:
        """Return the channels of a unit's 3x3 convolutions divided by its output channels."""
        unit, ratio = (
            self._choice(name, values) if name in values else getattr(self.base, name)
            for name in ("unit", "bottleneck_ratio")
        )
        return ratio if UNITS[unit].spatial else 1.0


def declare(hp: keras_tuner.HyperParameters, name: str, values: Any, default: Any) -> None:
    """Register a hyperparameter of a few values.

    Args:
        hp: Hyperparameters to add it to, unless it is there already.
        name: Its name.
        values: What it may be.
        default: Its default, where that is among the values; else it is the first.
    """
    hp.Choice(name, list(values), default=default if default in values else None)
