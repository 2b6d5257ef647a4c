"""`PreActHyperModel`: from the values of a trial to a recipe, an architecture and a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import keras_tuner

from keras_preact import analysis
from keras_preact.architecture import Architecture
from training.compiling import compile_for_training
from training.net import build_net, recipe_architecture
from training.recipe import Recipe
from training.search.space import OPTIMIZER, SearchSpace, are_numbers, label

# Choices that matter only in training: they change neither the cost nor which values fit together.
_FREE = ("drop_block", "drop_path", "dropout")

# Values of a trial by the hyperparameters' names; keys that KerasTuner adds are ignored.
Values = Mapping[str, Any]


class PreActHyperModel(keras_tuner.HyperModel):
    """The nets of a recipe that a search space holds.

    The hyperparameters are `units_stage2`, `units_stage3` and so on (stages count from 2, as in
    the layers' names), `channels_stage2` and so on or `widen`, the names of `space.choices`,
    `learning_rate` and `weight_decay`: those that the space lets vary.

    Args:
        recipe: Values that all trials share. The default of a hyperparameter is the recipe's
            value where that is among the space's, or the first.
        space: Values that vary.
        classes: Number of classes.
        steps_per_epoch: Steps of one epoch, which the learning rate's schedule counts; needed only
            where models are built.
        name: Name of the hypermodel.
        tunable: See `keras_tuner.HyperModel`.

    Raises:
        ValueError: If the space does not fit the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        space: SearchSpace,
        classes: int,
        steps_per_epoch: int | None = None,
        name: str = "preact_resnet",
        tunable: bool = True,
    ) -> None:
        super().__init__(name, tunable)
        self.base = recipe
        self.space = space
        self.classes = classes
        self.steps_per_epoch = steps_per_epoch
        self._architecture = recipe_architecture(recipe)
        self._units = self._stage_options("units", space.units)
        self._channels = self._stage_options("channels", space.channels)
        self._words = {
            name: {label(value): value for value in values}
            for name, values in space.choices.items()
            if not are_numbers(values)
        }
        self._check_none()
        self._kinds = [name for name in space.choices if name not in _FREE]
        self._widened: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self._cost_tables: dict[tuple[Any, ...], analysis.CostTable] = {}
        self._latency_tables: dict[tuple[Any, ...], analysis.LatencyTable] = {}

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Register every hyperparameter.

        Args:
            hp: Hyperparameters to add them to, unless they are there already.
        """
        for prefix, options in (("units", self._units), ("channels", self._channels)):
            defaults = getattr(self._architecture, prefix)
            for (name, values), default in zip(options.items(), defaults, strict=False):
                _declare(hp, name, values, default)
        if self.space.widen:
            _declare(hp, "widen", self.space.widen, 1.0)
        for name, values in self.space.choices.items():
            default = getattr(self._architecture, name)
            if name in self._words:
                values, default = list(map(label, values)), label(default)
            _declare(hp, name, values, default)
        for name in OPTIMIZER:
            if values := getattr(self.space, name):
                _declare(hp, name, values, getattr(self.base, name))

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Return all hyperparameters, with their defaults."""
        hp = keras_tuner.HyperParameters()
        self.declare_hyperparameters(hp)
        return hp

    def recipe(self, values: Values) -> Recipe:
        """Return the recipe of a trial, which `python -m training.train` reads from a file.

        Args:
            values: The hyperparameters.

        Returns:
            The base recipe with the trial's `model_options` and values of the optimizer.
        """
        fields = self._fields(values)
        options = {**self.base.model_options, **fields}
        for name, value in fields.items():
            if value is None:
                # The builder's own value, then: TOML has no null.
                del options[name]
        optimizer = {name: values[name] for name in OPTIMIZER if getattr(self.space, name)}
        return self.base.replace(model_options=options, **optimizer)

    def architecture(self, values: Values) -> Architecture:
        """Return the architecture of a trial.

        Args:
            values: The hyperparameters.

        Returns:
            That of `recipe(values)`.

        Raises:
            ValueError: If the values do not fit one another.
        """
        return recipe_architecture(self.recipe(values))

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build a trial's model.

        Args:
            hp: The hyperparameters.

        Returns:
            A compiled model from images to probabilities, to be trained with one-hot labels.

        Raises:
            ValueError: If `steps_per_epoch` was not given, or the values do not fit one another.
        """
        if self.steps_per_epoch is None:
            raise ValueError(
                "`steps_per_epoch` must be a number where models are built, since the learning "
                "rate follows a schedule. Received: None"
            )
        self.declare_hyperparameters(hp)
        recipe = self.recipe(hp.values)
        return compile_for_training(build_net(recipe, self.classes), recipe, self.steps_per_epoch)

    def cost(self, values: Values) -> analysis.Cost:
        """Return the cost of a trial's net per image, within microseconds and without building it.

        Args:
            values: The hyperparameters.

        Returns:
            The same as `keras_preact.analysis.model_cost` of the net.

        Raises:
            ValueError: If the values do not fit one another.
        """
        kind = self._kind(values)
        if kind not in self._cost_tables:
            self._cost_tables[kind] = analysis.CostTable(
                self.architecture(values), self._input_shape, self.classes
            )
        return self._cost_tables[kind].cost(*self._size(values))

    def seconds(self, values: Values, batch_size: int) -> float:
        """Return the seconds that a trial's net takes for a batch, from measurements of its parts.

        Args:
            values: The hyperparameters.
            batch_size: Images of the batch.

        Returns:
            The sum over the net's parts, in seconds.

        Raises:
            ValueError: If the values do not fit one another.
        """
        kind = (*self._kind(values), batch_size)
        if kind not in self._latency_tables:
            self._latency_tables[kind] = analysis.LatencyTable(
                self.architecture(values), self._input_shape, self.classes, batch_size=batch_size
            )
        return self._latency_tables[kind].seconds(*self._size(values))

    def smallest(self) -> Iterator[dict[str, Any]]:
        """Yield the candidates with the fewest units and channels, one per combination of choices.

        Costs rise with units and channels, so where none of these keeps to a limit nothing does.

        Yields:
            Values of a trial whose net exists.

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
                    self.architecture(values)
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
        """Yield every choice of channels, from the fewest on."""
        if self.space.widen:
            return [{"widen": factor} for factor in sorted(self.space.widen)]
        widths = sorted(itertools.product(*self._channels.values()), key=sum)
        return [dict(zip(self._channels, each, strict=True)) for each in widths]

    @property
    def _input_shape(self) -> tuple[int, int, int]:
        return self.base.input_size, self.base.input_size, self.base.channels

    def _stage_options(self, prefix: str, options: Any) -> dict[str, tuple[int, ...]]:
        """Return the options of each stage, by hyperparameter."""
        stages = len(self._architecture.units)
        if not options:
            return {}
        if not isinstance(options[0], tuple):
            options = (options,) * stages
        if len(options) != stages:
            raise ValueError(
                f"`{prefix}` must have one list for each of the recipe's {stages} stages. "
                f"Received: {len(options)} lists"
            )
        return {f"{prefix}_stage{stage}": each for stage, each in enumerate(options, 2)}

    def _check_none(self) -> None:
        builder = recipe_architecture(self.base.replace(model_options={}))
        for name, values in self.space.choices.items():
            own = getattr(builder, name)
            if None in values and own is not None:
                raise ValueError(
                    f"`choices.{name}` must not hold none: a recipe file cannot say that of a "
                    f"{self.base.model}, whose own value is {own!r}."
                )

    def _labels(self, name: str) -> list[Any]:
        """Return the values of the hyperparameter of a choice."""
        return list(self._words.get(name, self.space.choices[name]))

    def _choice(self, name: str, values: Values) -> Any:
        """Return the value of a field that a trial's word or number stands for."""
        return self._words[name][values[name]] if name in self._words else values[name]

    def _kind(self, values: Values) -> tuple[Any, ...]:
        """Return a key that nets share if they differ only in units and channels."""
        return tuple([values[name] for name in self._kinds])

    def _size(self, values: Values) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return units and channels of each stage."""
        units = tuple([values[name] for name in self._units]) or self._architecture.units
        if not self.space.widen:
            channels = tuple([values[name] for name in self._channels])
            return units, channels or self._architecture.channels
        key = values["widen"], *self._kind(values)
        if key not in self._widened:
            self._widened[key] = self._widen(values)
        return units, self._widened[key]

    def _widen(self, values: Values) -> tuple[int, ...]:
        factor = values["widen"] * self._width_share({}) / self._width_share(values)
        return tuple(max(1, round(each * factor)) for each in self._architecture.channels)

    def _width_share(self, values: Values) -> float:
        """Return the channels of a unit's 3x3 convolutions divided by its output channels."""
        unit, ratio = (
            self._choice(name, values) if name in values else getattr(self._architecture, name)
            for name in ("unit", "bottleneck_ratio")
        )
        return ratio if unit == "bottleneck" else 1.0

    def _fields(self, values: Values) -> dict[str, Any]:
        """Return the architecture fields that vary, as in the file of a recipe."""
        units, channels = self._size(values)
        fields = {name: self._choice(name, values) for name in self.space.choices}
        if self._units:
            fields["units"] = list(units)
        if self._channels or self.space.widen:
            fields["channels"] = list(channels)
        return fields


def _declare(hp: keras_tuner.HyperParameters, name: str, values: Any, default: Any) -> None:
    hp.Choice(name, list(values), default=default if default in values else None)
