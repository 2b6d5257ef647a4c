"""SGD as the papers use it: weight decay is part of the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

import keras_preact
from keras_preact.loss_scaling import with_loss_scaling
from keras_preact.tensor import Tensor
from training.recipe import Recipe
from training.schedules import learning_rate_schedule


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

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        own = {"l2": self.l2, "penalized": self.penalized, "rate_factors": self.rate_factors}
        return {**super().get_config(), **own}


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
