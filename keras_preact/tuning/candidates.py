"""`Candidates`: the nets of a search space, with their costs, none of them built."""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras_tuner

from keras_preact import analysis
from keras_preact.architecture import RULES, Architecture
from keras_preact.blocks.units import UNITS
from keras_preact.dense import dense_channels
from keras_preact.spec.rules import of_word
from keras_preact.tuning.budget import fill
from keras_preact.tuning.constraints import Constraints
from keras_preact.tuning.regnet import regnet_stages
from keras_preact.tuning.space import OPTIMIZER, SearchSpace, are_numbers, label

# Choices that matter only in training: they change neither the cost nor which values fit together.
_FREE = ("drop_block", "drop_path", "dropout")
# Value that oracles record with a trial: the channels of its stages, as in "16-32-64", for people
# to read. They follow from the other values, and only a latency measured anew gives others. Where
# it is limited, a digest of the values that they belong to follows, and what was recorded counts.
CHANNELS = "channels"
# Combinations of sizes that are looked at for the smallest nets, where the first does not exist.
_COMBINATIONS = 20_000

# Values of a trial by the hyperparameters' names; keys that KerasTuner adds are ignored.
Values = Mapping[str, Any]
# Units and channels of each stage.
Size = tuple[tuple[int, ...], tuple[int, ...]]


class Candidates:
    """The nets that a search space holds, within limits.

    The hyperparameters are `units_stage2`, `units_stage3` and so on (stages count from 2, as in
    the layers' names), `channels_stage2` and so on or `widen`, those of `space.regnet` and the
    names of `space.choices`: those that the space lets vary.

    Args:
        architecture: Fields that all nets share. The default of a hyperparameter is its value where
            that is among the space's, or the first; see `check`, too.
        space: Fields that vary.
        input_shape: Shape of an image, as builders take it.
        classes: Number of classes.
        constraints: Limits on the nets; none by default.
        **options: Arguments of the builder that the costs depend on; see
            `keras_preact.analysis.CostTable`.

    Raises:
        ValueError: If the space does not fit the architecture, or nothing of it is left to vary.
    """

    def __init__(
        self,
        architecture: Architecture,
        space: SearchSpace,
        input_shape: Sequence[int] | None,
        classes: int,
        constraints: Constraints | None = None,
        **options: Any,
    ) -> None:
        self.base = architecture
        self.space = space
        self.constraints = constraints or Constraints()
        self._input_shape = input_shape
        self._classes = classes
        self._options = options
        # Says what is wrong with the shape.
        analysis.CostTable(architecture, input_shape, classes, **options)
        self._units = self._stage_options("units", space.units)
        self._channels = self._stage_options("channels", space.channels)
        self._widen = () if self.constraints.fills else space.widen
        self._regnet = {
            name: values
            for name, values in space.regnet.items()
            if name != "width" or not self.constraints.fills
        }
        self._words = {
            name: {label(value): value for value in values}
            for name, values in space.choices.items()
            if not are_numbers(values)
        }
        self._kinds = [name for name in space.choices if name not in _FREE]
        if self.constraints.fills:
            self._check_what_is_left()
        # Values of a candidate that holds, where the architecture's own do not.
        self._defaults: dict[str, Any] = {}
        # None where no widths fit the limits.
        self._filled: dict[tuple[Any, ...], tuple[int, ...] | None] = {}
        self._existing: dict[tuple[Any, ...], bool] = {}
        self._cost_tables: dict[tuple[Any, ...], analysis.CostTable] = {}
        self._latency_tables: dict[tuple[Any, ...], analysis.LatencyTable] = {}

    def _check_what_is_left(self) -> None:
        """Check what varies where widths follow from a limit."""
        left_out = ["widen"] * bool(self.space.widen)
        left_out += ["regnet.width"] * ("width" in self.space.regnet)
        varying = [values for _, values, _ in self._declared()]
        varying += [getattr(self.space, name) for name in OPTIMIZER]
        if left_out and not any(len(values) > 1 for values in varying):
            raise ValueError(
                f"Widths follow from the limit, so `{left_out[0]}` is left out, and nothing else "
                "of the space varies: every trial would be one net. Let something else vary, or "
                "pass `fill=False` to `Constraints`."
            )
        kinds = self.space.choices.get("unit", (self.base.unit,))
        dense = [unit for unit in kinds if UNITS[unit].concatenates]
        if dense and (self._channels or self._regnet):
            raise ValueError(
                f"`channels` and `regnet` are no proportions of dense units ({dense[0]!r}), whose "
                "widths follow from the limit by their growth. Let `units` vary, or pass "
                "`fill=False` to `Constraints`."
            )

    def declare(self, hp: keras_tuner.HyperParameters) -> None:
        """Register every hyperparameter of the nets.

        Args:
            hp: Hyperparameters to add them to, unless they are there already.
        """
        for name, values, default in self._declared():
            declare(hp, name, values, self._defaults.get(name, default))

    def _declared(self) -> Iterator[tuple[str, Sequence[Any], Any]]:
        """Yield the name, the values and the architecture's own value of each hyperparameter."""
        for prefix, options in (("units", self._units), ("channels", self._channels)):
            yield from zip(options, options.values(), getattr(self.base, prefix), strict=False)
        if self._widen:
            yield "widen", self._widen, 1.0
        for name, values in self._regnet.items():
            yield name, values, None
        for name, values in self.space.choices.items():
            default = getattr(self.base, name)
            if name in self._words:
                yield name, list(map(label, values)), label(default)
            else:
                yield name, values, default

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Return all hyperparameters of the nets, with their defaults."""
        hp = keras_tuner.HyperParameters()
        self.declare(hp)
        return hp

    def description(self) -> dict[str, Any]:
        """Return what, beside the hyperparameters, decides which net a trial's values stand for."""
        net = {
            each.name: getattr(self.base, each.name)
            for each in dataclasses.fields(self.base)
            if getattr(self.base, each.name) != each.default
        }
        limits = dataclasses.asdict(self.constraints) if self.constraints.limited else {}
        if not self._is_timed:
            limits.pop("latency_batch_size", None)
        return {**net, "input_shape": self._input_shape, "classes": self._classes, **limits}

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
        """Return a candidate's values with the widths that follow from them and the limits.

        Args:
            values: The hyperparameters.

        Returns:
            The values with `channels`, to be recorded with a trial. With a limit on latency the
            widths count from then on, whatever is measured in another process, and are not measured
            again. They count for these values only.

        Raises:
            ValueError: If the values do not fit one another, or nothing of them fits the budget.
        """
        if not (self.constraints.fills or self._is_timed):
            return dict(values)
        _, channels = self._size(values)
        recorded = "-".join(map(str, channels))
        if self._is_timed:
            recorded = f"{recorded}@{self._digest(values)}"
        return {**values, CHANNELS: recorded}

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
            self.check_limits(values)
        except analysis.UnknownLayerError:
            raise
        except ValueError:
            return False
        return True

    def check_limits(self, values: Values) -> None:
        """Check that a candidate exists and keeps to the limits.

        Args:
            values: The hyperparameters. A latency that was found short enough when they were
                recorded is not measured again; see `completed`.

        Raises:
            ValueError: If the values do not fit one another, or their net is beyond a limit.
        """
        timed = self._recorded(values) is None
        share = self._share(values, *self._size(values), timed=timed)
        if share > 1:
            raise ValueError(
                f"This net uses {share:.2f} times what the limits allow: {dict(values)}"
            )

    def check(self) -> None:
        """Check that something in the space can hold.

        Where the default candidate does not, the smallest that does is the default from then on:
        tuners of KerasTuner's begin by building it.

        Raises:
            ValueError: If even the smallest candidates are beyond a limit, or no values fit one
                another.
        """
        if self.holds(self.hyperparameters().values):
            return
        refused = []
        for values in self.smallest():
            if self.holds(values):
                self._defaults = values
                return
            refused.append(values)
        raise ValueError(self._refusal(refused))

    def _refusal(self, smallest: list[dict[str, Any]]) -> str:
        """Say why none of the smallest candidates holds."""
        within = [each for each in smallest if self._share(each, *self._least(each)) <= 1]
        if within:
            return (
                "No candidate fills the limits: there are smaller nets, but none at about its "
                f"proportions. Pass `fill=False` to `Constraints`. Of the first: {within[0]}"
            )
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
        return f"No candidate keeps to the limits. The smallest has {received}: {values}"

    def smallest(self) -> Iterator[dict[str, Any]]:
        """Yield the candidates below which there are none, of each combination of choices.

        Costs rise with units and channels, so where none of these keeps to a limit nothing does.

        Yields:
            Values of a candidate that exists. It has fewer units or channels in some stage than
            each candidate of the same choices before it.

        Raises:
            ValueError: If no candidate's values fit one another.
        """
        values = self.hyperparameters().values
        refusal = None
        found = False
        for kind in itertools.product(*map(self._labels, self._kinds)):
            values.update(zip(self._kinds, kind, strict=True))
            passed: list[Size] = []
            for place, sizes in enumerate(self._from_smallest()):
                values.update(sizes)
                try:
                    size = self._least(values)
                    if any(_is_within(each, size) for each in passed):
                        continue
                    self._with(values, *size)
                except ValueError as error:
                    refusal = refusal or error
                    continue
                found = True
                yield dict(values)
                if place == 0 and not self._regnet:
                    # All others have more of everything.
                    break
                passed.append(size)
        if not found:
            raise ValueError(f"No net of the search space exists. Of the first, {refusal}")

    def _from_smallest(self) -> Iterator[dict[str, Any]]:
        """Yield choices of sizes in an order in which none follows a larger one."""
        options = {**self._units, **self._channels, **self._regnet}
        if self._widen:
            options["widen"] = self._widen
        combinations = itertools.product(*map(sorted, options.values()))
        for sizes in itertools.islice(combinations, _COMBINATIONS):
            yield dict(zip(options, sizes, strict=True))

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
        value = values[name]
        if name not in self._words:
            return value
        if value in self._words[name]:
            return self._words[name][value]
        # KerasTuner's users override a space by any value of the field.
        return RULES[name].check(name, of_word(value, RULES[name]))

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
                architecture, self._input_shape, self._classes, **self._options
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
                **self._options,
            )
        return self._latency_tables[kind].seconds(units, channels)

    def _share(
        self,
        values: Values,
        units: tuple[int, ...],
        channels: tuple[int, ...],
        timed: bool = True,
    ) -> float:
        """Return the share of its budget that a candidate of this size would use."""
        cost = self._cost(values, units, channels)
        share = self.constraints.share(cost.parameters, cost.flops, 0.0)
        # Measured only where everything else holds: what it takes to count takes no time.
        if not (timed and self._is_timed and share <= 1):
            return share
        seconds = self._seconds(values, units, channels)
        return self.constraints.share(cost.parameters, cost.flops, seconds)

    def _size(self, values: Values) -> Size:
        """Return units and channels of each stage."""
        units, channels = self._proportions(values)
        if not self.constraints.fills:
            return units, tuple(max(1, round(each)) for each in channels)
        return units, self._recorded(values) or self._widths(values, units, channels)

    def _widths(
        self, values: Values, units: tuple[int, ...], proportions: tuple[float, ...]
    ) -> tuple[int, ...]:
        """Return the channels of each stage that fill the budget."""
        key = self._key(values)
        if key not in self._filled:

            def share(widths: tuple[int, ...]) -> float:
                return self._share_or_inf(values, units, self._wide(values, units, widths))

            filled = fill(proportions, share, lambda width: self._exists(values, units, width))
            self._filled[key] = None if filled is None else self._wide(values, units, filled)
        channels = self._filled[key]
        if channels is None:
            raise ValueError(f"No widths of these units fit the limits: {dict(values)}")
        return channels

    def _wide(
        self, values: Values, units: tuple[int, ...], widths: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Return the channels of stages of some widths. Dense stages are as wide as they grow."""
        if not self._is_dense(values):
            return widths
        compression = self._field("compression", values)
        return dense_channels(units, widths, self._field("stem_channels", values), compression)

    def _exists(self, values: Values, units: tuple[int, ...], width: int) -> bool:
        """Return whether there is a net whose stages all have a width."""
        key = (width, units, *self._kind(values))
        if key not in self._existing:
            try:
                self._with(values, units, self._wide(values, units, (width,) * len(units)))
                self._existing[key] = True
            except ValueError:
                self._existing[key] = False
        return self._existing[key]

    @property
    def _is_timed(self) -> bool:
        """Whether a limit is measured, so that it may be kept to in one process but not another."""
        return self.constraints.max_latency is not None

    def _recorded(self, values: Values) -> tuple[int, ...] | None:
        """Return the measured widths that were recorded with just these values; see `completed`."""
        if not self._is_timed:
            return None
        channels, _, digest = values.get(CHANNELS, "").partition("@")
        return tuple(map(int, channels.split("-"))) if digest == self._digest(values) else None

    def _digest(self, values: Values) -> str:
        return f"{zlib.crc32(repr(self._key(values)).encode()):08x}"

    def _key(self, values: Values) -> tuple[Any, ...]:
        """Return a key that candidates share if their nets have the same cost."""
        return *self._proportions(values), *self._kind(values)

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
        """Return units and channels of each stage, before rounding and without a budget.

        Where dense units fill a budget, all stages grow alike.
        """
        units = tuple([values[name] for name in self._units]) or self.base.units
        own = tuple([values[name] for name in self._channels]) or self.base.channels
        channels: tuple[float, ...] = own
        if self._regnet:
            numbers = {name: values[name] for name in self._regnet}
            given = {"width": self.base.channels[0], **numbers}
            units, channels = regnet_stages(**given, stages=len(self.base.units))
        if self.constraints.fills and self._is_dense(values):
            return units, (1.0,) * len(units)
        if not (self._widen or self._regnet):
            return units, channels
        # Units of all kinds have 3x3 convolutions of one width, that of the net's own kind.
        factor = (values["widen"] if self._widen else 1.0) * self._width_share({})
        return units, tuple(each * factor / self._width_share(values) for each in channels)

    def _least(self, values: Values) -> Size:
        """Return the smallest size that a candidate's values may stand for."""
        if not self.constraints.fills:
            return self._size(values)
        units, _ = self._proportions(values)
        # The widest says, where it is used, why there is no such net.
        widest = max(self.base.channels)
        narrow = (each for each in range(1, widest) if self._exists(values, units, each))
        width = next(narrow, widest)
        return units, self._wide(values, units, (width,) * len(units))

    def _width_share(self, values: Values) -> float:
        """Return the channels of a unit's 3x3 convolutions divided by its output channels."""
        spatial = UNITS[self._field("unit", values)].spatial
        return self._field("bottleneck_ratio", values) if spatial else 1.0

    def _is_dense(self, values: Values) -> bool:
        return UNITS[self._field("unit", values)].concatenates

    def _field(self, name: str, values: Values) -> Any:
        """Return the value that a field has in a candidate."""
        return self._choice(name, values) if name in values else getattr(self.base, name)


def _is_within(size: Size, other: Size) -> bool:
    """Return whether a net has at most the units and the channels of another in every stage."""
    return all(
        each <= limit
        for own, others in zip(size, other, strict=True)
        for each, limit in zip(own, others, strict=True)
    )


def declare(hp: keras_tuner.HyperParameters, name: str, values: Any, default: Any) -> None:
    """Register a hyperparameter of a few values.

    Args:
        hp: Hyperparameters to add it to, unless it is there already.
        name: Its name.
        values: What it may be.
        default: Its default, where that is among the values; else it is the first.
    """
    hp.Choice(name, list(values), default=default if default in values else None)
