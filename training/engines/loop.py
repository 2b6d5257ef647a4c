"""Steps and epochs of a run on TensorFlow.

Keras's model, metrics and callbacks do the work, but not its `fit`: in Keras 3.15 that fails on
several workers (https://github.com/keras-team/keras/issues/20585), and it cannot start within an
epoch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from training.engines.callbacks import averaged_weights
from training.engines.stopping import CHECK_EVERY, Diverged, Preempted, exploded_loss
from training.engines.strategy import any_worker, average_statistics, has_workers
from training.job import Pace
from training.records.checkpoint import Progress


class Loop:
    """Training and evaluation of a model, epoch by epoch.

    Args:
        model: The compiled model. Where its strategy has several workers, all of them run the
            same loop on parts of the same batches.
        batches: Training batches without end, from the first step that is left.
        test_batches: Batches for the evaluation that ends an epoch.
        steps: Steps of an epoch.
        pace: How often to read the metrics, in addition to the checks of the loss, and whether to
            stop. A single process asks after each step whether to stop; several workers agree
            every `CHECK_EVERY` steps.
        save: Saves the run within an epoch.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Iterable,
        test_batches: Iterable,
        *,
        steps: int,
        pace: Pace,
        save: Callable[[Progress], None],
    ) -> None:
        self._model = model
        self._steps = steps
        self._pace = pace
        self._save = save
        self._strategy = model.distribute_strategy
        self._batches = iter(batches)
        self._test_batches = test_batches
        train_step = _step_function(model, model.train_step)
        self._train_step = tf.function(
            lambda iterator: train_step(iterator.get_next()), autograph=False
        )
        self._test_step = _step_function(model, _unless_empty(model.test_step))
        self._read_metrics = tf.function(model.get_metrics_result, autograph=False)
        self._read_states = tf.function(
            lambda: [keras.ops.convert_to_tensor(each) for each in model.metrics_variables],
            autograph=False,
        )
        self._average_statistics = tf.function(lambda: average_statistics(model), autograph=False)

    def run(
        self, progress: Progress, epochs: int, callbacks: Sequence[keras.callbacks.Callback]
    ) -> None:
        """Do the epochs that are left, and put the moving average of the weights into the model.

        Args:
            progress: How far the run has come. A callback that records epochs extends its history.
            epochs: Number of completed epochs to end with.
            callbacks: Called at the same points as by `fit`. The logs of a step are None unless the
                metrics were read after it.

        Raises:
            Diverged: If the loss is no longer finite, or has exploded.
            Preempted: If a worker was asked to stop; all of them stop after the same step.
        """
        self._progress = progress
        self._callbacks = keras.callbacks.CallbackList(
            callbacks, model=self._model, epochs=epochs, steps=self._steps
        )
        if progress.epochs < epochs:
            # Only tracing builds the metrics, whose state a run that goes on restores.
            self._train_step.get_concrete_function(self._batches)
        self._callbacks.on_train_begin()
        for epoch in range(progress.epochs, epochs):
            self._callbacks.on_epoch_begin(epoch)
            logs = self._train(epoch)
            logs |= {f"val_{name}": value for name, value in self._evaluate().items()}
            # The statistics of a net that learns well may still be far off in an evaluation.
            self._check(epoch, self._steps, logs["val_loss"], limit=sys.float_info.max)
            self._callbacks.on_epoch_end(epoch, logs)
        self._model.optimizer.finalize_variable_values(self._model.trainable_variables)
        self._callbacks.on_train_end()

    def _train(self, epoch: int) -> dict[str, float]:
        """Do the steps of an epoch that are left, and return its metrics."""
        first = self._restore_metrics()
        logs = self._read()
        checked, total = first, first * logs["loss"]
        limit = exploded_loss(self._model.output_shape[-1])
        for step in range(first + 1, self._steps + 1):
            self._callbacks.on_train_batch_begin(step - 1)
            self._train_step(self._batches)
            due = step % CHECK_EVERY == 0 or step == self._steps
            stop = self._agreed_to_stop(due)
            if due or stop or step % self._pace.log_every == 0:
                logs = self._read()
                # The metric is a mean over the epoch: its growth tells of the last steps.
                self._check(epoch, step, (logs["loss"] * step - total) / (step - checked), limit)
                checked, total = step, logs["loss"] * step
            self._callbacks.on_train_batch_end(step - 1, logs if checked == step else None)
            if stop:
                self._save_within_epoch(step)
                raise Preempted("this step")
        return logs

    def _restore_metrics(self) -> int:
        """Begin an epoch, or take it up again, after the step that is returned."""
        self._model.reset_metrics()
        first = self._progress.step
        if first:
            states = zip(self._model.metrics_variables, self._progress.metrics, strict=True)
            for variable, value in states:
                variable.assign(value)
        self._progress.step, self._progress.metrics = 0, []
        return first

    def _save_within_epoch(self, step: int) -> None:
        # The change that a step makes to the statistics does not depend on their values, so their
        # mean at the end of the epoch is the same.
        self._average_statistics()
        self._progress.step = step
        self._progress.metrics = [float(state) for state in self._read_states()]
        self._save(self._progress)

    def _agreed_to_stop(self, due: bool) -> bool:
        requested = self._pace.stop_requested()
        if not has_workers(self._strategy):
            return requested
        return due and any_worker(self._strategy, requested)

    def _evaluate(self) -> dict[str, float]:
        """Evaluate the averaged weights, with one set of moving statistics."""
        self._average_statistics()
        self._model.reset_metrics()
        with averaged_weights(self._model):
            for batch in self._test_batches:
                self._test_step(batch)
        return self._read()

    def _read(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._read_metrics().items()}

    def _check(self, epoch: int, step: int, loss: float, limit: float) -> None:
        if not loss <= limit:
            rate = float(self._model.optimizer.learning_rate)
            raise Diverged(loss, epoch + 1, epoch * self._steps + step, rate)


def _step_function(model: keras.Model, step: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Trace a graph that does a step on every replica and updates the metrics."""

    @tf.function(reduce_retracing=True, jit_compile=model.jit_compile, autograph=False)
    def run(batch: Any) -> None:
        model.distribute_strategy.run(step, args=(batch,))

    return run


def _unless_empty(step: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Leave out the empty parts of the last batch, on which convolutions fail on a CPU."""

    def run(batch: Any) -> None:
        def do() -> tf.Tensor:
            step(batch)
            return tf.constant(True)

        tf.cond(tf.shape(batch[0])[0] > 0, do, lambda: tf.constant(False))

    return run
