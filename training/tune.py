"""Search for a net: `python -m training.tune --recipe NAME --data SOURCE --space NAME …`.

Started again with the same arguments, finished trials stay finished, and one that was interrupted
goes on after its last completed epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
import tensorflow as tf

from keras_preact.tuning import ORACLES, Constraints, SearchSpace, make_oracle
from keras_preact.tuning.constrained import Constrained
from keras_preact.tuning.rungs import Rungs
from training import processes
from training.cores import usable_cores
from training.hyperrule import apply_rule
from training.listing.find import add_source_arguments
from training.listing.listing import is_same_set, summary
from training.recipe import (
    Recipe,
    add_recipe_arguments,
    decisive,
    differences,
    fixed_batch,
    override_recipe,
    steps_per_epoch,
)
from training.search import RecipeHyperModel, load_space
from training.search.cluster import Cluster, share_devices
from training.search.confirm import confirm
from training.search.ranking import BEST, OBJECTIVES, PROMOTIONS, leaderboard
from training.search.report import Board, write_report
from training.search.trials import Record, SearchFolder
from training.search.tuner import (
    CHIEF,
    SearchOver,
    Training,
    TrainingTuner,
    check_state,
    continuable,
)
from training.sources import ImageSource, open_source
from training.train import named_recipe

# Failed trials in a row after which something else than the nets must be wrong.
MAX_FAILURES = 5
# Oracles that continue trials, as text.
_RUNGS = ", ".join(name for name, oracle in ORACLES.items() if issubclass(oracle, Rungs))


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    """Read the command line.

    Args:
        arguments: The arguments, without the name of the program.

    Returns:
        The options, and the recipe with the overrides applied.

    Raises:
        ValueError: If a value of the recipe, or a number, is wrong.
        FileNotFoundError: If there is no such recipe.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.tune",
        allow_abbrev=False,
        description=(
            "Search for a net. Each trial is a run of training.train. Started again with the same "
            "arguments, finished trials stay finished and interrupted ones go on."
        ),
        epilog="Every value of the recipe may be overridden, as in training.train.",
    )
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="NAME",
        help="values that stay the same; see training.train",
    )
    parser.add_argument("--data", required=True, metavar="SOURCE", help="see training.train")
    add_source_arguments(parser)
    parser.add_argument(
        "--space", required=True, metavar="NAME", help="a name in training/spaces, or a TOML file"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the folder of the search"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="search nothing; write table, plots and recipes of the search in --output, which is "
        "then all that is needed",
    )
    _add_search_arguments(parser.add_argument_group("search"))
    _add_machine_arguments(parser.add_argument_group("processes"))
    recipe = named_recipe(arguments)
    add_recipe_arguments(parser, recipe)
    options = parser.parse_args(arguments)
    _check_options(options)
    return options, fixed_batch(override_recipe(recipe, options))


def _check_options(options: argparse.Namespace) -> None:
    for name, least in (
        ("workers", 0),
        ("threads", 0),
        ("retries", 0),
        ("confirm", 0),
        ("keep_best", 1),
        ("wait_minutes", 0),
        ("latency_batch_size", 1),
        ("max_trials", 1),
        ("factor", 2),
    ):
        value = getattr(options, name)
        # A comparison with NaN is false.
        if value is not None and not value >= least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be {least} or more. Received: {value}")
    if options.promote_by and not issubclass(ORACLES[options.oracle], Rungs):
        raise ValueError(
            f"--promote-by is for oracles that continue trials: {_RUNGS}. "
            f"Received: --oracle {options.oracle}"
        )


def _add_search_arguments(group: Any) -> None:
    group.add_argument("--oracle", choices=ORACLES, default="hyperband", help="default: hyperband")
    group.add_argument(
        "--max-trials",
        type=int,
        required=True,
        metavar="N",
        help=f"most trials; with {_RUNGS}, to continue one is a trial as well. A larger number on "
        "the same command extends the search",
    )
    group.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="val_top1",
        help="what trials are compared by, after their last epoch (default: val_top1)",
    )
    group.add_argument(
        "--factor",
        type=int,
        default=3,
        metavar="N",
        help=f"{_RUNGS}: one trial of N is continued, with N times the epochs (default: 3)",
    )
    group.add_argument(
        "--promote-by",
        choices=PROMOTIONS,
        help=f"{_RUNGS}: metric by which trials are continued; top1 and loss are those of the "
        "training (default: the objective)",
    )
    group.add_argument(
        "--max-flops", type=_count, metavar="N", help="multiply-adds for one image, such as 4e7"
    )
    group.add_argument("--max-parameters", type=_count, metavar="N", help="such as 3e5")
    group.add_argument(
        "--max-latency", type=_seconds, metavar="SECONDS", help="for a batch, on this machine"
    )
    group.add_argument(
        "--latency-batch-size", type=int, default=1, metavar="N", help="images of it (default: 1)"
    )
    group.add_argument(
        "--fill",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="scale the widths of every candidate until it uses 95%% to 100%% of the limit that it "
        "reaches first (the default where there is a limit)",
    )
    group.add_argument(
        "--confirm",
        type=int,
        default=0,
        metavar="N",
        help="train the best three nets again, to the end and with N other seeds each, and tell "
        "which of them chance cannot explain (default: 0)",
    )
    group.add_argument(
        "--keep-best",
        type=int,
        metavar="N",
        help="remove the weights of all finished trials but the best N (default: keep all); with "
        f"{_RUNGS} at the end, and not those of trials that a larger --max-trials may continue",
    )


def _add_machine_arguments(group: Any) -> None:
    group.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="trials at a time, each of its own process, with a chief that hands them out "
        "(default: none, one trial after the other)",
    )
    group.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads that a trial computes on (default: all cores, shared among the workers)",
    )
    group.add_argument(
        "--devices",
        nargs="+",
        default=(),
        metavar="DEVICE",
        help="see training.train; GPUs are shared out among the workers",
    )
    group.add_argument(
        "--retries",
        type=int,
        default=1,
        metavar="N",
        help="how often a trial that was killed is taken up again (default: 1)",
    )
    group.add_argument(
        "--wait-minutes",
        type=float,
        default=processes.WAIT_MINUTES,
        metavar="M",
        help="how long a worker of another machine waits for the chief "
        f"(default: {processes.WAIT_MINUTES:g})",
    )


def _count(text: str) -> int:
    """Return a count that may be written as 4e7."""
    number = _number(text)
    if not 0 < number < math.inf or number != int(number):
        raise argparse.ArgumentTypeError(
            f"must be a whole number above 0, such as 4e7. Received: {text!r}"
        )
    return int(number)


def _seconds(text: str) -> float:
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0. Received: {text!r}")
    return number


def _number(text: str) -> float:
    """Return a number, or NaN for a text that is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def describe(
    options: argparse.Namespace, recipe: Recipe, space: SearchSpace, source: ImageSource
) -> dict[str, Any]:
    """Collect everything that decides the outcome of a search, as JSON values."""
    names = ("oracle", "max_trials", "objective", "factor", "promote_by")
    limits = ("max_flops", "max_parameters", "max_latency", "latency_batch_size", "fill")
    description = {
        "recipe": dataclasses.asdict(recipe),
        "space": dataclasses.asdict(space),
        "source": source.name,
        "class_names": source.class_names,
        "images": {split: source.num_examples(split) for split in ("train", "test")},
        "validation_split": source.held_out,
        **{name: getattr(options, name) for name in (*names, *limits)},
    }
    # As it will be read back: lists instead of tuples.
    return json.loads(json.dumps(description))


def check_folder(folder: SearchFolder, description: dict[str, Any]) -> None:
    """Check that a folder is new, empty, or that of the same search.

    Args:
        folder: The folder.
        description: Of the search, which may have more trials than it had.

    Raises:
        FileExistsError: If it holds something else.
        ValueError: If a file in it is damaged.
    """
    output = folder.output
    if folder.description.exists():
        recorded = _completed(folder, description)
        if recorded["max_trials"] < description["max_trials"]:
            recorded["max_trials"] = description["max_trials"]
        changes = []
        for name, value in description.items():
            if isinstance(value, dict):
                changes += differences(decisive(recorded[name]), decisive(value))
            else:
                changes += differences({name: recorded[name]}, {name: value})
        if changes:
            raise FileExistsError(
                f"{output} holds another search. Give another --output, or the same values:\n  "
                + "\n  ".join(changes)
            )
        if records := folder.records(description["objective"]):
            check_state(folder)
        for record in records:
            folder.history(record)
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(
            f"--output must be new, empty or the folder of the same search. {output} has no "
            f"{folder.description.name}."
        )


def _completed(folder: SearchFolder, description: dict[str, Any]) -> dict[str, Any]:
    """Read the record of a search, put as this version and this command would put the same.

    Args:
        folder: Of the search.
        description: What this version would record.

    Raises:
        ValueError: If the record is damaged.
    """
    unknown = {"validation_split": None, "fill": False, "promote_by": None}
    entries = {
        name: dict if isinstance(value, dict) else object
        for name, value in description.items()
        if name not in unknown
    }
    recorded = {**unknown, **folder.described({**entries, "max_trials": int})}
    if all(recorded[limit] is None for limit in ("max_flops", "max_parameters", "max_latency")):
        # There is nothing to fill.
        recorded["fill"] = description["fill"]
    if recorded["validation_split"] is None:
        # Of shards it was not noted. Of other sets the number of images tells.
        recorded["validation_split"] = description["validation_split"]
    if is_same_set(str(recorded["source"]), description["source"]):
        recorded["source"] = description["source"]
    recipe = {**json.loads(json.dumps(dataclasses.asdict(Recipe()))), **recorded["recipe"]}
    space = {"regnet": {}, **recorded["space"]}
    return {**recorded, "recipe": recipe, "space": space}


def make_search(
    options: argparse.Namespace, recipe: Recipe, space: SearchSpace, source: ImageSource
) -> tuple[RecipeHyperModel, Constrained]:
    """Make the hypermodel of a search, and the oracle that proposes its trials.

    Args:
        options: The parsed command line.
        recipe: Values that all trials share.
        space: Values that vary.
        source: The images.

    Returns:
        The hypermodel and the oracle.

    Raises:
        ValueError: If the space does not fit the recipe, or nothing in it keeps to the limits.
    """
    constraints = Constraints(
        max_parameters=options.max_parameters,
        max_flops=options.max_flops,
        max_latency=options.max_latency,
        latency_batch_size=options.latency_batch_size,
        fill=options.fill,
    )
    hypermodel = RecipeHyperModel(
        recipe, space, len(source.class_names), steps_per_epoch(source, recipe), constraints
    )
    promoted_by = options.promote_by
    oracle = make_oracle(
        options.oracle,
        hypermodel,
        keras_tuner.Objective(options.objective, OBJECTIVES[options.objective]),
        max_trials=options.max_trials,
        max_epochs=recipe.epochs,
        factor=options.factor,
        promote_by=promoted_by and keras_tuner.Objective(promoted_by, PROMOTIONS[promoted_by]),
        seed=recipe.seed,
        max_retries_per_trial=options.retries,
        max_consecutive_failed_trials=MAX_FAILURES,
    )
    return hypermodel, oracle


def run_trials(
    options: argparse.Namespace,
    hypermodel: RecipeHyperModel,
    oracle: Constrained,
    folder: SearchFolder,
) -> None:
    """Run trials until none is left, or hand them out.

    Args:
        options: The parsed command line.
        hypermodel: Makes recipes of the trials' values.
        oracle: Proposes them.
        folder: Where everything goes.

    Raises:
        RuntimeError: If too many trials failed.
    """
    board = Board(folder, options.objective, options.max_trials)

    def changed(record: Record) -> None:
        board.show(record)
        if not isinstance(oracle, Rungs):
            _keep_best(folder, options, oracle)

    TrainingTuner(
        oracle,
        hypermodel,
        folder,
        Training(training_options(options), options.threads),
        options.workers,
        changed,
        options.wait_minutes,
    ).search()


def training_options(options: argparse.Namespace) -> list[str]:
    """Return the options of `training.train` that all trainings share."""
    training = ["--data", options.data]
    if options.data_dir:
        training += ["--data-dir", options.data_dir]
    if options.validation_split is not None:
        training += ["--validation-split", str(options.validation_split)]
    if options.devices:
        training += ["--devices", *options.devices]
    return training


def worker_options(options: argparse.Namespace) -> list[list[str]]:
    """Return the threads and devices of each worker on this machine.

    Args:
        options: The parsed command line.

    Returns:
        Arguments for each worker.

    Raises:
        ValueError: If there are GPUs, and not the same number for each.
    """
    threads = options.threads or max(1, usable_cores() // options.workers)
    gpus = range(len(tf.config.list_physical_devices("GPU")))
    devices = options.devices or [f"GPU:{index}" for index in gpus]
    return [
        ["--threads", str(threads), *(["--devices", *names] if names else [])]
        for names in share_devices(devices, options.workers)
    ]


def run_search(
    arguments: Sequence[str],
    options: argparse.Namespace,
    search: tuple[RecipeHyperModel, Constrained],
    folder: SearchFolder,
    description: dict[str, Any],
) -> int:
    """Run a search in its folder, and write the report.

    Args:
        arguments: The command line.
        options: The same, parsed.
        search: Hypermodel and oracle.
        folder: Where everything goes.
        description: Of the search.

    Returns:
        The exit status.

    Raises:
        RuntimeError: If too many trials failed.
    """
    if not (folder.claimed(description) and folder.ended()):
        starts_workers = options.workers and "KERASTUNER_ORACLE_IP" not in os.environ
        # An error of theirs comes before anything is written.
        workers = worker_options(options) if starts_workers else []
        folder.claim(description)
        if workers:
            if status := Cluster(["training.tune", *arguments], workers).run():
                return status
        else:
            run_trials(options, *search, folder)
        folder.end(description)
    _keep_best(folder, options, search[1])
    report = write_report(folder)
    if options.confirm:
        # It may end early, and takes a while.
        print(f"{folder.output} has the results so far; the best are trained again.", flush=True)
        best = leaderboard(folder.records(), options.objective)[:BEST]
        confirm(folder, best, options.confirm, training_options(options), options.threads)
        report = write_report(folder)
    print(report)
    return _tell_of_deaths(folder)


def _keep_best(folder: SearchFolder, options: argparse.Namespace, oracle: Constrained) -> None:
    """Remove the weights of all finished trials but the best, and those that may be continued."""
    if not options.keep_best:
        return
    records = folder.records(options.objective)
    trials = continuable(oracle, folder) if isinstance(oracle, Rungs) else ()
    needed = {record.run for record in records if record.trial in trials}
    others = leaderboard(records, options.objective)[options.keep_best :]
    folder.remove_weights(record for record in others if record.run not in needed)


def _tell_of_deaths(folder: SearchFolder) -> int:
    """Name the trials that a signal has ended, and return the exit status."""
    records = folder.records()
    died = [record for record in records if record.status == "failed" and record.signal]
    if not died:
        return 0
    print(
        f"training.tune: {len(died)} of {len(records)} trials were ended by a signal, so their "
        "nets have no result:",
        file=sys.stderr,
    )
    for record in died:
        name = signal.Signals(record.signal).name
        print(f"  trial {record.trial}: {name}; {folder.log(record.trial)}", file=sys.stderr)
    return 1


def tune(arguments: Sequence[str]) -> int:
    """Run the search in this process, with a cluster on this machine, or as a member of one.

    KerasTuner's variables in the environment make this process a chief or a worker.

    Args:
        arguments: The command line.

    Returns:
        The exit status.

    Raises:
        ValueError: If an argument is wrong.
        OSError: If the data or the output cannot be used.
        RuntimeError: If too many trials failed.
    """
    _check_environment()
    options, recipe = parse_arguments(arguments)
    space = load_space(options.space)
    source = open_source(options.data, options.data_dir, options.validation_split)
    if source.label_sets is not None:
        raise ValueError(
            "A search is for nets that tell one class per image. Received: --data "
            f"{options.data}, whose images have several labels; training.train takes them"
        )
    _check_metrics(options, len(source.class_names))
    # The rule has then decided, for all trials alike.
    recipe = override_recipe(apply_rule(recipe, source), options).replace(rule="none")
    folder = SearchFolder(options.output)
    description = describe(options, recipe, space, source)
    if not _is_worker():
        check_folder(folder, description)
    search = make_search(options, recipe, space, source)
    if not _is_worker():
        print(summary(source), flush=True)
        return run_search(arguments, options, search, folder, description)
    # A chief takes no folder in which others have written.
    processes.wait_for(
        lambda: _missing(folder, description),
        options.wait_minutes,
    )
    if not folder.ended():
        with contextlib.suppress(SearchOver):
            run_trials(options, *search, folder)
    return 0


def _missing(folder: SearchFolder, description: dict[str, Any]) -> str:
    """Return what a worker waits for: the chief, until it has begun this search."""
    if folder.description.exists():
        check_folder(folder, description)
    claimed = folder.claimed(description)
    return "" if claimed else f"the chief to begin {folder.description}"


def _check_metrics(options: argparse.Namespace, classes: int) -> None:
    if classes <= 5 and "val_top5" in (options.objective, options.promote_by):
        raise ValueError(
            f"val_top5 is for more than five classes. Received: --data {options.data}, which has "
            f"{classes}"
        )


def _check_environment() -> None:
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return
    for name in ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        if name not in os.environ:
            raise ValueError(
                f"The environment has KERASTUNER_ORACLE_IP, which makes this process a chief or a "
                f"worker, and must have {name} as well."
            )


def _is_worker() -> bool:
    return "KERASTUNER_ORACLE_IP" in os.environ and os.environ["KERASTUNER_TUNER_ID"] != CHIEF


def _reported(arguments: Sequence[str]) -> SearchFolder | None:
    """Return the folder that only a report is requested for."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--output", type=Path)
    options, _ = parser.parse_known_args(arguments)
    return SearchFolder(options.output) if options.report and options.output else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: 0, 1 if too many trials failed or a signal ended one, 2 for a wrong
        argument or a damaged file, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Latencies are measured in this process; the trials need the memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    try:
        if folder := _reported(arguments):
            print(write_report(folder))
            return 0
        return tune(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"training.tune: {error}", file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(f"training.tune: {error.details()}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(f"training.tune: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
