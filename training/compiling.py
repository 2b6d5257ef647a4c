"""Compilation of a net for training: optimizer, loss and metrics of a recipe."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor
from training.optimizer import build_optimizer
from training.recipe import Recipe

# Just above the smallest normal number of float32.
TINY = 1.2e-38


class Crossentropy(keras.losses.Loss):
    """Cross-entropy of probabilities, with a gradient however confident a wrong answer is.

    `keras.losses.CategoricalCrossentropy` finds the logits behind a softmax on TensorFlow only;
    on other backends it clips the probabilities at 1e-7 and has no gradient below.

    Args:
        label_smoothing: Share of the label that is spread over all classes.
        **options: Further arguments of `keras.losses.Loss`.
    """

    def __init__(self, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss of each image; labels and probabilities are `(batch, classes)`."""
        share = self.label_smoothing / y_true.shape[-1]
        labels = (1 - self.label_smoothing) * y_true + share
        return -ops.sum(labels * ops.log(ops.maximum(y_pred, TINY)), axis=-1)


def compile_for_training(
    net: keras.Model, recipe: Recipe, steps: int, model: keras.Model | None = None
) -> keras.Model:
    """Make the model that is trained: the same layers and weights, with optimizer and loss.

    The net itself stays uncompiled, so that what is saved of it needs nothing of this package.

    Args:
        net: The net, from `prepare_net`.
        recipe: The values of the run.
        steps: Steps of one epoch.
        model: A model that feeds the net and is trained in its place.

    Returns:
        The compiled model, whose optimizer is built.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    loss = keras.losses.CategoricalCrossentropy if on_tensorflow else Crossentropy
    metrics = [keras.metrics.CategoricalAccuracy(name="top1")]
    if net.output_shape[-1] > 5:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(k=5, name="top5"))
    optimizer = build_optimizer(recipe, net, steps)
    trained = model or keras.Model(net.inputs, net.outputs, name=net.name)
    trained.compile(
        optimizer=optimizer,
        loss=loss(label_smoothing=recipe.label_smoothing),
        metrics=metrics,
        # JAX has no graphs but those of XLA.
        jit_compile=recipe.jit_compile or keras.backend.backend() == "jax",
        auto_scale_loss=False,
    )
    optimizer.build(trained.trainable_variables)
    return trained
