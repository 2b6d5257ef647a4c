"""Train a net: `python -m training.train --recipe NAME --data SOURCE --output DIR`.

Started again with the same arguments, it goes on after the last completed epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from training.callbacks import PlainLog, Recorder
from training.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.data import evaluation_pipeline, preprocessing_of, steps_per_epoch, training_pipeline
from training.files import replacing
from training.hyperrule import apply_rule
from training.loop import Diverged, Loop, Preempted
from training.net import find_pretrained, prepare_net
from training.optimizer import build_optimizer
from training.recipe import (
    Recipe,
    add_recipe_arguments,
    load_recipe,
    override_recipe,
    recipe_values,
)
from training.run import Run
from training.schedules import learning_rate_schedule
from training.sources import ImageSource, open_source
from training.strategy import (
    any_worker,
    device_names,
    distribute,
    is_chief,
    make_strategy,
)

# The exit status of a run that was asked to stop: EX_TEMPFAIL of sysexits.h, "try again later".
PREEMPTED = 75


def compile_for_training(net: keras.Model, recipe: Recipe, steps: int) -> keras.Model:
    """Make the model that is trained: the same layers and weights, with optimiser and loss.

    The net itself stays uncompiled, so that what is saved of it needs nothing of this package.

    Args:
        net: The net, from `prepare_net`.
        recipe: The values of the run.
        steps: Steps of one epoch.

    Returns:
        The compiled model, whose optimiser is built.
    """
    with net.distribute_strategy.scope():
        classes = net.output_shape[-1]
        metrics = [keras.metrics.CategoricalAccuracy(name="top1")]
        if classes > 5:
            metrics.append(keras.metrics.TopKCategoricalAccuracy(k=5, name="top5"))
        optimizer = build_optimizer(recipe, net, steps)
        model = keras.Model(net.inputs, net.outputs, name=net.name)
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
            metrics=metrics,
            jit_compile=recipe.jit_compile,
            auto_scale_loss=False,
        )
        optimizer.build(model.trainable_variables)
        return model


def train(
    net: keras.Model,
    recipe: Recipe,
    source: ImageSource,
    run: Run,
    log_every: int = 50,
    *,
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
    model = compile_for_training(net, recipe, steps_per_epoch(source, recipe))
    epochs = min(stop_after or recipe.epochs, recipe.epochs)
    rollbacks: list[dict[str, Any]] = []
    while True:
        progress = _load_progress(run, model)
        progress.rollbacks += rollbacks
        try:
            _run_loop(model, net, recipe, source, run, progress, epochs, log_every, stop_requested)
            break
        except Diverged as error:
            good = _load_progress(run, model).place(recipe.epochs)
            where = f"{error} The last good checkpoint is {run.checkpoint}, {good}."
            if not rollback or progress.rollbacks:
                raise FloatingPointError(where) from error
            rollbacks.append(vars(error))
            print(f"{where} Going back to it once, with half the learning rate.", flush=True)
    # The loop ends with the moving average in the model, if there is one.
    if is_chief(net.distribute_strategy):
        save_net(net, run.model)
        run.write(progress, "finished" if progress.epochs == recipe.epochs else "running")
    _wait_for_chief(net.distribute_strategy)
    return progress


def _wait_for_chief(strategy: tf.distribute.Strategy) -> None:
    """Let no worker end, or read, what the chief has not written yet."""
    any_worker(strategy, False)


def _load_progress(run: Run, model: keras.Model) -> Progress:
    return load_checkpoint(run.checkpoint, model) if run.checkpoint.exists() else Progress()


def _run_loop(
    model: keras.Model,
    net: keras.Model,
    recipe: Recipe,
    source: ImageSource,
    run: Run,
    progress: Progress,
    epochs: int,
    log_every: int,
    stop_requested: Callable[[], bool],
) -> None:
    strategy, steps = net.distribute_strategy, steps_per_epoch(source, recipe)
    first_step = progress.epochs * steps + progress.step
    chief = is_chief(strategy)

    def save_progress(progress: Progress) -> None:
        if chief:
            save_checkpoint(run.checkpoint, model, progress)
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
    schedule = learning_rate_schedule(_calmed(recipe, len(progress.rollbacks)), steps)
    model.optimizer.learning_rate = schedule
    callbacks = [Recorder(progress, schedule, save_best, save_progress)]
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


def _calmed(recipe: Recipe, rollbacks: int) -> Recipe:
    """A recipe with its learning rates halved for each rollback, as in OPT (arXiv:2205.01068)."""
    rates = ("learning_rate", "warmup_learning_rate", "final_learning_rate")
    return recipe.replace(**{rate: getattr(recipe, rate) / 2**rollbacks for rate in rates})


def save_net(net: keras.Model, path: Path) -> None:
    """Save a net as a `.keras` file, whole or not at all."""
    with replacing(path) as partial:
        net.save(partial)


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    """Read the command line.

    Args:
        arguments: What follows the name of the program.

    Returns:
        The options, and the recipe with the overrides applied.

    Raises:
        ValueError: If a value of the recipe is wrong.
        FileNotFoundError: If there is no such recipe.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        allow_abbrev=False,
        description=(
            "Train a net on labelled images. Started again with the same arguments, it goes on "
            "after the last completed epoch."
        ),
        epilog="Every value of the recipe may be overridden; the defaults shown are the recipe's.",
    )
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help="a name in training/recipes, or a TOML file"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="`digits`, a TensorFlow Datasets name, a folder train/CLASS/*.jpg + test/CLASS/*.jpg, "
        "or a folder of TFRecord shards",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where TensorFlow Datasets keeps its sets"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the folder of the run"
    )
    parser.add_argument(
        "--devices",
        nargs="+",
        default=(),
        metavar="DEVICE",
        help="GPU:0 GPU:1 …, or CPU:0 CPU:1 … for logical CPUs (default: all GPUs, or the CPU)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same weights bit for bit each time, on the same machine; slower",
    )
    parser.add_argument(
        "--log-every",
        type=int,
        default=50,
        metavar="N",
        help="steps between two lines where the output is no terminal (default: 50)",
    )
    parser.add_argument(
        "--rollback",
        action="store_true",
        help="where the loss explodes, go back once to the last checkpoint, and on from there with "
        "half the learning rate, instead of stopping",
    )
    parser.add_argument(
        "--stop-after",
        type=int,
        metavar="N",
        help="stop once N epochs are completed in all; the same command with a larger N, or "
        "without it, goes on in the recipe's schedule",
    )
    recipe = named_recipe(arguments)
    add_recipe_arguments(parser, recipe)
    options = parser.parse_args(arguments)
    if options.stop_after is not None and options.stop_after < 1:
        raise ValueError(f"--stop-after must be 1 or more. Received: {options.stop_after}")
    return options, override_recipe(recipe, options)


def named_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe a command line names: its values are the defaults that `--help` shows.

    What neither the recipe's file nor, later, the command line says is as it was for the weights
    to start from.

    Args:
        arguments: What follows the name of the program.

    Returns:
        The recipe, without the overrides.

    Raises:
        ValueError: If a value of the recipe is wrong.
        FileNotFoundError: If there is no such recipe.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    parser.add_argument("--init")
    named = parser.parse_known_args(arguments)[0]
    if not named.recipe:
        return Recipe()
    init = named.init or recipe_values(named.recipe).get("init")
    if not init:
        return load_recipe(named.recipe)
    return load_recipe(named.recipe, {**find_pretrained(init).values, "init": init})


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


def describe(options: argparse.Namespace, recipe: Recipe, source: ImageSource) -> dict[str, Any]:
    """What decides the outcome of a run, as JSON values."""
    description = {
        "recipe_name": options.recipe,
        "recipe": dataclasses.asdict(recipe),
        "seed": recipe.seed,
        "source": source.name,
        "class_names": source.class_names,
        "images": {split: source.num_examples(split) for split in ("train", "test")},
        "preprocessing": preprocessing_of(recipe).get_config(),
        "deterministic": options.deterministic,
    }
    # As it will be read back: lists instead of tuples.
    return json.loads(json.dumps(description))


def summary(run: Run, progress: Progress) -> str:
    """The last lines a run prints."""
    best, last = progress.best, progress.history[-1]
    return (
        f"Test accuracy: best {best['val_top1']:.2%} (epoch {best['epoch']}), "
        f"last {last['val_top1']:.2%} (epoch {last['epoch']})\n"
        f"Model: {run.model}\nBest model: {run.best_model}\n"
        f"Curves: {run.curves}\nTable: {run.history_csv}\nTensorBoard: {run.tensorboard}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: 0; 1 if the training failed; 2 for a wrong argument; 75 (`PREEMPTED`)
        after SIGTERM, once what the same command needs to go on is saved; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options, recipe = parse_arguments(arguments)
        strategy = prepare_machine(recipe, options.devices, options.deterministic)
        source = open_source(options.data, options.data_dir)
        recipe = override_recipe(apply_rule(recipe, source), options)
        check_images(source, recipe, strategy)
        run = Run(options.output, describe(options, recipe, source))
        if run.finished:
            print(f"The run in {run.output} is finished; nothing is left to do.")
            return 0
        with strategy.scope():
            net = prepare_net(recipe, source.class_names)
    except (ValueError, TypeError, OSError) as error:
        print(f"training.train: {error}", file=sys.stderr)
        return 2
    if is_chief(strategy):
        run.start(["python", "-m", "training.train", *arguments], device_names())
    try:
        # Only now: TensorFlow sets a handler of its own when its workers find one another.
        with _termination() as terminated:
            progress = train(
                net,
                recipe,
                source,
                run,
                options.log_every,
                stop_after=options.stop_after,
                rollback=options.rollback,
                stop_requested=terminated.is_set,
            )
    except Preempted:
        print("Stopped as asked. The same command goes on after this step.", flush=True)
        return PREEMPTED
    except FloatingPointError as error:
        print(f"training.train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on after the last completed epoch.")
        return 130
    if is_chief(strategy):
        print(summary(run, progress))
        if not run.finished:
            print(f"Stopped after epoch {progress.epochs} of {recipe.epochs}, as asked.")
    return 0


@contextlib.contextmanager
def _termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, instead of ending the process."""
    terminated = threading.Event()
    handler = signal.signal(signal.SIGTERM, lambda number, frame: terminated.set())
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, handler)


if __name__ == "__main__":
    sys.exit(main())
