r"""A search on real images: against hand-set nets, KerasTuner's `HyperResNet`, and more workers.

    python -m benchmarks.search search hand hyper_resnet --data DATA/cifar10 \
        --output benchmarks/results/search
    python -m benchmarks.search workers --data DATA/cifar10 --output benchmarks/results/search

The parts, each resumable; a part that is done is only read:

- `search`: Hyperband over depth, width, attention and learning rate around ResNet-20, no more FLOPs
  than ResNet-20 has. The best is then trained anew with each seed.
- `hand`: hand-set depths and widths of as many FLOPs, with the same schedule and seeds.
- `hyper_resnet`: KerasTuner's hypermodel and tuner, for the processor seconds the search took.
- `workers`: trials an hour of one worker and of three, and what becomes of a trial whose worker is
  killed.

Nets are chosen by held-out training images, and compared by the test images, which none has seen.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import report, table, write
from keras_preact.analysis import architecture_cost
from training import processes
from training.net import recipe_architecture
from training.recipe import Recipe
from training.records.files import write_json
from training.run import read_run
from training.search.ranking import leaderboard
from training.search.trials import Record, SearchFolder
from training.train import parse_arguments as parse_training

# Maps of half the size from the first unit on, as in the recipe.
RECIPE_OPTIONS = (
    *("--recipe", "cifar_ablation", "--model", "PreActResNet20"),
    *("--model-options", "units=[3, 3, 3]", "channels=[16, 32, 64]", "stem_channels=16"),
    *("--epochs", "9", "--epoch-steps", "100"),
)
MAX_TRIALS = 23
SPACE = Path(__file__).with_name("search_space.toml")
TRAIN_IMAGES, HELD_OUT = 1500, 250


@dataclass(frozen=True)
class Hand:
    """A hand-set net.

    Attributes:
        name: Its name.
        units: Units of each stage.
        channels: Channels of each stage.
    """

    name: str
    units: tuple[int, ...]
    channels: tuple[int, ...]


HAND_SET = (
    Hand("ResNet-20", (3, 3, 3), (16, 32, 64)),
    Hand("ResNet-14, wider", (2, 2, 2), (19, 38, 76)),
    Hand("ResNet-32, narrower", (5, 5, 5), (12, 24, 48)),
)


def make_subset(data: Path, subset: Path) -> None:
    """Make a folder of images to train on, and of others, held out, to choose by.

    Args:
        data: A folder `train/CLASS/*.jpg`.
        subset: The new folder, of links: its `test` images are of `data`'s `train`.
    """
    if subset.exists():
        return
    partial = subset.with_name(subset.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for folder in sorted((data / "train").iterdir()):
        images = sorted(folder.iterdir())
        parts = {"train": images[:TRAIN_IMAGES], "test": images[-HELD_OUT:]}
        for split, chosen in parts.items():
            target = partial / split / folder.name
            target.mkdir(parents=True)
            for image in chosen:
                (target / image.name).symlink_to(image.resolve())
    partial.rename(subset)


def run(command: Sequence[str], log: Path, threads: int = 1) -> float:
    """Run a command of this repository.

    Args:
        command: The module and its arguments.
        log: Where its output goes.
        threads: Threads of TensorFlow.

    Returns:
        The processor seconds that it took, with all that it started.

    Raises:
        RuntimeError: If it failed.
    """
    print(" ".join(command), flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status = processes.run(command, log, threads)
    if status:
        tail = processes.last_lines(log, 10)
        raise RuntimeError(f"{command[0]} failed with status {status}; {log}:\n{tail}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


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
    def subset(self) -> Path:
        """The images that the searches see."""
        return self.runs / "images"

    @property
    def recipe(self) -> Recipe:
        """ResNet-20 and the schedule."""
        given = ["--data", str(self.subset), "--output", str(self.runs)]
        return parse_training([*RECIPE_OPTIONS, *self.extra, *given])[1]

    def flops(self, units: Sequence[int], channels: Sequence[int]) -> tuple[int, int]:
        """Return FLOPs and parameters of a hand-set net."""
        options = {**self.recipe.model_options, "units": list(units), "channels": list(channels)}
        recipe = self.recipe.replace(model_options={**options, "stem_channels": channels[0]})
        shape = (recipe.input_size, recipe.input_size, recipe.channels)
        cost = architecture_cost(recipe_architecture(recipe), shape, 10)
        return cost.flops, cost.parameters

    def train(self, options: Sequence[str], name: str, seed: int) -> dict[str, Any]:
        """Train a net to the end and measure it on the test images.

        Args:
            options: Its recipe.
            name: Of its folder.
            seed: Of the run.

        Returns:
            Accuracy on the images held out and on the test images.
        """
        output = self.runs / name / f"seed{seed}"
        log = self.runs / name / f"seed{seed}.txt"
        output.parent.mkdir(parents=True, exist_ok=True)
        if not (output / "run.json").exists() or read_run(output)["status"] != "finished":
            given = ["--data", str(self.subset), "--output", str(output), "--seed", str(seed)]
            run(["training.train", *options, *given], log)
        tested = output / "test" / "evaluation.json"
        if not tested.exists():
            given = ["--model", str(output), "--data", str(self.data)]
            given += ["--output", str(tested.parent)]
            run(["training.evaluate", *given], log)
        return {
            "val_top1": read_run(output)["history"][-1]["val_top1"],
            "test_top1": json.loads(tested.read_text())["top1"],
        }

    def tune(self, name: str, options: Sequence[str]) -> list[str]:
        """Return the command line of a search."""
        return [
            *("training.tune", *RECIPE_OPTIONS, *self.extra, "--data", str(self.subset)),
            *("--space", str(SPACE), "--output", str(self.runs / name), *options),
        ]


def search(bench: Benchmark) -> dict[str, Any]:
    """Search, and train the best with every seed."""
    limit, _ = bench.flops(HAND_SET[0].units, HAND_SET[0].channels)
    options = ["--oracle", "hyperband", "--max-trials", str(MAX_TRIALS), "--threads", "1"]
    seconds = run(
        bench.tune("search", [*options, "--max-flops", str(limit)]), bench.runs / "search.txt"
    )
    folder = SearchFolder(bench.runs / "search")
    spent = bench.runs / "search" / "processor_seconds.json"
    if not spent.exists():
        write_json(spent, seconds)
    for name in ("leaderboard.md", "leaderboard.csv", "flops.png", "parallel.png"):
        shutil.copy(folder.output / name, bench.output / name)
    record = leaderboard(folder.records(), "val_top1")[0]
    best = folder.output / "best-1.toml"
    shutil.copy(best, bench.output / best.name)
    net = {
        **{"name": "searched", "flops": record.flops, "parameters": record.parameters},
        "results": [
            bench.train(["--recipe", str(best)], "best-1", seed) for seed in range(bench.seeds)
        ],
    }
    return {
        "nets": [net],
        "trials": len(folder.records()),
        "seconds": json.loads(spent.read_text()),
        "epochs": sum(_own_epochs(record) for record in folder.records()),
    }


def _own_epochs(record: Record) -> int:
    """Return the epochs that a trial added to the one that it continued."""
    return record.epochs - record.attempts[0]["after_epoch"]


def hand(bench: Benchmark) -> dict[str, Any]:
    """Train the hand-set nets with every seed."""
    nets = []
    for net in HAND_SET:
        options = [f"units={list(net.units)}", f"channels={list(net.channels)}"]
        options += [f"stem_channels={net.channels[0]}"]
        flops, parameters = bench.flops(net.units, net.channels)
        # `--model-options` is given twice: the last counts, on top of the recipe's.
        recipe = [*RECIPE_OPTIONS, *bench.extra, "--model-options", *options]
        folder = "hand-" + "-".join(map(str, (*net.units, *net.channels)))
        results = [bench.train(recipe, folder, seed) for seed in range(bench.seeds)]
        nets.append(
            {"name": net.name, "flops": flops, "parameters": parameters, "results": results}
        )
    return {"nets": nets}


def hyper_resnet(bench: Benchmark) -> dict[str, Any]:
    """Run KerasTuner's hypermodel for the processor seconds of the search."""
    spent = bench.runs / "search" / "processor_seconds.json"
    if not spent.exists():
        raise RuntimeError("`hyper_resnet` needs the processor seconds of `search`: run it first.")
    output = bench.runs / "hyper_resnet"
    command = [
        *("benchmarks.hyper_resnet", "--data", str(bench.subset), "--test-data", str(bench.data)),
        *("--output", str(output), "--seconds", spent.read_text().strip(), *bench.extra),
    ]
    account = output / "account.json"
    if not account.exists() or "test_top1" not in json.loads(account.read_text()):
        run(command, bench.runs / "hyper_resnet.txt")
    values = json.loads(account.read_text())
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
    """Time searches of one worker and of three, and kill a worker of a third search."""
    options = ["--oracle", "random", "--max-trials", "12", "--epochs", "1", "--threads", "1"]
    options += ["--warmup-epochs", "0", "--schedule", "constant"]
    measured = {}
    for name, count in (("workers1", 1), ("workers3", 3)):
        result = bench.runs / f"{name}.json"
        if not result.exists():
            # A time is that of one undisturbed run.
            shutil.rmtree(bench.runs / name, ignore_errors=True)
            started = time.monotonic()
            command = bench.tune(name, [*options, "--workers", str(count)])
            run(command, bench.runs / f"{name}.txt", threads=0)
            hours = (time.monotonic() - started) / 3600
            write_json(result, {"hours": hours, **_attempts(SearchFolder(bench.runs / name))})
        measured[name] = json.loads(result.read_text())
    result = bench.runs / "killed.json"
    if not result.exists():
        shutil.rmtree(bench.runs / "killed", ignore_errors=True)
        log = bench.runs / "killed.txt"
        log.unlink(missing_ok=True)
        killer = threading.Thread(target=_kill_worker, args=(log,), daemon=True)
        killer.start()
        run(bench.tune("killed", [*options, "--workers", "3"]), log, threads=0)
        killer.join()
        write_json(result, _attempts(SearchFolder(bench.runs / "killed")))
    return {**measured, "killed": json.loads(result.read_text())}


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


def _attempts(folder: SearchFolder) -> dict[str, Any]:
    """Count how often trials were begun."""
    records = folder.records()
    return {
        "trials": len(records),
        "finished": sum(record.status == "finished" for record in records),
        "attempts": sum(len(record.attempts) for record in records),
        "epochs": sum(len(folder.history(record)) for record in records),
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
            lines.append(
                f"- {name}: {part['trials']} trials, {part['epochs']} epochs, "
                f"{part['seconds']:.0f} processor seconds."
            )
    if "workers" in parts:
        lines += ["", *_workers_lines(parts["workers"])]
    return "\n".join(lines)


def _net_row(net: dict[str, Any]) -> list[str]:
    tested = [result["test_top1"] for result in net["results"]]
    held_out = statistics.median(result["val_top1"] for result in net["results"])
    return [
        *(net["name"], f"{net['flops'] / 1e6:.2f}", f"{net['parameters']:,}"),
        *(f"{statistics.median(tested):.2%}", ", ".join(f"{each:.2%}" for each in tested)),
        f"{held_out:.2%}",
    ]


def _workers_lines(part: dict[str, Any]) -> list[str]:
    rows = []
    for name, label in (
        ("workers1", "chief and 1 worker"),
        ("workers3", "chief and 3 workers"),
        ("killed", "3 workers, one killed in mid-trial"),
    ):
        each = part[name]
        speed = f"{each['finished'] / each['hours']:.1f}" if "hours" in each else ""
        counts = [each[key] for key in ("trials", "finished", "attempts", "epochs")]
        rows.append([label, speed, *counts])
    header = ["", "trials an hour", "trials", "finished", "attempts", "epochs trained"]
    return [
        table(header, rows),
        "",
        "Each trial is one epoch: as many epochs as trials means that nothing was run twice, and "
        "one attempt more than trials that the killed worker's was taken up by its successor.",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        epilog="Any other option is one of training.train's recipe, to try it in small.",
    )
    parser.add_argument("parts", nargs="+", choices=PARTS, help="what to do")
    parser.add_argument("--data", type=Path, required=True, help="train/CLASS/*, test/CLASS/*")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"))
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default: 3")
    options, extra = parser.parse_known_args(arguments)
    bench = Benchmark(options.data, options.runs, options.output, options.seeds, tuple(extra))
    bench.output.mkdir(parents=True, exist_ok=True)
    bench.runs.mkdir(parents=True, exist_ok=True)
    make_subset(bench.data, bench.subset)
    results = bench.output / "results.json"
    parts = json.loads(results.read_text()) if results.exists() else {}
    for name in options.parts:
        parts[name] = PARTS[name](bench)
        write_json(results, parts)
    parts = {name: parts[name] for name in PARTS if name in parts}
    text = report(
        "A search on CIFAR-10 (JPEG)",
        f"python -m benchmarks.search {' '.join(parts)} --data DATA/cifar10 "
        f"--output {options.output}",
        ("keras", "keras-tuner", "tensorflow"),
        f"{TRAIN_IMAGES * 10:,} training images; nets are chosen by {HELD_OUT * 10:,} others, "
        "held out, and compared by the 10,000 test images.\n\n" + describe(parts),
    )
    write(text, bench.output / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
