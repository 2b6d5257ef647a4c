"""Training of a net by `model.fit`, from the last checkpoint of its run on."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_preact.analysis import model_cost
from training.compiling import compile_for_training
from training.engines.batches import Batches
from training.engines.callbacks.averaging import AveragedStatistics, AveragedWeights
from training.engines.callbacks.divergence import Diverged, DivergenceGuard, exploded_loss
from training.engines.callbacks.early_end import EarlyEnd, EndedWithinEpoch
from training.engines.callbacks.label_validation import LabelValidation
from training.engines.callbacks.patience import Patience, is_exhausted
from training.engines.callbacks.preemption import Preemption
from training.engines.callbacks.progress import PlainLog, ProgressBar
from training.engines.callbacks.record import Checkpoint, Record
from training.engines.callbacks.steps import CHECK_EVERY, StepCallbacks
from training.engines.devices import Devices
from training.listing.listing import Images
from training.net import prepare_net
from training.pace import Pace
from training.recipe import Recipe, steps_per_epoch
from training.records.checkpoint import Progress, load_progress, save_checkpoint, save_net
from training.run import Run
from training.schedules import calmed, learning_rate_schedule
from training.task import LABELS, Task, task_of

# Multiply-adds of a step, forward, that take the fastest GPU about as long as Python takes to begin
# a step: a millisecond or two.
SMALL_STEP = 1e11


@dataclass(frozen=True)
class Job:
    """A recipe and its images, on the devices that train it.

    Attributes:
        recipe: The values of the run, the rule of a recipe applied.
        batches: Batches of the images.
        devices: Devices that share each batch.
    """

    recipe: Recipe
    batches: Batches
    devices: Devices

    @property
    def images(self) -> Images:
        """Facts about the images."""
        return self.batches.images

    @property
    def task(self) -> Task:
        """What the net is trained to tell of the images."""
        return task_of(self.images)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(self.images, self.recipe)

    def build_net(self) -> keras.Model:
        """Build the net in the state before its first step; see `prepare_net`."""
        with self.devices.scope():
            return prepare_net(self.recipe, self.images.class_names, self.task)


def train(
    job: Job,
    net: keras.Model,
    run: Run,
    pace: Pace | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Progress:
    """Train a net from the last checkpoint of its run on.

    If the devices are of several workers, all of them call this, and the chief writes.

    Args:
        job: What is trained on what.
        net: The net, from `Job.build_net`.
        run: The folder that the results go to.
        pace: When to log, save and stop; the defaults of `Pace` if None.
        callbacks: Further callbacks for `fit`. Their state is not saved.

    Returns:
        How far the run has come.

    Raises:
        FloatingPointError: If the loss is no longer finite or has exploded for good.
        Preempted: If the run was asked to stop, and is saved.
    """
    pace = pace or Pace()
    model = compiled_model(job, net)
    with job.devices.scope():
        model.steps_per_execution = steps_per_execution(job, net, pace)
        progress = _with_rollback(_Run(job, net, model, run, pace, callbacks))
        model.optimizer.finalize_variable_values(model.trainable_variables)
    if job.devices.chief:
        save_net(net, run.model)
        run.write(progress, "finished" if is_over(progress, job.recipe) else "running")
        run.draw(progress)
    # Let no worker end, or read, before the chief has written.
    job.devices.wait()
    return progress


def compiled_model(job: Job, net: keras.Model) -> keras.Model:
    """Return the model of a job that `fit` trains, with the state of its optimizer and metrics.

    Args:
        job: What is trained on what.
        net: The net, from `Job.build_net`.
    """
    # Outside of the scope, so that `fit` does not build it anew; see `ReplicatedModel`.
    model = job.batches.model(net)
    with job.devices.scope():
        compile_for_training(net, job.recipe, job.steps, model, job.task)
        build_metrics(model, job.devices)
    return model


def is_over(progress: Progress, recipe: Recipe) -> bool:
    """Return whether a run has come to the last epoch of its recipe, or to its patience's end."""
    return progress.epochs == recipe.epochs or is_exhausted(progress, recipe.patience)


def build_metrics(model: keras.Model, devices: Devices) -> None:
    """Create the state of a compiled model's metrics, which a run that goes on restores.

    `fit` would read a batch for it, or create the state only in the first step.

    Args:
        model: The model, whose one output has the scores of classes.
        devices: Devices that the model is trained on.
    """
    labels = np.zeros((1, model.output_shape[-1]), "float32")

    def update() -> None:
        scores = keras.ops.convert_to_tensor(labels)
        model.compute_loss(y=scores, y_pred=scores, training=False)
        model.compute_metrics(None, scores, scores)

    devices.run(update)
    model.reset_metrics()


def steps_per_execution(job: Job, net: keras.Model, pace: Pace) -> int:
    """Return how many steps `fit` does in one call, so that Python does not hold up small nets.

    Args:
        job: Gives the recipe's `steps_per_execution`; where that is 0, the steps of a small net
            between two checks of the loss.
        net: The net.
        pace: Gives the steps between two lines of the log.

    Returns:
        The number; 1 on other backends than TensorFlow, which begin every step in Python, and for
        several workers, whose sums TensorFlow does not place in a loop.
    """
    recipe = job.recipe
    if keras.backend.backend() != "tensorflow" or job.devices.agree:
        return 1
    if recipe.steps_per_execution:
        return recipe.steps_per_execution
    work = model_cost(net).total.flops * recipe.batch_size / job.devices.replicas
    return min(CHECK_EVERY, pace.log_every) if work < SMALL_STEP else 1


@dataclass(frozen=True)
class _Run:
    """Everything that an attempt at the rest of a run needs."""

    job: Job
    net: keras.Model
    model: keras.Model
    run: Run
    pace: Pace
    callbacks: Sequence[keras.callbacks.Callback]

    def restore(self) -> Progress:
        """Put the net and its optimizer into the state of the last checkpoint."""
        return load_progress(self.run.checkpoint, self.net, self.model.optimizer)

    def save(self, progress: Progress) -> None:
        """Save the state that the run can go on from."""
        # The change that a step makes to the statistics does not depend on their values, so that
        # within an epoch their mean at its end is the same.
        self.job.devices.average_statistics(self.model)
        if self.job.devices.chief:
            save_checkpoint(self.run.checkpoint, self.net, self.model.optimizer, progress)
            self.run.keep_best(progress)
            self.run.write(progress, "running")
        self.job.devices.wait()

    def save_best(self, progress: Progress) -> None:
        """Save the net of the best epoch."""
        if self.job.devices.chief:
            self.run.save_best(self.net, progress)

    def fit(self, progress: Progress) -> None:
        """Train from the restored state to the last epoch, or until the loss explodes."""
        job, recipe = self.job, self.job.recipe
        if job.devices.chief:
            self.run.keep_best(progress)
        if not progress.epochs and not progress.step:
            # A run that fails in its first epoch goes back to this state.
            self.save(progress)
        elif job.devices.chief:
            print(f"Going on {progress.place(recipe.epochs)}.", flush=True)
        epochs = self.pace.epochs(recipe)
        if progress.epochs >= epochs or is_over(progress, recipe):
            return
        schedule = learning_rate_schedule(calmed(recipe, len(progress.rollbacks)), job.steps)
        self.model.optimizer.learning_rate = schedule
        # A step that was traced keeps the schedule before.
        self.model.make_train_function(force=True)
        with self._display() as display, warnings.catch_warnings():
            # How many test images can be read is known when all were.
            warnings.filterwarnings("ignore", message="Your input ran out of data")
            callbacks = StepCallbacks(
                self._callbacks(progress, schedule, display),
                self.model,
                steps=job.steps,
                epochs=epochs,
                progress=progress,
            )
            try:
                self._fit(progress, callbacks)
            except EndedWithinEpoch:
                callbacks.on_train_end()

    def _fit(self, progress: Progress, callbacks: StepCallbacks) -> None:
        """Train from the restored state to the last epoch of the callbacks."""
        job, epochs = self.job, callbacks.params["epochs"]
        first_step = progress.epochs * job.steps + progress.step
        if progress.step == job.steps:
            # The run was asked to stop after the last step of the epoch.
            callbacks.complete_epoch(progress.epochs, lambda: self._evaluate(callbacks))
            if progress.epochs >= epochs or self.model.stop_training:
                callbacks.on_train_end()
                return
        self.model.fit(
            job.batches.training(first_step),
            validation_data=self._testing(),
            validation_batch_size=job.recipe.micro_batch_size,
            steps_per_epoch=job.steps,
            initial_epoch=progress.epochs,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )

    def _testing(self) -> Any:
        """Return the batches that `fit` evaluates; None for labels, which a callback does."""
        return None if self.job.task == LABELS else self.job.batches.testing()

    def _evaluate(self, callbacks: StepCallbacks) -> dict[str, float]:
        """Return the metrics of the evaluation that `fit` ends an epoch with."""
        if (testing := self._testing()) is None:
            return {}
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(testing)
        return self.model.evaluate(
            images,
            labels,
            batch_size=self.job.recipe.micro_batch_size,
            callbacks=callbacks,
            return_dict=True,
            verbose=0,
        )

    def _callbacks(
        self,
        progress: Progress,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        display: Sequence[keras.callbacks.Callback],
    ) -> list[keras.callbacks.Callback]:
        """Return the callbacks of the run, in the order in which they are called."""
        devices, pace, task = self.job.devices, self.pace, self.job.task
        checkpoint = Checkpoint(progress, self.save, pace.save_every)
        # Each label is a choice of two.
        choices = 2 if task == LABELS else self.net.output_shape[-1]
        limit = exploded_loss(choices, self.job.batches.class_weights)
        return [
            AveragedStatistics(devices.average_statistics),
            AveragedWeights(),
            *self._label_validation(),
            DivergenceGuard(limit, agree=devices.agree or bool),
            *self.callbacks,
            Record(progress, schedule, lambda: self.save_best(progress), task.best_by),
            Patience(progress, self.job.recipe.patience, devices.agree or bool),
            checkpoint,
            *display,
            EarlyEnd(checkpoint.save_within_epoch),
            Preemption(pace.stop_requested, checkpoint.save_within_epoch, devices.agree),
        ]

    def _label_validation(self) -> list[keras.callbacks.Callback]:
        """Return the callback that evaluates labels; none for one class per image."""
        job = self.job
        if job.task != LABELS:
            return []
        return [
            LabelValidation(
                job.batches.tested(),
                job.devices.average_statistics,
                job.recipe.label_smoothing,
                job.devices.replicas,
            )
        ]

    @contextlib.contextmanager
    def _display(self) -> Iterator[list[keras.callbacks.Callback]]:
        """Make the callbacks that show the progress, in the process that writes."""
        if not self.job.devices.chief:
            yield []
            return
        # Where the images need no TensorFlow, nothing else does.
        board = (
            [keras.callbacks.TensorBoard(self.run.tensorboard, write_graph=False)]
            if sys.modules.get("tensorflow")
            else []
        )
        if sys.stdout.isatty():
            with ProgressBar() as bar:
                yield [*board, bar]
        else:
            yield [*board, PlainLog(self.job.recipe.batch_size, self.pace.log_every)]


def _with_rollback(run: _Run) -> Progress:
    """Train until the last epoch, or until the loss explodes for good.

    Args:
        run: What is trained. Where the pace has `rollback`, a run whose loss explodes goes back
            once to the last checkpoint.

    Returns:
        How far the run has come.

    Raises:
        FloatingPointError: If the loss explodes and the run does not go back, or did before.
    """
    rollbacks: list[dict[str, Any]] = []
    while True:
        progress = run.restore()
        progress.rollbacks += rollbacks
        try:
            run.fit(progress)
            return progress
        except Diverged as error:
            place = run.restore().place(run.job.recipe.epochs)
            where = f"{error} The last good checkpoint is {run.run.checkpoint}, {place}."
            if not run.pace.rollback or progress.rollbacks:
                raise FloatingPointError(where) from error
            rollbacks.append(vars(error))
            print(f"{where} Going back to it once, with half the learning rate.", flush=True)
