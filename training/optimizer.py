"""SGD as the papers use it: weight decay is part of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

import keras_preact
from training.recipe import Recipe
from training.schedules import learning_rate_schedule


@keras.saving.register_keras_serializable(package="training")
class SGD(keras.optimizers.SGD):
    """Stochastic gradient descent with momentum and an L2 penalty, as in Torch.

    With the gradient `g` of the loss, weights `w`, velocity `v` and learning rate `r`:

        g = g + l2 * w
        v = momentum * v + g
        w = w - r * v                      (Nesterov: w = w - r * (g + momentum * v))

    The `weight_decay` of Keras's optimisers acts on the weights beside the momentum, which makes
    it weaker by a factor of about `1 - momentum`. Keras's velocity also contains the learning
    rate, so that a lower rate reaches the weights only after some steps.

    Args:
        learning_rate: A number or a schedule.
        momentum: Share of the velocity kept at each step, in [0, 1).
        nesterov: Whether to look ahead.
        l2: The penalty added to the gradient.
        penalized: Paths of the variables that the penalty applies to.
        **options: What else `keras.optimizers.SGD` takes.

    Raises:
        ValueError: If `weight_decay` is given as well.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        l2: float = 0.0,
        penalized: Iterable[str] = (),
        **options: Any,
    ) -> None:
        if options.get("weight_decay") is not None:
            raise ValueError(
                "The weight decay of this optimiser is `l2`; `weight_decay` would come on top. "
                f"Received: weight_decay={options['weight_decay']}"
            )
        super().__init__(learning_rate, momentum, nesterov, **options)
        self.l2 = l2
        self.penalized = list(penalized)

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the velocities.

        Args:
            variables: The trainable variables of the net.

        Raises:
            ValueError: If a path of `penalized` is not among them.
        """
        if self.built:
            return
        missing = set(self.penalized) - {variable.path for variable in variables}
        if missing:
            raise ValueError(
                "`penalized` must name variables that are trained. "
                f"Received paths that are not: {', '.join(sorted(missing))}"
            )
        super().build(variables)
        self._is_penalized = [variable.path in self.penalized for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change one variable, and its velocity.

        Args:
            gradient: Gradient of the loss, in the shape of the variable.
            variable: The variable.
            learning_rate: Scalar.
        """
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        if self._is_penalized[index]:
            gradient = gradient + self.l2 * variable
        step = gradient
        if self.momentum:
            velocity = self.momentums[index]
            self.assign(velocity, self.momentum * velocity + gradient)
            step = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, learning_rate * step)

    def get_config(self) -> dict[str, Any]:
        """The arguments, serialised."""
        return {**super().get_config(), "l2": self.l2, "penalized": self.penalized}


def build_optimizer(recipe: Recipe, model: keras.Model, steps_per_epoch: int) -> keras.Optimizer:
    """Build the optimiser of a run.

    Args:
        recipe: The values of the run.
        model: The net that is trained.
        steps_per_epoch: Steps of one epoch.

    Returns:
        The optimiser; weight decay applies to convolution and dense kernels only. In
        `mixed_float16` it scales the loss.
    """
    sgd = SGD(
        learning_rate_schedule(recipe, steps_per_epoch),
        recipe.momentum,
        recipe.nesterov,
        l2=recipe.weight_decay,
        penalized=[kernel.path for kernel in keras_preact.decayed_variables(model)],
        use_ema=recipe.ema_momentum > 0,
        ema_momentum=recipe.ema_momentum,
    )
    if recipe.dtype_policy == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(sgd)
    return sgd
