"""SGD as the papers use it: weight decay is part of the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

import keras_preact
from keras_preact.loss_scaling import with_loss_scaling
from keras_preact.tensor import Tensor
from training.recipe import Recipe
from training.schedules import learning_rate_schedule


@dataclass(frozen=True)
class _Statistics:
    """Moving statistics and their averages; Keras would count a list of them as its own."""

    variables: list[keras.Variable] = field(default_factory=list)
    averages: list[keras.Variable] = field(default_factory=list)


@keras.saving.register_keras_serializable(package="training")
class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent with momentum and an L2 penalty, as in Torch.

    With the gradient `g` of the loss, weights `w`, velocity `v` and learning rate `r`:

        g = g + l2 * w
        v = momentum * v + g
        w = w - f * r * v                  (Nesterov: w = w - f * r * (g + momentum * v))

    The factor `f` is 1 but for the variables named in `rate_factors`.

    The `weight_decay` of Keras's optimizers acts on the weights beside the momentum, which makes
    it weaker by a factor of about `1 - momentum`. Keras's velocity also contains the learning
    rate, so that a lower rate reaches the weights only after some steps.

    With `use_ema`, the moving average begins with the weights after the first update. Its momentum
    at the update `n` after that, from 0, is `min(ema_momentum, (1 + n) / (10 + n))`, as of
    `tf.train.ExponentialMovingAverage` with `num_updates`: the first weights are soon forgotten,
    however short a run is.

    Args:
        learning_rate: A number or a schedule.
        momentum: Share of the velocity kept at each step, in [0, 1).
        nesterov: Whether to look ahead.
        l2: The penalty added to the gradient.
        penalized: Paths of the variables that the penalty applies to.
        rate_factors: By path of a variable, what its learning rate is multiplied by.
        **options: Further arguments of `keras.optimizers.SGD`.

    Raises:
        ValueError: If `weight_decay` is given as well, or a factor is negative.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        l2: float = 0.0,
        penalized: Iterable[str] = (),
        rate_factors: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        if options.get("weight_decay") is not None:
            raise ValueError(
                "The weight decay of this optimizer is `l2`; `weight_decay` would come on top. "
                f"Received: weight_decay={options['weight_decay']}"
            )
        super().__init__(learning_rate, momentum, nesterov, **options)
        self.l2 = l2
        self.penalized = list(penalized)
        self.rate_factors = dict(rate_factors or {})
        negative = {path: each for path, each in self.rate_factors.items() if not each >= 0}
        if negative:
            raise ValueError(f"`rate_factors` must be 0 or more. Received: {negative}")
        self._statistics = _Statistics()

    def average_statistics(self, model: keras.Model) -> None:
        """Average moving statistics as the weights are, to be evaluated with their average.

        Args:
            model: Its `moving_statistics` are averaged. It calls `update_statistics` after a step.
                The optimizer is not built yet.
        """
        self._statistics = _Statistics(moving_statistics(model))

    @property
    def averaged_statistics(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """The moving statistics of `average_statistics`, each with its average."""
        return list(zip(self._statistics.variables, self._statistics.averages, strict=True))

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the velocities.

        Args:
            variables: The trainable variables of the net.

        Raises:
            ValueError: If a path of `penalized` or `rate_factors` is not among them.
        """
        if self.built:
            return
        paths = [variable.path for variable in variables]
        for name in ("penalized", "rate_factors"):
            missing = set(getattr(self, name)) - set(paths)
            if missing:
                raise ValueError(
                    f"`{name}` must name variables that are trained. "
                    f"Received paths that are not: {', '.join(sorted(missing))}"
                )
        super().build(variables)
        self._is_penalized = [path in self.penalized for path in paths]
        self._rate_factors = [self.rate_factors.get(path, 1.0) for path in paths]
        # Last, so that checkpoints from before they were there have the same names.
        self._statistics.averages.extend(
            self.add_optimizer_variables(self._statistics.variables, "average")
        )

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Change one variable, and its velocity.

        Args:
            gradient: Gradient of the loss, in the shape of the variable.
            variable: The variable.
            learning_rate: Scalar.
        """
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype) * self._rate_factors[index]
        if self._is_penalized[index]:
            gradient = gradient + self.l2 * variable
        step = gradient
        if self.momentum:
            velocity = self.momentums[index]
            self.assign(velocity, self.momentum * velocity + gradient)
            step = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * step)

    def update_statistics(self) -> None:
        """Move the averages of the moving statistics, after a step."""
        # A loss scale may have skipped the first updates.
        updates = ops.maximum(self.iterations - 1, 0)
        self._average(self._statistics.variables, self._statistics.averages, updates)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Give the weights and the moving statistics the values of their averages."""
        super().finalize_variable_values(var_list)
        for statistic, average in self.averaged_statistics:
            statistic.assign(average)

    def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
        """Move the averages of the weights, in the place of Keras's constant momentum."""
        if self.use_ema:
            averages = self._model_variables_moving_average
            self._average(trainable_variables, averages, self.iterations)

    def _average(self, variables: Sequence[Any], averages: Sequence[Any], updates: Tensor) -> None:
        """Move averages towards the values of variables, after so many earlier updates."""
        warm_up = 9 / (9 + ops.cast(updates, "float32"))
        share = ops.maximum(warm_up, 1 - self.ema_momentum)
        for variable, average in zip(variables, averages, strict=True):
            # In this form the average of what stays, such as frozen weights, is bit for bit that.
            average.assign(average + ops.cast(share, variable.dtype) * (variable - average))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        own = {"l2": self.l2, "penalized": self.penalized, "rate_factors": self.rate_factors}
        return {**super().get_config(), **own}


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """Return the floating variables of a model that are not trained: no counters, no seeds."""
    return [each for each in model.non_trainable_variables if "float" in each.dtype]


def averaged_statistics(
    optimizer: keras.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return the moving statistics that an optimizer averages, each with its average.

    Args:
        optimizer: Any optimizer, also within a loss scale. One of Keras averages none.
    """
    return getattr(unscaled(optimizer), "averaged_statistics", [])


def unscaled(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Return the optimizer within a loss scale, or the one that has none."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def layer_decay_factors(model: keras.Model, decay: float) -> dict[str, float]:
    """Return the factors of layer-wise learning-rate decay, as in BEiT (arXiv:2106.08254).

    Args:
        model: A net of keras_preact.
        decay: Factor between the rates of a stage and the next.

    Returns:
        By path of each trainable variable, `decay ** n` for one that lies n stages below the head;
        empty if `decay` is 1.
    """
    if decay == 1.0:
        return {}
    depths = keras_preact.layer_depths(model)
    deepest = max(depths.values())
    return {path: decay ** (deepest - depth) for path, depth in depths.items()}


def build_optimizer(recipe: Recipe, model: keras.Model, steps_per_epoch: int) -> keras.Optimizer:
    """Build the optimizer of a run.

    Args:
        recipe: The values of the run.
        model: The net that is trained.
        steps_per_epoch: Steps of one epoch.

    Returns:
        The optimizer; weight decay applies to convolution and dense kernels only. It scales the
        loss of a net that computes in float16.
    """
    sgd = SGD(
        learning_rate_schedule(recipe, steps_per_epoch),
        recipe.momentum,
        recipe.nesterov,
        l2=recipe.weight_decay,
        penalized=[kernel.path for kernel in keras_preact.decayed_variables(model)],
        rate_factors=layer_decay_factors(model, recipe.layer_decay),
        use_ema=recipe.ema_momentum > 0,
        ema_momentum=recipe.ema_momentum,
    )
    return with_loss_scaling(sgd, model)
