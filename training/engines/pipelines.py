"""Batches of a run from pipelines of `tf.data`, which feed every backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.data import evaluation_pipeline, training_pipeline
from training.engines.devices import Devices
from training.recipe import Recipe
from training.sources import ImageSource


class PipelineBatches:
    """Batches that TensorFlow reads, augments and shares out on the CPU.

    Args:
        source: The images.
        recipe: Says how they are augmented and batched.
        devices: Devices that share each batch.
        class_weights: Weight of the loss per class; None weighs all alike.
    """

    def __init__(
        self,
        source: ImageSource,
        recipe: Recipe,
        devices: Devices,
        class_weights: np.ndarray | None = None,
    ) -> None:
        self.images = source
        self._recipe = recipe
        self._devices = devices
        self.class_weights = class_weights

    def model(self, net: keras.Model) -> keras.Model:
        """Return a model of the layers of a net."""
        return self._devices.model(net.inputs, net.outputs, name=net.name)

    def training(self, first_step: int) -> Any:
        """Return the training batches of all replicas, without end."""

        def make(context: tf.distribute.InputContext | None) -> tf.data.Dataset:
            batches = training_pipeline(
                self.images, self._recipe, first_step=first_step, context=context
            )
            return batches if self.class_weights is None else batches.map(self._weighed)

        return self._devices.share(make, self._recipe.batch_size)

    def testing(self) -> Any:
        """Return the batches of an evaluation, for all replicas."""

        def make(context: tf.distribute.InputContext | None) -> tf.data.Dataset:
            return evaluation_pipeline(self.images, self._recipe, context=context)

        return self._devices.share_test(make, self._recipe.micro_batch_size)

    def tested(self) -> tf.data.Dataset:
        """Return the test images and labels, in batches that no worker shares."""
        return evaluation_pipeline(self.images, self._recipe)

    def _weighed(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Give each image the weight of its class; of a mixed one, in proportion to its label."""
        return images, labels, tf.linalg.matvec(labels, tf.constant(self.class_weights))


def labels_of(source: ImageSource) -> Iterator[np.ndarray]:
    """Yield the labels of the training images, a part at a time; no image file is read.

    Records that hold no example, and labels of none of the classes, are left out, as `ImageReader`
    leaves them out, which counts and names them.

    Args:
        source: The images.
    """
    split = source.split("train")
    labels = split.examples().map(lambda name, item: split.read(item)[1]).ignore_errors()
    known = labels.filter(lambda label: (label >= 0) & (label < len(source.class_names)))
    yield from known.batch(4096).as_numpy_iterator()
