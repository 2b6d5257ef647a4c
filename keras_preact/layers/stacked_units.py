"""Many identical units, run as one loop over stacked weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.layers.unit_numbers import UNIT_NUMBERS
from keras_preact.ops.choices import enabled
from keras_preact.ops.device import is_tensorflow_on_cpu
from keras_preact.ops.loop import loop
from keras_preact.ops.pure_call import pure_call
from keras_preact.tensor import Tensor

# Prefix of the names of a template's layers, in place of a unit's name.
TEMPLATE_PREFIX = "unit_"
# 2³² over the golden ratio: its multiples modulo 2³² lie far apart.
_FAR_APART = np.uint32(0x9E3779B1)
_CONSTANT = (keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant)


@keras.saving.register_keras_serializable(package="keras_preact")
class StackedUnits(keras.layers.Layer):
    """Identical residual units one after the other: one loop, whatever their number.

    Every variable of a unit is held once, with a leading axis of length n for the n units, and the
    units run in a loop whose body is traced once. So the graph does not grow with depth. Weights,
    batch statistics, dropout masks and drop path rates are each unit's own. Losses of activity
    regularizers are summed over the units. Optimizers that look at whole variables (`clipnorm`,
    Lamb, Adafactor, Muon) look at all units at once.

    `unit_layers` gives the layers of a unit, each for all units at once: frozen, it is frozen in
    all of them, and its `weights` hold those of all. A single unit cannot be frozen, nor its inside
    inspected, and no layer gets further variables, such as LoRA's matrices:
    `keras_preact.transforms.unroll` turns this layer into separate units.

    Args:
        template: One unit as a functional model on a map of unknown height and width, and on a
            scalar for each number in which the units differ, named as
            `keras_preact.layers.unit_numbers` says and in that order: `drop_path_rate`,
            `input_scale`. The names of its layers begin with `unit_`. It is neither trained nor
            saved: only its structure counts, and which of its layers are frozen.
        unit_names: Names of the units, such as `("stage2_unit2", "stage2_unit3")`.
        drop_path: Drop path rate of each unit; None where the template takes no rate.
        rematerialize: Recompute the inside of a unit in the backward pass instead of keeping it.
        input_scale: Factor of each unit's branch on its input; None where the template takes no
            such number.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If there are no units, `drop_path` or `input_scale` does not fit the template or
            the number of units, or a layer of the template has LoRA's matrices.
    """

    def __init__(
        self,
        template: keras.Model,
        unit_names: Sequence[str],
        drop_path: Sequence[float] | None = None,
        rematerialize: bool = False,
        input_scale: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.unit_names = tuple(unit_names)
        self.drop_path = None if drop_path is None else tuple(drop_path)
        self.input_scale = None if input_scale is None else tuple(input_scale)
        self.rematerialize = rematerialize
        self._unit = _Template(template, self.trainable)
        self._check()
        if self._unit.seeds:
            self.seed_generator = keras.random.SeedGenerator()
        self.supports_jit = not (is_tensorflow_on_cpu() and enabled("plain_loops"))

    def _check(self) -> None:
        if not self.unit_names:
            raise ValueError("`unit_names` must name at least one unit. Received: ()")
        for name, layer in self.unit_layers().items():
            if getattr(layer, "lora_enabled", False):
                raise ValueError(
                    "Layers of stacked units take no LoRA matrices; those of separate units do. "
                    f"Received: `{self.unit_names[0]}_{name}`, which has them"
                )
        inputs = [each.name for each in self._unit.model.inputs[1:]]
        for field, number in UNIT_NUMBERS.items():
            values = getattr(self, field)
            if (values is not None) != (number.input in inputs):
                raise ValueError(
                    f"`{field}` must be given if, and only if, the template takes a "
                    f"{number.option} as an input named {number.input!r}. "
                    f"Received: {field}={values}, template with the further inputs {inputs}"
                )
            if values is not None and len(values) != len(self.unit_names):
                raise ValueError(
                    f"`{field}` must have one {number.option} for each of the "
                    f"{len(self.unit_names)} units. Received: {len(values)} {number.option}s"
                )

    @property
    def _numbers(self) -> list[tuple[float, ...]]:
        """Return the units' own numbers, in the order of the template's inputs."""
        numbers = (getattr(self, field) for field in UNIT_NUMBERS)
        return [each for each in numbers if each is not None]

    @property
    def trainable(self) -> bool:
        """Whether the units train, but for layers of theirs that are frozen."""
        return super().trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        for layer in self.unit_layers().values():
            layer.trainable = value

    # A method, since Keras takes the variables of public attributes for the layer's own to save.
    def unit_model(self) -> keras.Model:
        """Return one unit as a model, for its structure. The weights are in `stacked`."""
        return self._unit.model

    def unit_layers(self) -> dict[str, keras.layers.Layer]:
        """Return the layers of a unit by their names in it, such as `"conv1"`.

        Each stands for those of all units: its `weights` are the stacked ones, and freezing it or
        changing an option of it, such as the rate of a dropout, does so in every unit.
        """
        return {
            layer.name.removeprefix(TEMPLATE_PREFIX): layer
            for layer in self._unit.model.layers
            if not isinstance(layer, keras.layers.InputLayer)
        }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the stacked variables."""
        self.stacked = [
            self.add_weight(
                shape=(len(self.unit_names), *variable.shape),
                initializer=_for_each_unit(_initializer(layer, variable)),
                dtype=variable.dtype,
                trainable=index not in self._unit.states,
                autocast=False,
                regularizer=_of_each_unit(variable.regularizer, ops.sum),
                constraint=_of_each_unit(variable.constraint),
                aggregation=variable.aggregation,
                name=f"{layer.name.removeprefix(TEMPLATE_PREFIX)}_{variable.name}",
            )
            for index, (layer, variable) in enumerate(self._unit.weights)
        ]
        self._unit.hold(self.stacked)

    def _check_variables(self) -> None:
        """Check that the layers of a unit have no variables that the units have not."""
        stacked = set(map(id, self.stacked))
        others = [each.path for each in self._unit.model.weights if id(each) not in stacked]
        if others:
            raise ValueError(
                f"Layers of the stacked units {self.name!r} must have the variables that they were "
                "built with. LoRA's matrices, for one, would belong to no unit: "
                "`keras_preact.transforms.unroll` the net before it gets them. "
                f"Received: {others}"
            )

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        self._check_variables()
        # Copies of what is updated: torch changes a variable in place, under a later recomputation.
        weights = [
            ops.convert_to_tensor(variable) if variable.trainable else ops.copy(variable)
            for variable in self.stacked
        ]
        numbers = [ops.convert_to_tensor(each, "float32") for each in self._numbers]
        seeds = self._seeds() if training else []
        states = self._unit.states if training and self.trainable else []

        def step(x: Tensor, slices: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            own, seed = (
                slices[len(weights) :][: len(numbers)],
                slices[len(weights) + len(numbers) :],
            )

            def unit(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
                return self._unit.call(x, own, weights, seed, states, training)

            if self.rematerialize and training:
                unit = keras.remat(unit)
            x, *collected = unit(x, *slices[: len(weights)])
            return x, collected

        losses = [ops.zeros((len(self.unit_names),))] if self._unit.is_regularized else []
        outputs, collected = loop(
            step,
            ops.cast(inputs, self.compute_dtype),
            [*weights, *numbers, *seeds],
            [*(weights[index] for index in states), *losses],
        )
        updates, losses = collected[: len(states)], collected[len(states) :]
        for index, value in zip(states, updates, strict=True):
            self.stacked[index].assign(value)
        self.add_loss([ops.sum(each) for each in losses])
        return outputs

    def _seeds(self) -> list[Any]:
        """Draw a seed per unit for each random layer of the template.

        Each step has a seed, the counter's next one, so that a layer may draw once in a call.
        """
        generators, units = len(self._unit.seeds), len(self.unit_names)
        if not generators:
            return []
        key, counter = ops.split(self.seed_generator.next(), 2)
        dtype = self.seed_generator.state.dtype
        numbers = ops.convert_to_tensor(_key_offsets(generators * units, dtype))
        seeds = ops.stack([key + numbers, ops.broadcast_to(counter, numbers.shape)], axis=-1)
        return ops.unstack(ops.reshape(seeds, (generators, units, 2)), axis=0)

    def save_own_variables(self, store: Any) -> None:
        """Store each stacked variable under the names of its layer and of itself, `conv1.0`."""
        for key, variable in zip(self._keys(), self.stacked, strict=True):
            store[key] = variable

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` stored.

        Raises:
            ValueError: If the store holds other variables.
        """
        expected, received = sorted(self._keys()), sorted(store.keys())
        if expected != received:
            raise ValueError(
                f"Layer {self.name!r} holds the variables {expected} of {len(self.unit_names)} "
                f"stacked units. Received: {received}. `keras_preact.transforms.stack` and "
                "`unroll` go from separate units to stacked ones and back."
            )
        for key, variable in zip(self._keys(), self.stacked, strict=True):
            variable.assign(store[key])

    def _keys(self) -> list[str]:
        layers = [layer.name.removeprefix(TEMPLATE_PREFIX) for layer, _ in self._unit.weights]
        return [f"{name}.{layers[:index].count(name)}" for index, name in enumerate(layers)]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        if self.built:
            self._check_variables()
        return {
            **super().get_config(),
            "template": keras.saving.serialize_keras_object(self._unit.model),
            "unit_names": list(self.unit_names),
            "drop_path": None if self.drop_path is None else list(self.drop_path),
            "rematerialize": self.rematerialize,
            "input_scale": None if self.input_scale is None else list(self.input_scale),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> StackedUnits:
        """Undo `get_config`."""
        template = keras.saving.deserialize_keras_object(config["template"])
        return cls(**{**config, "template": template})


class _Template:
    """Model of a template and its variables, out of sight of Keras's tracking."""

    def __init__(self, model: keras.Model, trainable: bool) -> None:
        self.model = model
        self.weights = [(layer, each) for layer in model.layers for each in layer.weights]
        known = {id(variable) for _, variable in self.weights}
        self.seeds = [variable for variable in model.variables if id(variable) not in known]
        # Each layer, also one inside another, and whether it trains.
        parts = model._flatten_layers(include_self=False)
        flags = {part: trainable and part.trainable for part in parts}
        self.is_regularized = any(part.activity_regularizer is not None for part in parts)
        _set_trainable(dict.fromkeys(flags, True))
        # The weights that a training step changes by itself: moving statistics.
        self.states = [index for index, (_, each) in enumerate(self.weights) if not each.trainable]
        _set_trainable(flags)

    def hold(self, stacked: Sequence[keras.Variable]) -> None:
        """Let the layers list stacked variables for their own, which lose their values."""
        by_own = {id(own): each for (_, own), each in zip(self.weights, stacked, strict=True)}
        for _, own in self.weights:
            by_own[id(own)].trainable = own.trainable
            own.assign(ops.full(own.shape, float("nan"), dtype=own.dtype))
        for part in self.model._flatten_layers(include_self=False):
            for variables in (part._trainable_variables, part._non_trainable_variables):
                variables[:] = [by_own.get(id(each), each) for each in variables]

    def call(
        self,
        x: Tensor,
        numbers: list[Tensor],
        weights: Sequence[Tensor],
        seeds: list[Tensor],
        states: list[int],
        training: bool,
    ) -> tuple[Tensor, ...]:
        """Return the unit's output, the new values of the weights that are states, and its loss.

        There is a loss, the sum of all, if a layer has an activity regularizer.

        Raises:
            ValueError: If other layers add losses.
        """
        variables = [variable for _, variable in self.weights]
        if seeds:
            variables += self.seeds
        outputs, values, losses = pure_call(
            self.model,
            variables,
            [*weights, *seeds],
            [x, *numbers] if numbers else x,
            training=training,
        )
        updates = [ops.stop_gradient(values[index]) for index in states]
        if self.is_regularized:
            return outputs, *updates, sum(ops.cast(each, "float32") for each in losses)
        if losses:
            raise ValueError(
                "Layers of stacked units may have an `activity_regularizer`, but no `add_loss`; "
                "those of separate units (`keras_preact.transforms.unroll`) may. "
                f"Received: {len(losses)} losses of the unit {self.model.name!r}"
            )
        return outputs, *updates


def _key_offsets(count: int, dtype: str) -> np.ndarray:
    """Return numbers to add to a key, so that each of `count` layers has a key of its own.

    Consecutive keys do: their draws are unrelated. On torch, Keras seeds a generator with the sum
    of key and counter, and a layer would draw in each step what the next one drew a step before.
    """
    if keras.backend.backend() != "torch":
        return np.arange(count, dtype=dtype)
    return (np.arange(count, dtype="uint32") * _FAR_APART).view(dtype)


def _set_trainable(flags: dict[keras.layers.Layer, bool]) -> None:
    # From the outermost in, for a layer sets those inside it.
    for layer, flag in flags.items():
        layer.trainable = flag


def _initializer(layer: keras.layers.Layer, variable: keras.Variable) -> Any:
    """Return the initializer of a layer's variable, which Keras names by convention."""
    return keras.initializers.get(getattr(layer, f"{variable.name}_initializer"))


def _for_each_unit(initializer: Any) -> Any:
    """Make an initializer of stacked variables that draws for every unit anew."""
    if isinstance(initializer, _CONSTANT):
        return initializer

    def initialize(shape: tuple[int, ...], dtype: Any = None) -> Tensor:
        units = shape[0]
        if isinstance(initializer, keras.initializers.VarianceScaling):
            # One draw for all units. It takes the leading axis for a part of the receptive field,
            # and divides the variance by its length.
            return initializer(shape, dtype) * math.sqrt(units)
        return ops.stack([initializer.clone()(shape[1:], dtype) for _ in range(units)])

    return initialize


def _of_each_unit(function: Any, joined: Callable[[Tensor], Tensor] = lambda values: values) -> Any:
    """Make a regularizer or constraint of stacked variables of one of a unit's variable."""
    if function is None:
        return None
    return lambda stacked: joined(ops.vectorized_map(function, stacked))
