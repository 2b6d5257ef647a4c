"""Training with TensorFlow: batches of `tf.data`, on one device or several, or as a worker."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from training.compiling import compile_for_training
from training.data import evaluation_pipeline, training_pipeline
from training.engines.callbacks import PlainLog, Recorder
from training.engines.loop import Loop
from training.engines.stopping import finish, with_rollback
from training.engines.strategy import (
    Batches,
    any_worker,
    device_names,
    distribute,
    is_chief,
    make_strategy,
)
from training.hyperrule import apply_rule
from training.job import Job, Pace
from training.net import prepare_net
from training.recipe import Recipe, override_recipe, steps_per_epoch
from training.records.checkpoint import Progress, save_checkpoint, save_net
from training.run import Run
from training.schedules import calmed, learning_rate_schedule
from training.sources import ImageSource, open_source


def prepare(options: argparse.Namespace, recipe: Recipe) -> Job:
    """Choose the devices and open the images.

    Args:
        options: The command line.
        recipe: The recipe, with the overrides applied.

    Returns:
        The job.

    Raises:
        ValueError: If the devices cannot do what the recipe asks, or the images are too few.
        FileNotFoundError: If there are no such images.
    """
    strategy = prepare_machine(recipe, options.devices, options.deterministic)
    source = open_source(options.data, options.data_dir, options.validation_split)
    recipe = override_recipe(apply_rule(recipe, source), options)
    check_images(source, recipe, strategy)

    def build_net() -> keras.Model:
        with strategy.scope():
            return prepare_net(recipe, source.class_names)

    def train_net(net: keras.Model, run: Run, stop_requested: Callable[[], bool]) -> Progress:
        return train(net, recipe, source, run, Pace.of(options, stop_requested))

    return Job(recipe, source, device_names(), is_chief(strategy), build_net, train_net)


def train(
    net: keras.Model, recipe: Recipe, source: ImageSource, run: Run, pace: Pace | None = None
) -> Progress:
    """Train a net from the last checkpoint of its run on.

    If the strategy of the net has several workers, all of them call this, and the chief writes.

    Args:
        net: The net, from `prepare_net`.
        recipe: The values of the run.
        source: The images.
        run: The folder that the results go to.
        pace: When to log, save and stop; the defaults of `Pace` if None.

    Returns:
        The history of the run.

    Raises:
        FloatingPointError: If the loss is no longer finite or has exploded for good.
        Preempted: If the run was asked to stop, and is saved.
    """
    pace = pace or Pace()
    strategy = net.distribute_strategy
    with strategy.scope():
        model = compile_for_training(net, recipe, steps_per_epoch(source, recipe))
    progress = with_rollback(
        lambda progress: _attempt(model, net, recipe, source, run, pace, progress),
        net,
        model.optimizer,
        recipe,
        run,
        pace.rollback,
    )
    # The loop ends with the moving average in the model, if there is one.
    if is_chief(strategy):
        finish(net, run, progress, recipe)
    _wait_for_chief(strategy)
    return progress


def _wait_for_chief(strategy: tf.distribute.Strategy) -> None:
    """Let no worker end, or read, before the chief has written."""
    any_worker(strategy, False)


def _attempt(
    model: keras.Model,
    net: keras.Model,
    recipe: Recipe,
    source: ImageSource,
    run: Run,
    pace: Pace,
    progress: Progress,
) -> None:
    """Train from the restored state to the last epoch, or until the loss explodes."""
    strategy, steps = net.distribute_strategy, steps_per_epoch(source, recipe)
    chief = is_chief(strategy)

    def save_progress(progress: Progress) -> None:
        if chief:
            save_checkpoint(run.checkpoint, net, model.optimizer, progress)
            run.write(progress, "running")
        _wait_for_chief(strategy)

    def save_best() -> None:
        if chief:
            save_net(net, run.best_model)

    first_step = progress.epochs * steps + progress.step
    if not first_step:
        # A run that fails in its first epoch goes back to this state.
        save_progress(progress)
    elif chief:
        print(f"Going on {progress.place(recipe.epochs)}.", flush=True)
    schedule = learning_rate_schedule(calmed(recipe, len(progress.rollbacks)), steps)
    model.optimizer.learning_rate = schedule
    callbacks = [Recorder(progress, schedule, save_best, save_progress, pace.save_every)]
    if chief:
        callbacks.append(keras.callbacks.TensorBoard(run.tensorboard, write_graph=False))
        callbacks.append(
            keras.callbacks.ProgbarLogger()
            if sys.stdout.isatty()
            else PlainLog(recipe.batch_size, pace.log_every)
        )
    batches, test_batches = _shared_batches(source, recipe, strategy, first_step)
    loop = Loop(model, batches, test_batches, steps=steps, pace=pace, save=save_progress)
    loop.run(progress, pace.epochs(recipe), callbacks)


def _shared_batches(
    source: ImageSource, recipe: Recipe, strategy: tf.distribute.Strategy, first_step: int
) -> tuple[Batches, Batches]:
    """Return the training batches from a step on, and the test batches, for all replicas."""

    def training(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return training_pipeline(source, recipe, first_step=first_step, context=context)

    def testing(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return evaluation_pipeline(source, recipe, context=context)

    size = recipe.batch_size
    return distribute(strategy, training, size), distribute(strategy, testing, size)


def prepare_machine(
    recipe: Recipe, devices: Sequence[str], deterministic: bool
) -> tf.distribute.Strategy:
    """Seed the random generators and choose the devices.

    Args:
        recipe: Gives the seed and whether XLA is used.
        devices: Names of devices, for `make_strategy`.
        deterministic: Whether every operation must give the same bits each time.

    Returns:
        The strategy.

    Raises:
        ValueError: If the devices are wrong, or cannot do what the recipe asks.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Training runs on Keras's TensorFlow backend; set KERAS_BACKEND=tensorflow. "
            f"Received: {keras.backend.backend()}"
        )
    strategy = make_strategy(devices)
    if recipe.jit_compile and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`jit_compile` works on one device only, because XLA cannot update variables that are "
            f"mirrored. Received: {strategy.num_replicas_in_sync} devices"
        )
    _check_batch_size(recipe, strategy)
    keras.utils.set_random_seed(recipe.seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return strategy


def _check_batch_size(recipe: Recipe, strategy: tf.distribute.Strategy) -> None:
    if recipe.batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            f"`batch_size` must be a multiple of the {strategy.num_replicas_in_sync} devices. "
            f"Received: {recipe.batch_size}"
        )


def check_images(source: ImageSource, recipe: Recipe, strategy: tf.distribute.Strategy) -> None:
    """Check that there are enough images for the batches.

    Args:
        source: The images.
        recipe: Gives the batch size.
        strategy: The devices.

    Raises:
        ValueError: If a split is missing, the training images are too few, or the devices cannot
            share a batch.
    """
    # The rule of a recipe may have changed the batch.
    _check_batch_size(recipe, strategy)
    steps_per_epoch(source, recipe)
    source.num_examples("test")
