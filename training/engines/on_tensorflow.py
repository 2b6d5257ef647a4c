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
from training.engines.stopping import with_rollback
from training.engines.strategy import (
    any_worker,
    device_names,
    distribute,
    is_chief,
    make_strategy,
)
from training.hyperrule import apply_rule
from training.job import Job
from training.net import prepare_net
from training.recipe import Recipe, override_recipe, steps_per_epoch
from training.records.checkpoint import Progress, load_progress, save_checkpoint, save_net
from training.run import Run
from training.schedules import calmed, learning_rate_schedule
from training.sources import ImageSource, open_source


def prepare(options: argparse.Namespace, recipe: Recipe) -> Job:
    """Choose the devices and open the images.

    Args:
        options: The command line.
        recipe: The recipe, with the overrides applied.

    Returns:
        What there is to do.

    Raises:
        ValueError: If the devices cannot do what the recipe asks, or the images are too few.
        FileNotFoundError: If there are no such images.
    """
    strategy = prepare_machine(recipe, options.devices, options.deterministic)
    source = open_source(options.data, options.data_dir)
    recipe = override_recipe(apply_rule(recipe, source), options)
    check_images(source, recipe, strategy)

    def build_net() -> keras.Model:
        with strategy.scope():
            return prepare_net(recipe, source.class_names)

    def train_net(net: keras.Model, run: Run, stop_requested: Callable[[], bool]) -> Progress:
        return train(
            net,
            recipe,
            source,
            run,
            options.log_every,
            save_every=options.save_every,
            stop_after=options.stop_after,
            rollback=options.rollback,
            stop_requested=stop_requested,
        )

    return Job(recipe, source, device_names(), is_chief(strategy), build_net, train_net)


def train(
    net: keras.Model,
    recipe: Recipe,
    source: ImageSource,
    run: Run,
    log_every: int = 50,
    *,
    save_every: int = 1,
    stop_after: int | None = None,
    rollback: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train a net, from the last checkpoint of the run on.

    Where the net's strategy has several workers, all of them call this, and the chief writes.

    Args:
        net: The net, from `prepare_net`.
        recipe: The values of the run.
        source: The images.
        run: Where the results go.
        log_every: Steps between two lines of the log, where standard output is no terminal.
        save_every: Epochs between two checkpoints.
        stop_after: Completed epochs after which to stop; by default, all of the recipe.
        rollback: Whether a run whose loss explodes goes back once to its last checkpoint, and on
            from there with half the learning rate.
        stop_requested: Whether the run should stop as soon as possible, to be taken up later.

    Returns:
        The history of the run.

    Raises:
        FloatingPointError: If the loss is no longer finite or has exploded for good.
        Preempted: If the run was asked to stop, and is saved.
    """
    with net.distribute_strategy.scope():
        model = compile_for_training(net, recipe, steps_per_epoch(source, recipe))
    epochs = min(stop_after or recipe.epochs, recipe.epochs)
    progress = with_rollback(
        lambda progress: _run_loop(
            model,
            net,
            recipe,
            source,
            run,
            progress,
            epochs,
            log_every,
            save_every,
            stop_requested,
        ),
        restore=lambda: load_progress(run.checkpoint, net, model.optimizer),
        checkpoint=run.checkpoint,
        epochs=recipe.epochs,
        rollback=rollback,
    )
    # The loop ends with the moving average in the model, if there is one.
    if is_chief(net.distribute_strategy):
        save_net(net, run.model)
        run.write(progress, "finished" if progress.epochs == recipe.epochs else "running")
    _wait_for_chief(net.distribute_strategy)
    return progress


def _wait_for_chief(strategy: tf.distribute.Strategy) -> None:
    """Let no worker end, or read, what the chief has not written yet."""
    any_worker(strategy, False)


def _run_loop(
    model: keras.Model,
    net: keras.Model,
    recipe: Recipe,
    source: ImageSource,
    run: Run,
    progress: Progress,
    epochs: int,
    log_every: int,
    save_every: int,
    stop_requested: Callable[[], bool],
) -> None:
    strategy, steps = net.distribute_strategy, steps_per_epoch(source, recipe)
    first_step = progress.epochs * steps + progress.step
    chief = is_chief(strategy)

    def save_progress(progress: Progress) -> None:
        if chief:
            save_checkpoint(run.checkpoint, net, model.optimizer, progress)
            run.write(progress, "running")
        _wait_for_chief(strategy)

    def save_best() -> None:
        if chief:
            save_net(net, run.best_model)

    if not first_step:
        # What a run that fails in its first epoch goes back to.
        save_progress(progress)
    elif chief:
        print(f"Going on {progress.place(recipe.epochs)}.", flush=True)
    schedule = learning_rate_schedule(calmed(recipe, len(progress.rollbacks)), steps)
    model.optimizer.learning_rate = schedule
    callbacks = [Recorder(progress, schedule, save_best, save_progress, save_every)]
    if chief:
        callbacks += [
            keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
            keras.callbacks.ProgbarLogger()
            if sys.stdout.isatty()
            else PlainLog(recipe.batch_size, log_every),
        ]
    Loop(
        model,
        distribute(
            strategy,
            lambda context: training_pipeline(
                source, recipe, first_step=first_step, context=context
            ),
            recipe.batch_size,
        ),
        distribute(
            strategy,
            lambda context: evaluation_pipeline(source, recipe, context=context),
            recipe.batch_size,
        ),
        steps=steps,
        epochs=epochs,
        progress=progress,
        callbacks=callbacks,
        log_every=log_every,
        save=save_progress,
        stop_requested=stop_requested,
    ).run()


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
