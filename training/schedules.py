"""Learning-rate schedules of a recipe."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import (
    CosineDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
    PolynomialDecay,
)

from keras_preact.tensor import Tensor
from training.recipe import Recipe


@keras.saving.register_keras_serializable(package="training")
class Warmup(LearningRateSchedule):
    """A learning rate that first warms up, then follows another schedule.

    Args:
        schedule: The schedule from step `steps` on; it counts its own steps from there.
        steps: Length of the warm-up, in steps, 1 or more.
        initial_learning_rate: Learning rate at step 0.
        peak: Learning rate that the warm-up rises to linearly.
        hold: Hold the initial rate during the warm-up instead.
    """

    def __init__(
        self,
        schedule: LearningRateSchedule,
        steps: int,
        initial_learning_rate: float,
        peak: float,
        hold: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.steps = steps
        self.initial_learning_rate = initial_learning_rate
        self.peak = peak
        self.hold = hold

    def __call__(self, step: Tensor) -> Tensor:
        """Return the learning rate of a step, counted from 0."""
        step = ops.cast(step, "float32")
        warming = ops.cast(self.initial_learning_rate, "float32")
        if not self.hold:
            warming += (self.peak - warming) * step / self.steps
        after = self.schedule(ops.maximum(step - self.steps, 0.0))
        return ops.where(step < self.steps, warming, after)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "steps": self.steps,
            "initial_learning_rate": self.initial_learning_rate,
            "peak": self.peak,
            "hold": self.hold,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Warmup:
        """Restore a schedule from the result of `get_config`."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})


def learning_rate_schedule(recipe: Recipe, steps_per_epoch: int) -> LearningRateSchedule:
    """Build the learning rate of a run.

    Every rate of the recipe is multiplied by `recipe.learning_rate_scale`. `one_cycle` is the
    triangle of "Super-Convergence" (arXiv:1708.07120): the warm-up, then a straight line down.

    Args:
        recipe: The values of the run.
        steps_per_epoch: Steps of one epoch.

    Returns:
        A schedule over the steps of the whole run.
    """
    # At least one step follows, however short the run is.
    last_step = recipe.epochs * steps_per_epoch - 1
    warmup_steps = min(round(recipe.warmup_epochs * steps_per_epoch), last_step)
    schedule = _schedule_after_warmup(recipe, steps_per_epoch, warmup_steps)
    if warmup_steps == 0:
        return schedule
    initial = recipe.warmup_learning_rate * recipe.learning_rate_scale
    peak = recipe.learning_rate * recipe.learning_rate_scale
    return Warmup(schedule, warmup_steps, initial, peak, hold=recipe.warmup_constant)


def _schedule_after_warmup(
    recipe: Recipe, steps_per_epoch: int, warmup_steps: int
) -> LearningRateSchedule:
    peak = recipe.learning_rate * recipe.learning_rate_scale
    final = recipe.final_learning_rate * recipe.learning_rate_scale
    steps = recipe.epochs * steps_per_epoch - warmup_steps
    if recipe.schedule == "cosine":
        return CosineDecay(peak, steps, alpha=final / peak)
    if recipe.schedule == "one_cycle":
        return PolynomialDecay(peak, steps, end_learning_rate=final, power=1.0)
    if recipe.schedule == "step":
        changes = [round(epoch * steps_per_epoch) - warmup_steps for epoch in recipe.step_epochs]
        rates = [peak * recipe.step_factor**count for count in range(len(changes) + 1)]
        # Keras keeps the old rate at the boundary itself; here that step is the first of the new.
        return PiecewiseConstantDecay([float(change - 1) for change in changes], rates)
    return PolynomialDecay(peak, steps, end_learning_rate=peak)


def calmed(recipe: Recipe, rollbacks: int) -> Recipe:
    """Halve the learning rates of a recipe for each rollback, as in OPT (arXiv:2205.01068).

    Args:
        recipe: The recipe.
        rollbacks: How often the run went back.

    Returns:
        The recipe for what is left of the run.
    """
    rates = ("learning_rate", "warmup_learning_rate", "final_learning_rate")
    return recipe.replace(**{rate: getattr(recipe, rate) / 2**rollbacks for rate in rates})
