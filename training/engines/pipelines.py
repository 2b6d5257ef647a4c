"""Batches of a run from pipelines of `tf.data`, which feed every backend."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from training.data import evaluation_pipeline, source_weights, training_pipeline
from training.engines.devices import Devices
from training.recipe import Recipe
from training.sources import ImageSource


class PipelineBatches:
    """Batches that TensorFlow reads, augments and shares out on the CPU.

    Args:
        source: The images.
        recipe: Says how they are augmented and batched.
        devices: Devices that share each batch.

    Raises:
        ValueError: If the recipe weighs classes, and images have several labels.
    """

    def __init__(self, source: ImageSource, recipe: Recipe, devices: Devices) -> None:
        self.images = source
        self._recipe = recipe
        self._devices = devices
        self.class_weights = source_weights(source, recipe)

    def model(self, net: keras.Model) -> keras.Model:
        """Return a model of the layers of a net."""
        return self._devices.model(net.inputs, net.outputs, name=net.name)

    def training(self, first_step: int) -> Any:
        """Return the training batches of all replicas, without end."""

        def make(context: tf.distribute.InputContext | None) -> tf.data.Dataset:
            return training_pipeline(
                self.images, self._recipe, first_step=first_step, context=context
            )

        return self._devices.share(make, self._recipe.batch_size)

    def testing(self) -> Any:
        """Return the batches of an evaluation, for all replicas."""

        def make(context: tf.distribute.InputContext | None) -> tf.data.Dataset:
            return evaluation_pipeline(self.images, self._recipe, context=context)

        return self._devices.share_test(make, self._recipe.micro_batch_size)

    def tested(self) -> tf.data.Dataset:
        """Return the test images and labels, in batches that no worker shares."""
        return evaluation_pipeline(self.images, self._recipe)
