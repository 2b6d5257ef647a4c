r"""Growing a small net against training the large one from scratch, at equal total FLOPs.

    python -m benchmarks.growth --data DATA/cifar-10-batches-bin --output benchmarks/results/growth

The large net is a ResNet-20 with a stem of 8 channels, half of its own, and maps of half the size
(`training/recipes/cifar_ablation.toml` has the rest). It starts from scratch; or from the function
of a net of a third of its units (`deepen`), or of half its channels (`widen`), which was trained
for a part of the budget. Every epoch costs as many FLOPs, whichever net it trains: three times
those of the forward pass, of all its images (one for the pass itself, two for the gradients of maps
and weights), as a `CostTable` counts them. Evaluation is not counted.

Every run is one of `python -m training.train`, a folder of its own under `--runs`, with a one-cycle
schedule of its own; started again, finished ones are only read and an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.command import at_least, command_line, failed
from benchmarks.report import Report, table
from keras_preact.analysis import CostTable
from keras_preact.files import replacing
from training.net import recipe_architecture
from training.recipe import Recipe, load_recipe
from training.records.report import write_history_csv
from training.reproduce import check_data, run
from training.run import read_run

RECIPE = "cifar_ablation"
MODEL = "PreActResNet20"
# Of every path; each is an equal part of the budget.
EPOCHS = 8
# Cost of a training step, in forward passes.
STEP_FACTOR = 3


@dataclass(frozen=True)
class Phase:
    """A net, and how long it is trained.

    Attributes:
        units: Residual units of each stage.
        channels: Output channels of each stage.
        epochs: Of the `EPOCHS` that all phases have together.
    """

    units: tuple[int, ...]
    channels: tuple[int, ...]
    epochs: int


_UNITS, _CHANNELS = (3, 3, 3), (16, 32, 64)
PATHS = {
    "from scratch": (Phase(_UNITS, _CHANNELS, EPOCHS),),
    "deepened": (Phase((1, 1, 1), _CHANNELS, 3), Phase(_UNITS, _CHANNELS, 5)),
    "widened": (Phase(_UNITS, (8, 16, 32), 3), Phase(_UNITS, _CHANNELS, 5)),
}


@functools.cache
def common() -> Recipe:
    """Return the recipe values that all runs share."""
    return load_recipe(RECIPE).replace(model=MODEL)


@functools.cache
def costs() -> CostTable:
    """Return the cost table of all nets that differ in units and channels."""
    size, channels = common().input_size, common().channels
    return CostTable(recipe_architecture(common()), (size, size, channels), classes=10)


def step_flops(phase: Phase) -> int:
    """Return the FLOPs of one training step of a phase's net."""
    forward = costs().cost(phase.units, phase.channels).flops
    return STEP_FACTOR * common().batch_size * forward


@dataclass(frozen=True)
class Plan:
    """Budget of every path.

    Attributes:
        data: As `--data` of `training.train`.
        images: Images that the budget pays for when the large net sees all of them.
        runs: Folder of the runs.
    """

    data: str
    images: int
    runs: Path

    def epoch_steps(self, phase: Phase) -> int:
        """Return the steps of an epoch that costs as much as one of the large net."""
        large = PATHS["from scratch"][0]
        steps = self.images / EPOCHS / common().batch_size
        return max(1, round(steps * step_flops(large) / step_flops(phase)))

    def folder(self, path: str, seed: int, place: int) -> Path:
        """Return the folder of a phase's run."""
        name = f"{path.replace(' ', '-')}-{place + 1}-seed{seed}"
        return self.runs / f"{self.images}-images" / name

    def command(self, path: str, seed: int, place: int) -> list[str]:
        """Return the module and arguments that train a phase, which starts from the one before."""
        phase = PATHS[path][place]
        init = self.folder(path, seed, place - 1)
        return [
            *("training.train", "--recipe", RECIPE, "--model", MODEL),
            *("--model-options", f"units={list(phase.units)}"),
            f"channels={list(phase.channels)}",
            *("--epochs", str(phase.epochs), "--epoch-steps", str(self.epoch_steps(phase))),
            *("--warmup-epochs", str(phase.epochs / 4)),
            *(("--init", str(init), "--grow") if place else ()),
            *("--data", self.data, "--seed", str(seed)),
            *("--output", str(self.folder(path, seed, place))),
        ]


def train(plan: Plan, seeds: int, processes: int) -> None:
    """Train every path with every seed, one phase after the other.

    Args:
        plan: Budget of every path.
        seeds: Number of seeds.
        processes: Runs at a time, each on one thread.

    Raises:
        RuntimeError: If a run failed, or its loss was no longer finite.
        ValueError: If a run that is there is of other images.
    """
    check_data(
        (
            plan.folder(path, seed, place)
            for path, phases in PATHS.items()
            for seed in range(seeds)
            for place in range(len(phases))
        ),
        plan.data,
    )

    def walk(path: str, seed: int) -> None:
        for place in range(len(PATHS[path])):
            folder = plan.folder(path, seed, place)
            run(plan.command(path, seed, place), folder, threads=1)
            if not folder.is_dir() or read_run(folder)["status"] != "finished":
                raise RuntimeError(f"{folder.name} diverged, so that {path!r} cannot go on.")

    with ThreadPoolExecutor(processes) as pool:
        jobs = [pool.submit(walk, path, seed) for seed in range(seeds) for path in PATHS]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def curve(plan: Plan, path: str, seed: int) -> list[dict[str, Any]]:
    """Return the epochs of a path: the cost up to each, and the accuracy then.

    Args:
        plan: Budget of every path.
        path: A key of `PATHS`.
        seed: Of the runs.

    Returns:
        A record for each epoch.
    """
    records, flops, images = [], 0, 0
    for place, phase in enumerate(PATHS[path]):
        steps = plan.epoch_steps(phase)
        for epoch in read_run(plan.folder(path, seed, place))["history"]:
            flops += steps * step_flops(phase)
            images += steps * common().batch_size
            spent = {"path": path, "seed": seed, "phase": place + 1}
            spent |= {"epoch": len(records) + 1, "flops": flops, "images": images}
            results = {name: epoch[name] for name in ("loss", "val_loss", "val_top1", "seconds")}
            records.append(spent | results)
    return records


def medians(curves: Sequence[list[dict[str, Any]]]) -> list[float]:
    """Return the median accuracy of the seeds after each epoch."""
    epochs = zip(*curves, strict=True)
    return [statistics.median(record["val_top1"] for record in epoch) for epoch in epochs]


def draw(path: Path, curves: dict[str, list[list[dict[str, Any]]]]) -> None:
    """Draw test accuracy over FLOPs: medians as lines, seeds as points, rings where a net grew.

    Args:
        path: The PNG file.
        curves: By path, the curve of each seed.
    """
    figure = Figure(figsize=(7, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for place, (name, seeds) in enumerate(curves.items()):
        flops = [record["flops"] for record in seeds[0]]
        for records in seeds:
            values = [record["val_top1"] for record in records]
            axes.plot(flops, values, ".", color=f"C{place}", alpha=0.35)
        middle = medians(seeds)
        axes.plot(flops, middle, color=f"C{place}", label=name)
        grown = len([record for record in seeds[0] if record["phase"] == 1])
        if grown < len(flops):
            axes.plot(flops[grown - 1], middle[grown - 1], "o", color=f"C{place}", fillstyle="none")
    axes.set_xlabel("FLOPs of training (multiply-adds)")
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def comparison(plan: Plan, curves: dict[str, list[list[dict[str, Any]]]]) -> str:
    """Format the paths side by side, and their phases, as Markdown tables."""
    rows = []
    for name, seeds in curves.items():
        middle = medians(seeds)
        each = ", ".join(f"{records[-1]['val_top1']:.2%}" for records in seeds)
        last = seeds[0][-1]
        # The first epoch after which half of the budget is spent.
        halfway = middle[(EPOCHS - 1) // 2]
        rows.append(
            (
                name,
                f"{middle[-1]:.2%}",
                each,
                f"{halfway:.2%}",
                f"{last['flops'] / 1e12:.3f}",
                f"{last['images']:,}",
            )
        )
    header = ("path", "test accuracy", "every seed", "at half the budget", "TFLOPs", "images")
    phases = [
        (
            name,
            place,
            phase.units,
            phase.channels,
            f"{costs().cost(phase.units, phase.channels).flops / 1e6:.2f}",
            phase.epochs,
            plan.epoch_steps(phase),
        )
        for name, path in PATHS.items()
        for place, phase in enumerate(path, 1)
    ]
    names = ("path", "phase", "units", "channels", "forward, MFLOPs", "epochs", "steps per epoch")
    return f"{table(header, rows)}\n\n{table(names, phases)}"


def write_results(plan: Plan, seeds: int, output: Path, report: Report) -> None:
    """Write `README.md`, `growth.csv` and `growth.png`.

    Args:
        plan: Budget of every path.
        seeds: Number of seeds.
        output: Folder to write to.
        report: That is `README.md`.
    """
    curves = {path: [curve(plan, path, seed) for seed in range(seeds)] for path in PATHS}
    records = [record for path in curves.values() for seed in path for record in seed]
    write_history_csv(output / "growth.csv", records)
    draw(output / "growth.png", curves)
    _, _, *what = (__doc__ or "").strip().split("\n\n")
    body = "\n\n".join(
        (
            f"Test accuracy after the last epoch; medians of {seeds} seeds.",
            comparison(plan, curves),
            "![Test accuracy over FLOPs](growth.png)",
            *what,
        )
    )
    report.write(body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="see training.train")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--images",
        type=at_least(1),
        default=60_000,
        metavar="N",
        help="the budget: images of the large net from scratch (default: 60000)",
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--processes",
        type=at_least(1),
        default=2,
        metavar="N",
        help="runs at a time (default: 2)",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/growth"), help="%(default)s")
    options = parser.parse_args(arguments)
    plan = Plan(options.data, options.images, options.runs)
    command = command_line("benchmarks.growth", arguments)
    output = options.output / "README.md"
    report = Report("Growing a net", command, ("keras", "tensorflow"), output)
    try:
        train(plan, options.seeds, options.processes)
    except (ValueError, RuntimeError, OSError) as error:
        return failed("benchmarks.growth", error)
    write_results(plan, options.seeds, options.output, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
