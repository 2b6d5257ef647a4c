"""Training on images that live in the memory of the device, on any backend of Keras."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from training.compiling import compile_for_training
from training.engines.callbacks import PlainLog, Recorder, averaged_weights
from training.engines.device_images import DeviceImages, draw_views, plain_views
from training.engines.stopping import (
    CHECK_EVERY,
    Diverged,
    Preempted,
    exploded_loss,
    finish,
    with_rollback,
)
from training.job import Job, Pace
from training.loading.image_set import ImageSet, load_image_set
from training.net import prepare_net
from training.recipe import Recipe, preprocessing_of, steps_per_epoch
from training.records.checkpoint import Progress, save_checkpoint, save_net
from training.run import Run
from training.schedules import calmed, learning_rate_schedule

# Values that a recipe must have here, since only `tf.data` does these changes.
_OFF = {
    "color_jitter": 0.0,
    "lighting": 0.0,
    "rand_augment_layers": 0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
}
_CROPS = ("none", "pad")


def prepare(options: argparse.Namespace, recipe: Recipe) -> Job:
    """Decode the images into memory.

    Args:
        options: The command line.
        recipe: The recipe, with the overrides applied.

    Returns:
        The job.

    Raises:
        ValueError: If the recipe or the command line asks for what is not done here, or the images
            are too many or too few.
        FileNotFoundError: If there are no such images.
    """
    _check(options, recipe)
    keras.utils.set_random_seed(recipe.seed)
    images = load_image_set(
        options.data,
        preprocessing_of(recipe),
        max_corrupt_images=recipe.max_corrupt_images,
        validation_split=options.validation_split,
    )
    steps_per_epoch(images, recipe)

    def train_net(net: keras.Model, run: Run, stop_requested: Callable[[], bool]) -> Progress:
        return train(net, recipe, images, run, Pace.of(options, stop_requested))

    return Job(
        recipe,
        images,
        [_device_name()],
        writes=True,
        build_net=lambda: prepare_net(recipe, images.class_names),
        train=train_net,
    )


def _check(options: argparse.Namespace, recipe: Recipe) -> None:
    if recipe.crop not in _CROPS:
        raise ValueError(
            f"Images on the device are cropped by `crop` = pad or none. Received: {recipe.crop!r}"
        )
    for name, off in _OFF.items():
        if getattr(recipe, name) != off:
            raise ValueError(
                f"Images on the device are padded, cropped, mirrored and cut out: `{name}` must be "
                f"{off}. Received: {getattr(recipe, name)}"
            )
    if recipe.rule != "none":
        raise ValueError(f"`rule` must be none for images on the device. Received: {recipe.rule!r}")
    if options.devices:
        raise ValueError(
            "Images on the device are on the first device of the backend: --devices must not be "
            f"given. Received: {' '.join(options.devices)}"
        )
    if options.deterministic:
        raise ValueError("--deterministic does not apply to images on the device.")


def _device_name() -> str:
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    return f"{backend} {keras.distribution.list_devices()[0]}"


def train(net: keras.Model, recipe: Recipe, images: ImageSet, run: Run, pace: Pace) -> Progress:
    """Train a net by `model.fit`, from the last checkpoint of its run on.

    Args:
        net: The net, from `prepare_net`.
        recipe: The values of the run.
        images: The images.
        run: The folder that the results go to.
        pace: When to log, save and stop.

    Returns:
        The history of the run.

    Raises:
        FloatingPointError: If the loss is no longer finite or has exploded for good.
        Preempted: If the run was asked to stop.
    """
    steps = steps_per_epoch(images, recipe)
    model = _feeding_model(net, recipe, images, steps)

    def save_progress(progress: Progress) -> None:
        save_checkpoint(run.checkpoint, net, model.optimizer, progress)
        run.write(progress, "running")

    def attempt(progress: Progress) -> None:
        if progress.epochs:
            print(f"Going on {progress.place(recipe.epochs)}.", flush=True)
        else:
            # A run that fails in its first epoch goes back to this state.
            save_progress(progress)
        schedule = learning_rate_schedule(calmed(recipe, len(progress.rollbacks)), steps)
        model.optimizer.learning_rate = schedule
        watch = _Watch(model.output_shape[-1], steps, schedule, pace.stop_requested)
        recorder = Recorder(
            progress,
            schedule,
            lambda: save_net(net, run.best_model),
            save_progress,
            pace.save_every,
        )
        epochs = range(progress.epochs, pace.epochs(recipe))
        _fit(model, recipe, images, epochs, [watch, recorder], pace.log_every)

    progress = with_rollback(attempt, net, model.optimizer, recipe, run, pace.rollback)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    finish(net, run, progress, recipe)
    return progress


def _feeding_model(net: keras.Model, recipe: Recipe, images: ImageSet, steps: int) -> keras.Model:
    """Compile the model from views of the images to the scores of the net."""
    views = keras.Input((DeviceImages.VIEW,), dtype="int32", name="views")
    preprocessing = preprocessing_of(recipe)
    maps = DeviceImages(images.images, preprocessing, cutout=recipe.cutout, name="images")(views)
    model = keras.Model(views, net(maps), name=net.name)
    return compile_for_training(net, recipe, steps, model)


def _fit(
    model: keras.Model,
    recipe: Recipe,
    images: ImageSet,
    epochs: range,
    callbacks: list[keras.callbacks.Callback],
    log_every: int,
) -> None:
    if not epochs:
        return
    batches = _TrainingBatches(images, recipe, epochs.start)
    verbose = 1 if sys.stdout.isatty() else 0
    model.fit(
        batches,
        validation_data=_TestBatches(images, recipe),
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        shuffle=False,
        verbose=verbose,
        callbacks=SparseCallbacks(
            [*callbacks, *([] if verbose else [PlainLog(recipe.batch_size, log_every)])],
            log_every,
            add_history=True,
            add_progbar=bool(verbose),
            model=model,
            verbose=verbose,
            epochs=epochs.stop,
            steps=len(batches),
        ),
    )


class SparseCallbacks(keras.callbacks.CallbackList):
    """Callbacks that are called after some steps only.

    Keras reads the metrics for them, which waits for the step to end. After every step, the device
    would be idle while the next step is prepared.

    Args:
        callbacks: The callbacks.
        log_every: Steps from one call to the next, if that is more often than the loss is checked.
        **options: As for `keras.callbacks.CallbackList`.
    """

    def __init__(
        self, callbacks: list[keras.callbacks.Callback], log_every: int, **options: Any
    ) -> None:
        super().__init__(callbacks, **options)
        self._log_every = log_every

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = batch + 1
        if step % CHECK_EVERY == 0 or step % self._log_every == 0 or step == self.params["steps"]:
            super().on_train_batch_end(batch, logs)


class _Batches(keras.utils.PyDataset):
    """Batches of views of images and one-hot labels."""

    def __init__(self, images: ImageSet, batch_size: int, views: np.ndarray) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._labels = images.labels
        self._one_hot = np.eye(len(images.class_names), dtype="float32")
        self._views = views

    def __len__(self) -> int:
        return -(-len(self._views) // self._batch_size)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        views = self._views[number * self._batch_size : (number + 1) * self._batch_size]
        return views, self._one_hot[self._labels[views[:, 0]]]


class _TestBatches(_Batches):
    """The test images once, as they are."""

    def __init__(self, images: ImageSet, recipe: Recipe) -> None:
        super().__init__(images, recipe.batch_size, plain_views(images.places("test")))


class _TrainingBatches(_Batches):
    """The training images, in an order and with changes that depend only on seed and epoch."""

    def __init__(self, images: ImageSet, recipe: Recipe, epoch: int) -> None:
        self._recipe = recipe
        self._steps = steps_per_epoch(images, recipe)
        self._places = images.places("train")
        self._epoch = epoch
        super().__init__(images, recipe.batch_size, self._draw())

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._views = self._draw()

    def _draw(self) -> np.ndarray:
        count = self._steps * self._recipe.batch_size
        return draw_views(self._places, count, self._recipe, self._epoch)


class _Watch(keras.callbacks.Callback):
    """Callback that evaluates the averaged weights, and ends a run that diverges or must stop.

    Args:
        classes: Number of classes.
        steps: Steps of an epoch.
        schedule: The learning rate of each step.
        stop_requested: Whether the run should stop as soon as possible.
    """

    def __init__(
        self,
        classes: int,
        steps: int,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        stop_requested: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._limit = exploded_loss(classes)
        self._steps = steps
        self._schedule = schedule
        self._stop_requested = stop_requested
        self._average = contextlib.ExitStack()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._checked, self._total = epoch, 0, 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = batch + 1
        if step % CHECK_EVERY == 0 or step == self._steps:
            total = float((logs or {})["loss"]) * step
            # The metric is a mean over the epoch: its growth tells of the last steps.
            self._check((total - self._total) / (step - self._checked), step, self._limit)
            self._checked, self._total = step, total
        if self._stop_requested():
            raise Preempted("the last checkpoint")

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._average.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._average.close()
        # The statistics of a net that learns well may still be far off in an evaluation.
        self._check(float((logs or {})["loss"]), self._steps, sys.float_info.max)

    def _check(self, loss: float, step: int, limit: float) -> None:
        if not loss <= limit:
            done = self._epoch * self._steps + step
            raise Diverged(loss, self._epoch + 1, done, float(self._schedule(done - 1)))
