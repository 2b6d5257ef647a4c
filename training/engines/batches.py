"""Batches of a run for `fit`: from pipelines of `tf.data`, or from the memory of the device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import keras
import numpy as np

from training.class_weight import class_weights
from training.engines.device_images import DeviceImages, draw_views, plain_views
from training.engines.devices import Devices
from training.listing.listing import Images
from training.loading.image_set import ImageSet
from training.recipe import Recipe, preprocessing_of, steps_per_epoch


class Batches(Protocol):
    """Batches of a run."""

    @property
    def images(self) -> Images:
        """The images."""
        ...

    @property
    def class_weights(self) -> np.ndarray | None:
        """Weight of the loss per class; None weighs all alike."""
        ...

    def model(self, net: keras.Model) -> keras.Model:
        """Return the model that takes the batches and is trained in place of a net."""
        ...

    def training(self, first_step: int) -> Any:
        """Return the training batches without end, from a step of the run on, for `fit`."""
        ...

    def testing(self) -> Any:
        """Return the batches for the evaluation that ends an epoch, for `fit`."""
        ...

    def tested(self) -> Iterable[tuple[Any, Any]]:
        """Return inputs and targets of all test images, whole in every worker, for many passes."""
        ...


class DeviceBatches:
    """Batches of images that live in the memory of the device.

    Args:
        images: The images.
        recipe: Says how they are ordered, augmented and batched.
        devices: The device.

    Raises:
        ValueError: If the recipe weighs classes, and images have several labels.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, devices: Devices) -> None:
        self.images = images
        self._recipe = recipe
        self._devices = devices
        self.class_weights = class_weights(recipe.class_weight, images, self._class_counts)
        sets = images.label_sets
        self._targets = (
            np.eye(len(images.class_names), dtype="float32")
            if sets is None
            else sets.astype("float32")
        )

    def _class_counts(self) -> np.ndarray:
        """Return the number of training images of every class, int64 `(classes,)`."""
        labels = self.images.labels[np.asarray(self.images.places("train"))]
        return np.bincount(labels, minlength=len(self.images.class_names))

    def model(self, net: keras.Model) -> keras.Model:
        """Return the model from views of the images to the scores of the net."""
        preprocessing = preprocessing_of(self._recipe)
        layer = DeviceImages(
            self.images.images, preprocessing, cutout=self._recipe.cutout, name="images"
        )
        views = keras.Input((DeviceImages.VIEW,), dtype="int32", name="views")
        return self._devices.model(views, net(layer(views)), name=net.name)

    def training(self, first_step: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield batches of views and labels, drawn epoch by epoch."""
        recipe, places = self._recipe, self.images.places("train")
        steps = steps_per_epoch(self.images, recipe)
        first_epoch, done = divmod(first_step, steps)
        for epoch in itertools.count(first_epoch):
            views = draw_views(places, steps * recipe.batch_size, recipe, epoch)
            for batch in np.split(views, steps)[done:]:
                labels = self.images.labels[batch[:, 0]]
                weights = () if self.class_weights is None else (self.class_weights[labels],)
                yield batch, self._targets[labels], *weights
            done = 0

    def testing(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the views of the test images, as they are, and their labels."""
        places = self.images.places("test")
        return plain_views(places), self._targets[self.images.labels[places.start : places.stop]]

    def tested(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the views and labels of the test images, in batches."""
        views, targets = self.testing()
        size = self._recipe.micro_batch_size
        parts = [slice(start, start + size) for start in range(0, len(views), size)]
        return [(views[part], targets[part]) for part in parts]
