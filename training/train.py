"""Train a net: `python -m training.train --recipe NAME --data SOURCE --output DIR`.

Started again with the same arguments, it goes on after its last checkpoint: by default, that of the
last completed epoch.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from training.batch_choice import choose_batch
from training.engines.fitting import train
from training.engines.prepare import prepare
from training.engines.roll_call import lost_worker
from training.listing.find import add_source_arguments
from training.listing.listing import Images
from training.listing.listing import summary as images_summary
from training.loading.corrupt import unreadable
from training.net import find_pretrained, recipe_architecture
from training.pace import Pace
from training.processes import PREEMPTED, WAIT_MINUTES, Preempted, termination
from training.recipe import (
    Recipe,
    add_recipe_arguments,
    load_recipe,
    override_recipe,
    preprocessing_of,
    recipe_values,
)
from training.records.checkpoint import CheckpointError, Progress
from training.run import Run
from training.task import ONE_CLASS, Task, task_of

# Least value of options that are numbers.
LEAST = {"log_every": 1, "save_every": 1, "stop_after": 1, "wait_minutes": 0}


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    """Read the command line.

    Args:
        arguments: The arguments, without the name of the program.

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
            "Train a net on labeled images. Started again with the same arguments, it goes on "
            "after the last completed epoch."
        ),
        epilog="Every value of the recipe may be overridden; the defaults shown are the recipe's.",
    )
    _add_run_arguments(parser)
    _add_device_arguments(parser)
    _add_memory_arguments(parser)
    _add_pace_arguments(parser)
    recipe = named_recipe(arguments)
    add_recipe_arguments(parser, recipe)
    options = parser.parse_args(arguments)
    for name, least in LEAST.items():
        value = getattr(options, name)
        # A comparison with NaN is false.
        if value is not None and not value >= least:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} must be {least} or more. Received: {value}")
    if options.memory_gib is not None and not 0 < options.memory_gib < math.inf:
        raise ValueError(f"--memory-gib must be above 0. Received: {options.memory_gib}")
    return options, override_recipe(recipe, options)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the recipe, the images and the folder of a run."""
    parser.add_argument(
        "--recipe", required=True, metavar="NAME", help="a name in training/recipes, or a TOML file"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="`digits`, a TensorFlow Datasets name, a folder train/CLASS/*.jpg + test/CLASS/*.jpg, "
        "or CLASS/*.jpg, a folder with labels.csv, CIFAR's binary files, TFRecord shards, or .npz "
        "files",
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the folder of the run"
    )


def load_callbacks(names: Sequence[str]) -> list[keras.callbacks.Callback]:
    """Make the callbacks of a user.

    Args:
        names: Functions without arguments, as `module:function`, each of which returns a callback
            or a list of them.

    Returns:
        The callbacks.

    Raises:
        ValueError: If there is no such function, or it returns something else.
    """
    found: list[keras.callbacks.Callback] = []
    for name in names:
        module, _, function = name.partition(":")
        try:
            make = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"--callbacks must be module:function, importable from here. Received: {name!r} "
                f"({error})"
            ) from error
        made = make()
        made = list(made) if isinstance(made, (list, tuple)) else [made]
        wrong = [each for each in made if not isinstance(each, keras.callbacks.Callback)]
        if wrong:
            raise ValueError(
                f"--callbacks: {name} must return callbacks of Keras. Received: {wrong[0]!r}"
            )
        found += made
    return found


def _add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the net is trained."""
    parser.add_argument(
        "--data-on-device",
        action="store_true",
        help="keep all images as uint8 in the memory of the device and augment them there, on any "
        "backend of Keras: for `digits` and sets of files that fit; one device, crop = pad or none",
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
        "--wait-minutes",
        type=float,
        default=WAIT_MINUTES,
        metavar="M",
        help="how long one of several workers waits for the others to start "
        f"(default: {WAIT_MINUTES:g})",
    )


def _add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how much memory a run may take."""
    parser.add_argument(
        "--memory-gib",
        type=float,
        metavar="GIB",
        help="memory that the run may take, of the machine, or of each accelerator: "
        "`--batch-size auto` takes the largest batch that fits, and any other batch is divided "
        "into as many micro-batches as it takes (default: what is free, for `--batch-size auto`)",
    )


def _add_pace_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `Pace`."""
    parser.add_argument(
        "--log-every",
        type=int,
        default=50,
        metavar="N",
        help="steps between two lines where the output is no terminal (default: 50)",
    )
    parser.add_argument(
        "--save-every",
        type=int,
        default=1,
        metavar="N",
        help="epochs between two checkpoints; a stopped run goes on from the last (default: 1)",
    )
    parser.add_argument(
        "--rollback",
        action="store_true",
        help="where the loss explodes, go back once to the last checkpoint, and on from there with "
        "half the learning rate, instead of stopping",
    )
    parser.add_argument(
        "--callbacks",
        nargs="+",
        default=(),
        metavar="MODULE:FUNCTION",
        help="functions that return callbacks of your own for `model.fit`",
    )
    parser.add_argument(
        "--stop-after",
        type=int,
        metavar="N",
        help="stop once N epochs are completed in all; the same command with a larger N, or "
        "without it, goes on in the recipe's schedule",
    )


def named_recipe(arguments: Sequence[str]) -> Recipe:
    """Load the recipe that a command line names: its values are the defaults in `--help`.

    A value that neither the file of the recipe nor the command line gives is that of the weights
    to start from.

    Args:
        arguments: The arguments, without the name of the program.

    Returns:
        The recipe, without the overrides.

    Raises:
        ValueError: If a value of the recipe is wrong.
        FileNotFoundError: If there is no such recipe.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    parser.add_argument("--init")
    parser.add_argument("--model")
    named = parser.parse_known_args(arguments)[0]
    if not named.recipe:
        return Recipe()
    values = recipe_values(named.recipe)
    init = named.init or values.get("init")
    if not init:
        return load_recipe(named.recipe)
    pretrained = find_pretrained(init, named.model or values.get("model"))
    return load_recipe(named.recipe, {**pretrained.values, "init": init})


def describe(options: argparse.Namespace, recipe: Recipe, images: Images) -> dict[str, Any]:
    """Collect everything that decides the outcome of a run, as JSON values."""
    description = {
        "recipe_name": options.recipe,
        "recipe": dataclasses.asdict(recipe),
        "attention": recipe_architecture(recipe).attention,
        "seed": recipe.seed,
        "source": images.name,
        "class_names": images.class_names,
        "activation": task_of(images).activation,
        "images": {split: images.num_examples(split) for split in ("train", "test")},
        "validation_split": images.held_out,
        "preprocessing": preprocessing_of(recipe).get_config(),
        "data_on_device": options.data_on_device,
        "deterministic": options.deterministic,
    }
    # As it will be read back: lists instead of tuples.
    return json.loads(json.dumps(description))


def summary(run: Run, progress: Progress, task: Task = ONE_CLASS) -> str:
    """Format the last lines that a run prints."""
    best, last = progress.best, progress.history[-1]
    key = task.best_by
    text = (
        f"Test {task.title}: best {best[key]:.2%} (epoch {best['epoch']}), "
        f"last {last[key]:.2%} (epoch {last['epoch']})\n"
        f"Model: {run.model}\nBest model: {run.best_model}\n"
        f"Curves: {run.curves}\nTable: {run.history_csv}"
    )
    return f"{text}\nTensorBoard: {run.tensorboard}" if run.tensorboard.exists() else text


def run_command(arguments: Sequence[str]) -> int:
    """Train as a command line says.

    Args:
        arguments: The command line, without the program.

    Returns:
        The exit status: 0; 1 if the training failed or other workers did not come; 2 for a wrong
        argument; 75 (`PREEMPTED`) if another worker has gone.

    Raises:
        Preempted: If the run was asked to stop.
    """
    try:
        options, recipe = parse_arguments(arguments)
        callbacks = load_callbacks(options.callbacks)
        choice = choose_batch(options, recipe, arguments)
        job = prepare(options, override_recipe(recipe, options))
        description = describe(options, job.recipe, job.images)
        # It decides nothing: evaluations find the images there.
        description["data_dir"] = options.data_dir
        run = Run(options.output, description | {"batch_choice": choice} if choice else description)
        if run.finished:
            print(f"The run in {run.output} is finished; nothing is left to do.")
            return 0
        net = job.build_net()
        if job.devices.chief:
            print(images_summary(job.images), flush=True)
            run.start(["python", "-m", "training.train", *arguments], job.devices.names)
    except (ValueError, TypeError, OSError) as error:
        print(f"training.train: {error}", file=sys.stderr)
        return 1 if isinstance(error, TimeoutError) else 2
    try:
        with termination() as terminated:
            progress = train(job, net, run, Pace.of(options, terminated.is_set), callbacks)
    except (FloatingPointError, OSError, CheckpointError) as error:
        print(f"training.train: {error}", file=sys.stderr)
        return 1
    except Preempted:
        raise
    except Exception as error:
        if job.devices.agree and (gone := lost_worker(error)):
            # Nothing is wrong here: who starts the workers should start them again.
            print(f"training.train: {gone}", file=sys.stderr)
            return PREEMPTED
        if not (reason := unreadable(error, job.images)):
            raise
        print(f"training.train: {reason}", file=sys.stderr)
        return 1
    if job.devices.chief:
        if progress.history:
            print(summary(run, progress, job.task))
        if not run.finished:
            print(f"Stopped {progress.place(job.recipe.epochs)}, as asked.")
        elif progress.epochs < job.recipe.epochs:
            print(
                f"Stopped after epoch {progress.epochs} of {job.recipe.epochs}: none has been "
                f"better than epoch {progress.best['epoch']} (patience = {job.recipe.patience})."
            )
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: that of `run_command`; 75 (`PREEMPTED`) after SIGTERM, once the state is
        saved that the same command goes on from; 130 after Ctrl-C.
    """
    try:
        return run_command(list(sys.argv[1:] if arguments is None else arguments))
    except Preempted as stop:
        print(stop, flush=True)
        return PREEMPTED
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on after the last checkpoint.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
