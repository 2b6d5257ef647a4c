r"""A search on real images: against hand-set nets, KerasTuner's `HyperResNet`, and more workers.

    python -m benchmarks.search search hand hyper_resnet --data DATA/cifar-10-batches-bin \
        --output benchmarks/results/search
    python -m benchmarks.search workers --data DATA/cifar-10-batches-bin \
        --output benchmarks/results/search

The parts, each resumable; a part that is done is only read, and refused if its options or images
were others:

- `search`: successive halving over shapes that have the FLOPs of ResNet-20. The best three are then
  trained anew with each seed, and the one of the best mean is the net that was found.
- `hand`: hand-set shapes, their widths scaled to as many FLOPs, with the same schedule and seeds.
- `hyper_resnet`: KerasTuner's hypermodel and tuner, for the processor seconds the search took.
- `workers`: one search with one worker, with four, and with four of which one is killed: the trials
  an hour, what becomes of the killed worker's, and the net that each finds.

Nets are chosen by training images that are held out, and compared by the test images, which none
has seen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import at_least, command_line, failed
from benchmarks.report import Report, table
from keras_preact.analysis import Cost, architecture_cost
from keras_preact.files import read_json, write_json
from keras_preact.tuning import Constraints, SearchSpace
from keras_preact.tuning.candidates import Candidates
from training import processes
from training.net import recipe_architecture
from training.recipe import Recipe
from training.run import read_run
from training.search.confirm import Confirmed, confirmed, verdict
from training.search.ranking import leaderboard
from training.search.trials import Record, SearchFolder
from training.train import parse_arguments as parse_training

# Maps of half the size from the first unit on, as in the recipe.
RECIPE_OPTIONS = (
    *("--recipe", "cifar_ablation", "--model", "PreActResNet20"),
    *("--model-options", "units=[3, 3, 3]", "channels=[16, 32, 64]", "stem_channels=16"),
    *("--epochs", "9", "--epoch-steps", "100"),
)
CLASSES = 10
# 27 nets for an epoch, 9 of them for 3 and 3 for 9: the epochs of 7 full trainings.
HALVING = ("--oracle", "bayesian_halving", "--max-trials", "39", "--promote-by", "top1")
SPACE = Path(__file__).with_name("search_shapes.toml")
HELD_OUT = ("--validation-split", "0.1")
# The search that several crews run: it proposes the same nets in the same order to each.
CREW_OPTIONS = (
    *("--oracle", "random", "--max-trials", "12"),
    *("--epochs", "1", "--warmup-epochs", "0", "--schedule", "constant"),
)


@dataclass(frozen=True)
class Hand:
    """A hand-set shape.

    Attributes:
        name: Its name.
        units: Units of each stage, whose widths double.
    """

    name: str
    units: int


@dataclass(frozen=True)
class Crew:
    """Workers of a search.

    Attributes:
        workers: Their number.
        killed: Whether one of them is killed in mid-trial.
    """

    workers: int
    killed: bool = False

    @property
    def name(self) -> str:
        """Its name in the table."""
        number = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return f"{number}, one killed in mid-trial" if self.killed else number


HAND_SET = (Hand("WRN-10", 1), Hand("ResNet-14", 2), Hand("ResNet-20", 3), Hand("ResNet-32", 5))
CREWS = (Crew(1), Crew(4), Crew(4, killed=True))


def run(command: Sequence[str], log: Path, threads: int = 1) -> None:
    """Run a command of this repository.

    Args:
        command: The module and its arguments.
        log: Where its output goes.
        threads: Threads of TensorFlow.

    Raises:
        RuntimeError: If it failed.
    """
    print(" ".join(command), flush=True)
    status = processes.run(command, log, threads)
    if status:
        tail = processes.last_lines(log, 10)
        raise RuntimeError(f"{command[0]} failed with status {status}; {log}:\n{tail}")


@contextlib.contextmanager
def accounted(path: Path) -> Iterator[None]:
    """Add to a file the processor seconds of the commands that end within a `with` statement.

    They hold those of all that a command has started and waited for. While commands run, the file
    holds none: they are lost if this process is killed.

    Args:
        path: The JSON file: a number, or null while commands run.

    Raises:
        RuntimeError: If seconds were lost.
    """
    spent = seconds_of(path) if path.exists() else 0.0
    before = _seconds_of_commands()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, None)
    try:
        yield
    finally:
        write_json(path, spent + _seconds_of_commands() - before)


def seconds_of(path: Path) -> float:
    """Read the file of `accounted`.

    Raises:
        RuntimeError: If seconds were lost.
        FileNotFoundError: If there is none.
    """
    spent = read_json(path)
    if spent is None:
        raise RuntimeError(
            "This benchmark was killed while a search ran: the processor seconds until then are "
            f"lost. Remove the folder of that search, and {path}."
        )
    return spent


def _seconds_of_commands() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Benchmark:
    """Where everything is.

    Attributes:
        data: The images, a folder with `train` and `test`.
        runs: Folder of searches and runs.
        output: Folder of the results.
        seeds: Runs of each net that is compared.
        extra: Further options of the recipe, to try the benchmark in small.
    """

    data: Path
    runs: Path
    output: Path
    seeds: int
    extra: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        """ResNet-20 and the schedule."""
        given = ["--data", str(self.data), "--output", str(self.runs)]
        return parse_training([*RECIPE_OPTIONS, *self.extra, *given])[1]

    @property
    def spent(self) -> Path:
        """The file of the processor seconds of `search`."""
        # Earlier versions kept it there.
        earlier = self.runs / "search" / "processor_seconds.json"
        return earlier if earlier.exists() else self.runs / "search_processor_seconds.json"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.recipe.input_size, self.recipe.input_size, self.recipe.channels

    @property
    def max_flops(self) -> int:
        """Multiply-adds of ResNet-20."""
        return architecture_cost(recipe_architecture(self.recipe), self.shape, CLASSES).flops

    def train(self, options: Sequence[str], name: str, seed: int, cost: Cost) -> dict[str, Any]:
        """Train a net to the end and measure it on the test images.

        Args:
            options: Its recipe.
            name: Of its folder.
            seed: Of the run.
            cost: See `tested`.

        Returns:
            See `tested`.
        """
        output = self.runs / name / f"seed{seed}"
        log = self.runs / name / f"seed{seed}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        given = ["--data", str(self.data), *HELD_OUT, "--output", str(output)]
        # A finished run ends at once; one of another recipe is refused.
        run(["training.train", *options, *given, "--seed", str(seed)], log)
        return self.tested(output, log, cost)

    def tested(self, output: Path, log: Path, cost: Cost | Record) -> dict[str, Any]:
        """Measure a trained net on the test images.

        Args:
            output: The folder of its run.
            log: Where the command's output goes.
            cost: FLOPs and parameters that the net is said to have.

        Returns:
            Accuracy on the images held out and on the test images.

        Raises:
            RuntimeError: If a net of other FLOPs or parameters was trained.
        """
        recipe = Recipe(**read_run(output)["recipe"])
        trained = architecture_cost(recipe_architecture(recipe), self.shape, CLASSES)
        for name in ("flops", "parameters"):
            if getattr(trained, name) != getattr(cost, name):
                raise RuntimeError(
                    f"The net in {output} must have {getattr(cost, name):,} {name}. "
                    f"It has {getattr(trained, name):,}."
                )
        tested = output / "test" / "evaluation.json"
        # An older one may be of other images.
        given = ["--model", str(output), "--data", str(self.data), "--validation-split", "0"]
        run(["training.evaluate", *given, "--output", str(tested.parent)], log)
        return {
            "val_top1": read_run(output)["history"][-1]["val_top1"],
            "test_top1": json.loads(tested.read_text())["top1"],
        }

    def tune(self, name: str, options: Sequence[str]) -> list[str]:
        """Return the command line of a search."""
        return [
            *("training.tune", *RECIPE_OPTIONS, *self.extra, "--data", str(self.data), *HELD_OUT),
            *("--space", str(SPACE), "--max-flops", str(self.max_flops), "--threads", "1"),
            *("--output", str(self.runs / name), *options),
        ]


def search(bench: Benchmark) -> dict[str, Any]:
    """Search, and train the best three with every seed."""
    command = bench.tune("search", HALVING)
    log = bench.runs / "search.txt"
    folder = SearchFolder(bench.runs / "search")
    if not folder.ended():
        with accounted(bench.spent):
            run(command, log)
    seconds = seconds_of(bench.spent)
    run([*command, "--confirm", str(bench.seeds)], log)
    for name in ("leaderboard.md", "leaderboard.csv", "flops.png", "parallel.png"):
        shutil.copy(folder.output / name, bench.output / name)
    best = confirmed(folder, "val_top1")[0]
    record = folder.read(best.trial)
    # It was trained.
    assert record is not None
    shutil.copy(folder.recipe(best.trial), bench.output / "best.toml")
    runs = sorted((folder.output / "confirmed" / best.trial).glob("seed*/run.json"))
    net = {
        **{"name": "searched", "flops": record.flops, "parameters": record.parameters},
        "results": [bench.tested(path.parent, log, record) for path in runs],
    }
    return {
        "nets": [net],
        "trials": len(folder.records()),
        "interrupted": sum(len(record.attempts) - 1 for record in folder.records()),
        "seconds": seconds,
        "epochs": sum(_own_epochs(record) for record in folder.records()),
        "values": record.values,
        "verdict": verdict(confirmed(folder, "val_top1")),
    }


def _own_epochs(record: Record) -> int:
    """Return the epochs that a trial added to the one that it continued."""
    return record.epochs - record.attempts[0]["after_epoch"]


def hand(bench: Benchmark) -> dict[str, Any]:
    """Train the hand-set nets with every seed."""
    nets = []
    base = recipe_architecture(bench.recipe)
    for net in HAND_SET:
        units = (net.units,) * len(base.units)
        limits = Constraints(max_flops=bench.max_flops)
        space = SearchSpace(units=tuple((count,) for count in units))
        nets_of_shape = Candidates(base, space, bench.shape, CLASSES, limits)
        values = nets_of_shape.hyperparameters().values
        cost, channels = nets_of_shape.cost(values), nets_of_shape.architecture(values).channels
        options = [f"units={list(units)}", f"channels={list(channels)}"]
        recipe = [*RECIPE_OPTIONS, *bench.extra, "--model-options", *options]
        seeds = range(1, bench.seeds + 1)
        results = [bench.train(recipe, net.name, seed, cost) for seed in seeds]
        name = f"{net.name}, {'-'.join(map(str, channels))} channels"
        figures = {"name": name, "flops": cost.flops, "parameters": cost.parameters}
        nets.append({**figures, "results": results})
    return {"nets": nets}


def hyper_resnet(bench: Benchmark) -> dict[str, Any]:
    """Run KerasTuner's hypermodel for the processor seconds of the search."""
    if not bench.spent.exists():
        raise RuntimeError("`hyper_resnet` needs the processor seconds of `search`: run it first.")
    seconds = seconds_of(bench.spent)
    output = bench.runs / "hyper_resnet"
    command = [
        *("benchmarks.hyper_resnet", "--data", str(bench.data)),
        *("--output", str(output), "--seconds", str(seconds), *bench.extra),
    ]
    # What is done ends at once; that of other options or images is refused.
    run(command, bench.runs / "hyper_resnet.txt")
    values = read_json(output / "account.json")
    best = values["best"]
    return {
        "nets": [
            {
                "name": "KerasTuner's HyperResNet",
                "flops": best["flops"],
                "parameters": best["parameters"],
                "results": [{"val_top1": best["val_top1"], "test_top1": values["test_top1"]}],
            }
        ],
        "epochs": len(values["epochs"]),
        "trials": len(list(output.glob("tuner/trial_*"))),
        "seconds": values["seconds"],
    }


def workers(bench: Benchmark) -> dict[str, Any]:
    """Run one search with one worker, with four, and with four of which one is killed."""
    return {crew.name: _searched_by(bench, crew) for crew in CREWS}


def _searched_by(bench: Benchmark, crew: Crew) -> dict[str, Any]:
    """Run the search of a crew, and return how it went."""
    folder = bench.runs / crew.name.replace(" ", "_").replace(",", "")
    log, result = folder.with_suffix(".txt"), folder.with_suffix(".json")
    command = bench.tune(folder.name, [*CREW_OPTIONS, "--workers", str(crew.workers)])
    if not result.exists():
        # A time is that of one undisturbed run.
        shutil.rmtree(folder, ignore_errors=True)
        log.unlink(missing_ok=True)
        killer = threading.Thread(target=_kill_worker, args=(log,), daemon=True)
        started = time.monotonic()
        if crew.killed:
            killer.start()
        run(command, log, threads=0)
        hours = (time.monotonic() - started) / 3600
        if crew.killed:
            killer.join()
        account = _account(SearchFolder(folder))
        write_json(result, {"command": command, "hours": hours, **account})
    found = read_json(result)
    if found.pop("command", None) != command:
        raise ValueError(f"{result} is of another command. Remove it, or give another --runs.")
    return found


def _kill_worker(log: Path) -> None:
    """Kill the worker of the first trial that has begun its training."""
    while True:
        time.sleep(0.5)
        text = log.read_text() if log.exists() else ""
        busy = re.search(r"trial \S+ on (worker\d+): epochs", text)
        if busy:
            # Long enough to be in mid-trial.
            time.sleep(3)
            pid = re.findall(rf"^{busy[1]}: process (\d+)", text, re.MULTILINE)[0]
            os.kill(int(pid), signal.SIGKILL)
            return


def _account(folder: SearchFolder) -> dict[str, Any]:
    """Count how often trials were begun, and name the best."""
    records = folder.records()
    best = leaderboard(records, "val_top1")[0]
    return {
        "trials": len(records),
        "finished": sum(record.status == "finished" for record in records),
        "attempts": sum(len(record.attempts) for record in records),
        "epochs": sum(len(folder.history(record)) for record in records),
        "best": {"trial": best.trial, "values": best.values, "val_top1": best.results["val_top1"]},
    }


PARTS = {"search": search, "hand": hand, "hyper_resnet": hyper_resnet, "workers": workers}


def describe(parts: dict[str, dict[str, Any]]) -> str:
    """Format the results as Markdown.

    Args:
        parts: The results of each part.

    Returns:
        The text.
    """
    nets = [net for part in parts.values() for net in part.get("nets", ())]
    lines = []
    if nets:
        header = ["net", "MFLOPs", "parameters", "test accuracy: median", "every seed", "held out"]
        lines += [table(header, [_net_row(net) for net in nets]), ""]
    for name in ("search", "hyper_resnet"):
        if name in parts:
            part = parts[name]
            lost = part.get("interrupted", 0)
            lines.append(
                f"- {name}: {part['trials']} trials, {part['epochs']} epochs, "
                f"{part['seconds']:.0f} processor seconds"
                + (f", without those of {lost} trainings that were interrupted." if lost else ".")
            )
    if "search" in parts:
        found = ", ".join(f"{name} {value}" for name, value in parts["search"]["values"].items())
        lines += [f"- found: {found}. {parts['search']['verdict']}"]
    if {"search", "hand"} <= parts.keys():
        lines += [_against_the_best(parts["search"]["nets"][0], parts["hand"]["nets"])]
    if "workers" in parts:
        lines += ["", *_workers_lines(parts["workers"])]
    return "\n".join(lines)


def _against_the_best(searched: dict[str, Any], hand_set: Sequence[dict[str, Any]]) -> str:
    """Say how far the net that was found is from the best of those set by hand."""
    own, *others = (Confirmed(net["name"], _tested(net)) for net in (searched, *hand_set))
    best = max(others, key=lambda net: net.mean)
    points, chance = 100 * (own.mean - best.mean), own.chance(best)
    text = f"- The mean of the searched net is {points:+.2f} points from that of {best.trial}"
    if chance is not None:
        text += f", the best set by hand (Welch's t-test: p = {chance:.3f})"
    return f"{text}."


def _tested(net: dict[str, Any]) -> tuple[float, ...]:
    return tuple(result["test_top1"] for result in net["results"])


def _net_row(net: dict[str, Any]) -> list[str]:
    tested = _tested(net)
    held_out = statistics.median(result["val_top1"] for result in net["results"])
    return [
        *(net["name"], f"{net['flops'] / 1e6:.2f}", f"{net['parameters']:,}"),
        *(f"{statistics.median(tested):.2%}", ", ".join(f"{each:.2%}" for each in tested)),
        f"{held_out:.2%}",
    ]


def _workers_lines(part: dict[str, Any]) -> list[str]:
    rows = []
    for name, each in part.items():
        best = each["best"]
        counts = [each[key] for key in ("trials", "finished", "attempts", "epochs")]
        speed = f"{each['finished'] / each['hours']:.0f}"
        rows.append([name, speed, *counts, f"{best['trial']}, {best['val_top1']:.2%}"])
    counted = ("trials", "finished", "attempts", "epochs trained")
    header = ["a chief and", "trials an hour", *counted, "best trial, held out"]
    return [
        table(header, rows),
        "",
        "Each trial is one epoch: as many epochs as trials means that nothing was run twice, and "
        "one attempt more than trials that the killed worker's was taken up by its successor.",
    ]


def measure(bench: Benchmark, names: Sequence[str], command: str) -> None:
    """Do some parts, and write the results of all that were done.

    Args:
        bench: Where everything is.
        names: Keys of `PARTS`.
        command: The command line. The report shows it with those that did the other parts.

    Raises:
        RuntimeError: If a command failed, or its processor seconds are lost.
        ValueError: If a part that is done is of other options or images.
    """
    results = bench.output / "results.json"
    found = read_json(results) if results.exists() else {}
    commands = found.setdefault("commands", {}) | dict.fromkeys(names, command)
    report = Report(
        "A search on CIFAR-10",
        "`, `".join(dict.fromkeys(commands.values())),
        ("keras", "keras-tuner", "tensorflow"),
        bench.output / "README.md",
    )
    for name in names:
        found[name] = PARTS[name](bench)
        found["commands"][name] = command
        write_json(results, found)
    report.write(
        "Nets are trained on nine tenths of the training images, chosen by the others, held out, "
        "and compared by the 10,000 test images.\n\n"
        + describe({name: found[name] for name in PARTS if name in found})
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        epilog="Any other option is one of training.train's recipe, to try it in small.",
    )
    parser.add_argument("parts", nargs="+", choices=PARTS, help="what to do")
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10's files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"))
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N", help="default: 3")
    options, extra = parser.parse_known_args(arguments)
    bench = Benchmark(options.data, options.runs, options.output, options.seeds, tuple(extra))
    bench.runs.mkdir(parents=True, exist_ok=True)
    try:
        measure(bench, options.parts, command_line("benchmarks.search", arguments))
    except (ValueError, RuntimeError, OSError) as error:
        return failed("benchmarks.search", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
