"""Compilation of a net for training: optimizer, loss and metrics of a recipe."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.tensor import Tensor
from training.engines.accumulation import AccumulatingModel, model_class
from training.optimizer import build_optimizer, unscaled
from training.recipe import Recipe
from training.task import LABELS, ONE_CLASS, Task

# Just above the smallest normal number of float32.
TINY = 1.2e-38


class _SmoothedLoss(keras.losses.Loss):
    """Loss that moves a share of each label."""

    def __init__(self, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.label_smoothing = label_smoothing

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="keras_preact")
class Crossentropy(_SmoothedLoss):
    """Cross-entropy of probabilities, with a gradient however confident a wrong answer is.

    `keras.losses.CategoricalCrossentropy` finds the logits behind a softmax on TensorFlow only;
    on other backends it clips the probabilities at 1e-7 and has no gradient below.

    Args:
        label_smoothing: Share of the label that is spread over all classes.
        **options: Further arguments of `keras.losses.Loss`.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each image; labels and probabilities are `(batch, classes)`."""
        share = self.label_smoothing / y_true.shape[-1]
        labels = (1 - self.label_smoothing) * y_true + share
        return -ops.sum(labels * ops.log(ops.maximum(y_pred, TINY)), axis=-1)


@keras.saving.register_keras_serializable(package="keras_preact")
class BinaryCrossentropy(_SmoothedLoss):
    """Mean over labels of the cross-entropy of each label's own probability.

    `keras.losses.BinaryCrossentropy` finds the logits behind a sigmoid on TensorFlow only; on other
    backends it clips the probabilities at 1e-7, so that a label of the least probability has no
    gradient.

    Args:
        label_smoothing: Share of each label that is moved to one half.
        **options: Further arguments of `keras.losses.Loss`.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each image; labels and probabilities are `(batch, labels)`."""
        labels = (1 - self.label_smoothing) * y_true + self.label_smoothing / 2
        there = labels * ops.log(ops.maximum(y_pred, TINY))
        absent = (1 - labels) * ops.log(ops.maximum(1 - y_pred, TINY))
        return -ops.mean(there + absent, axis=-1)


def binary_crossentropy(
    probabilities: np.ndarray, labels: np.ndarray, label_smoothing: float = 0.0
) -> float:
    """Return the mean of `BinaryCrossentropy` over images, in float64.

    Args:
        probabilities: `(images, labels)`.
        labels: `(images, labels)`, in 0..1.
        label_smoothing: Share of each label that is moved to one half.

    Returns:
        The mean loss; NaN where a probability is.
    """
    given = probabilities.astype("float64")
    labels = (1 - label_smoothing) * labels + label_smoothing / 2
    there, absent = (np.log(np.maximum(each, TINY)) for each in (given, 1 - given))
    return float(-np.mean(labels * there + (1 - labels) * absent))


def _loss(task: Task, label_smoothing: float) -> keras.losses.Loss:
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if task == LABELS:
        loss = keras.losses.BinaryCrossentropy if on_tensorflow else BinaryCrossentropy
    else:
        loss = keras.losses.CategoricalCrossentropy if on_tensorflow else Crossentropy
    return loss(label_smoothing=label_smoothing)


@keras.saving.register_keras_serializable(package="keras_preact")
def in_top5(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Tell of which images the class is among the five likeliest, as `training.evaluate` does.

    `keras.metrics.TopKCategoricalAccuracy` takes all classes as likely as the fifth for hits: all
    of those that a softmax rounds to zero.

    Args:
        y_true: Labels, `(batch, classes)`.
        y_pred: Probabilities, `(batch, classes)`.

    Returns:
        1 for a hit, else 0, `(batch,)`. Of classes that are equally likely the first comes first.
    """
    classes = y_pred.shape[-1]
    places = ops.arange(classes, dtype="int32")
    true = ops.expand_dims(ops.cast(ops.argmax(y_true, axis=-1), "int32"), axis=-1)
    score = ops.sum(ops.where(places == true, y_pred, 0.0), axis=-1, keepdims=True)
    # Nothing comes after NaN, nor NaN after anything.
    after = (y_pred < score) | ((y_pred == score) & (places > true))
    return ops.cast(ops.sum(ops.cast(after, "int32"), axis=-1) >= classes - 5, "float32")


def _metrics(task: Task, classes: int) -> list[keras.metrics.Metric]:
    """Return the metrics of `fit`. That of labels needs all scores: `LabelValidation` has it."""
    if task == LABELS:
        return []
    metrics = [keras.metrics.CategoricalAccuracy(name="top1")]
    if classes > 5:
        metrics.append(keras.metrics.MeanMetricWrapper(in_top5, name="top5"))
    return metrics


def trainable_model(net: keras.Model, recipe: Recipe) -> keras.Model:
    """Return a model of a net's layers that trains as a recipe says.

    Args:
        net: The net.
        recipe: The values of the run.

    Returns:
        A plain functional model, which loads without this package, where its own steps will do.
    """
    kind = model_class() if _needs_own_steps(recipe) else keras.Model
    return kind(net.inputs, net.outputs, name=net.name)


def _needs_own_steps(recipe: Recipe) -> bool:
    return recipe.gradient_accumulation_steps > 1 or recipe.ema_momentum > 0


def _check_steps(model: keras.Model, recipe: Recipe) -> None:
    """Refuse a model whose steps are not those of the recipe.

    Raises:
        ValueError: If the recipe needs an `AccumulatingModel`, and the model is another.
    """
    if _needs_own_steps(recipe) and not isinstance(model, AccumulatingModel):
        raise ValueError(
            "`gradient_accumulation_steps` and `ema_momentum` need a model of `trainable_model`. "
            f"Received: {recipe.gradient_accumulation_steps}, {recipe.ema_momentum} and a "
            f"{type(model).__name__}"
        )


def compile_for_training(
    net: keras.Model,
    recipe: Recipe,
    steps: int,
    model: keras.Model | None = None,
    task: Task = ONE_CLASS,
) -> keras.Model:
    """Make the model that is trained: the same layers and weights, with optimizer and loss.

    The net itself stays uncompiled, so that what is saved of it needs nothing of this package.

    Args:
        net: The net, from `prepare_net`.
        recipe: The values of the run.
        steps: Steps of one epoch.
        model: A model that feeds the net and is trained in its place; by default a
            `trainable_model`.
        task: What the net is trained to tell.

    Returns:
        The compiled model, whose optimizer is built.

    Raises:
        ValueError: If the model cannot do the steps of the recipe.
    """
    trained = model or trainable_model(net, recipe)
    _check_steps(trained, recipe)
    optimizer = build_optimizer(recipe, net, steps)
    if isinstance(trained, AccumulatingModel):
        trained.gradient_accumulation_steps = recipe.gradient_accumulation_steps
        if recipe.ema_momentum:
            unscaled(optimizer).average_statistics(net)
    trained.compile(
        optimizer=optimizer,
        loss=_loss(task, recipe.label_smoothing),
        metrics=_metrics(task, net.output_shape[-1]),
        # JAX has no graphs but those of XLA.
        jit_compile=recipe.jit_compile or keras.backend.backend() == "jax",
        auto_scale_loss=False,
    )
    optimizer.build(trained.trainable_variables)
    return trained
