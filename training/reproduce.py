r"""Repeat a table of the paper: `python -m training.reproduce TABLE --data SOURCE --output DIR`.

Every run is one of `python -m training.train`, in a folder of its own under `--runs`. Started
again, finished runs are only read and an interrupted one goes on after its last epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_preact.files import replacing
from training import processes
from training.listing.listing import is_same_set
from training.records.report import write_history_csv
from training.run import read_history, read_run

# Published where a net fails to converge.
FAILS = math.inf
# Words of `training.train` when the loss has exploded or is no longer finite.
_DIVERGED = "The last good checkpoint is"


@dataclass(frozen=True)
class Row:
    """One net of a table.

    Attributes:
        label: Its name in the paper.
        options: Its fields of `Architecture`.
        published: Test error in percent on CIFAR-10, by the name of a size.
    """

    label: str
    options: dict[str, Any]
    published: dict[str, float]

    @property
    def folder(self) -> str:
        """Name for the folder of its runs; rows of two tables that are one net share it."""
        return "-".join(f"{name}={value}" for name, value in self.options.items()) or "default"


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        title: Subject of the comparison.
        rows: Its nets.
    """

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Size:
    """Size of the nets, and length of their training.

    Attributes:
        recipe: Name of the recipe.
        options: Further options of `training.train`.
    """

    recipe: str
    options: tuple[str, ...] = ()


def _order(label: str, name: str, error_110: float, error_164: float) -> Row:
    return Row(label, {"order": name}, {"resnet110": error_110, "resnet164": error_164})


def _shortcut(label: str, error: float, **options: Any) -> Row:
    return Row(label, {"order": "original", **options}, {"resnet110": error})


# Tables 2 and 1 of arXiv:1603.05027: median of 5 runs.
TABLES = {
    "orders": Table(
        "Order of activation",
        (
            _order("original", "original", 6.61, 5.93),
            _order("BN after addition", "bn_after_addition", 8.17, 6.50),
            _order("ReLU before addition", "relu_before_addition", 7.84, 6.14),
            _order("ReLU-only pre-activation", "relu_only_preactivation", 6.71, 5.91),
            _order("full pre-activation", "full_preactivation", 6.37, 5.46),
        ),
    ),
    "shortcuts": Table(
        "Kind of shortcut, in the original unit",
        (
            _shortcut("identity", 6.61),
            _shortcut("scaled by 0.5, F too", 12.35, shortcut="scaling_both"),
            _shortcut("scaled by 0.5", FAILS, shortcut="scaling"),
            _shortcut("exclusive gating, bias -6", 8.70, shortcut="exclusive_gating"),
            _shortcut(
                "shortcut-only gating, bias 0", 12.86, shortcut="shortcut_gating", gate_bias=0.0
            ),
            _shortcut("shortcut-only gating, bias -6", 6.91, shortcut="shortcut_gating"),
            _shortcut("1x1 convolution", 12.22, shortcut="conv"),
            _shortcut("dropout 0.5", FAILS, shortcut="dropout"),
        ),
    ),
}

SIZES = {
    "cpu": Size("cifar_ablation"),
    "resnet110": Size("cifar_paper"),
    "resnet164": Size("cifar_paper", ("--model", "PreActResNet164")),
}


@dataclass(frozen=True)
class Result:
    """Outcome of the runs of a row.

    Attributes:
        row: The row.
        histories: By seed, the records of the epochs.
        diverged: Seeds whose loss exploded or was no longer finite.
    """

    row: Row
    histories: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    diverged: tuple[int, ...] = ()

    @property
    def errors(self) -> list[float]:
        """Test error of every seed after the last epoch, percent; infinite where it diverged."""
        last = [100 * (1 - history[-1]["val_top1"]) for history in self.histories.values()]
        return [*last, *(FAILS for _ in self.diverged)]

    @property
    def median_error(self) -> float:
        """The median of `errors`."""
        return statistics.median_high(self.errors)


def command(row: Row, size: Size, data: str, seed: int, output: Path) -> list[str]:
    """Return the command line that trains one row with one seed.

    Args:
        row: The net.
        size: Its size and schedule.
        data: As `--data` of `training.train`.
        seed: Of weights, order of the images and augmentation.
        output: Folder of the run.

    Returns:
        The module and its arguments.
    """
    options = [f"{name}={json.dumps(value)}" for name, value in row.options.items()]
    return [
        *("training.train", "--recipe", size.recipe, *size.options),
        *("--model-options", *options),
        *("--data", data, "--seed", str(seed), "--output", str(output)),
    ]


def run(arguments: list[str], output: Path, threads: int) -> None:
    """Train, and write the log to a file beside the folder of the run, with `.log` at its end.

    A run that diverged leaves one that ends in `.diverged`, so that it is not tried again.

    Args:
        arguments: The module and its arguments.
        output: Folder of the run.
        threads: Threads that TensorFlow computes on; 0 for all cores.

    Raises:
        RuntimeError: If the run failed in another way.
    """
    log, diverged = _beside(output, ".log"), _beside(output, ".diverged")
    if diverged.exists() or _finished(output):
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"training {output.name}", flush=True)
    status = processes.run(arguments, log, threads)
    if status == 1 and _DIVERGED in log.read_text(encoding="utf-8"):
        diverged.touch()
    elif status:
        tail = processes.last_lines(log, 5)
        raise RuntimeError(f"{output.name} failed with status {status}; {log}:\n{tail}")


def _beside(folder: Path, ending: str) -> Path:
    """Return the path of a file beside a folder: its name, perhaps with a point, and an ending."""
    return folder.with_name(folder.name + ending)


def _finished(output: Path) -> bool:
    return (output / "run.json").exists() and read_run(output).get("status") == "finished"


def check_data(folders: Iterable[Path], data: str) -> None:
    """Check that runs are of a set of images, before any of them is taken for one of it.

    Args:
        folders: Folders of runs, which need not exist yet.
        data: As `--data` of `training.train`.

    Raises:
        ValueError: If one is of another set, or its `run.json` is damaged.
    """
    for folder in folders:
        if not (folder / "run.json").exists():
            continue
        source = read_run(folder).get("source", data)
        if not is_same_set(source, data):
            raise ValueError(
                f"{folder} holds a run of other images: {source!r} then, {data!r} now. Give "
                "another folder of runs, or the same --data."
            )


def _folders(row: Row, seeds: int, runs: Path) -> dict[int, Path]:
    """Return the folder of a row's run with each seed."""
    return {seed: runs / f"{row.folder}-seed{seed}" for seed in range(seeds)}


def _check_rows(rows: Sequence[Row], data: str, seeds: int, runs: Path) -> None:
    """Check that the runs of all rows, of those that there are, are of a set; see `check_data`."""
    check_data((folder for row in rows for folder in _folders(row, seeds, runs).values()), data)


def train_rows(
    rows: Sequence[Row], size: Size, data: str, seeds: int, runs: Path, processes: int
) -> None:
    """Train every row with every seed, all rows with the first seed first.

    Args:
        rows: The nets.
        size: Their size and schedule.
        data: As `--data` of `training.train`.
        seeds: Number of seeds.
        runs: Folder of the runs.
        processes: Runs at a time; with more than one, each computes on one thread.

    Raises:
        RuntimeError: If a run failed.
        ValueError: If a run that is there is of other images.
    """
    _check_rows(rows, data, seeds, runs)
    with ThreadPoolExecutor(processes) as pool:
        jobs = []
        for seed in range(seeds):
            for row in rows:
                output = _folders(row, seeds, runs)[seed]
                arguments = command(row, size, data, seed, output)
                jobs.append(pool.submit(run, arguments, output, 1 if processes > 1 else 0))
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def results(rows: Sequence[Row], seeds: int, runs: Path) -> list[Result]:
    """Read the runs that have ended.

    Args:
        rows: The nets.
        seeds: Number of seeds.
        runs: Folder of the runs.

    Returns:
        A result for each row that has one.

    Raises:
        ValueError: If the record of a run is damaged.
    """
    read = []
    for row in rows:
        folders = _folders(row, seeds, runs)
        histories = {
            seed: _history(folder) for seed, folder in folders.items() if _finished(folder)
        }
        diverged = [
            seed for seed, folder in folders.items() if _beside(folder, ".diverged").exists()
        ]
        if histories or diverged:
            read.append(Result(row, histories, tuple(diverged)))
    return read


def _history(folder: Path) -> list[dict[str, Any]]:
    """Read the epochs of a finished run, each with all that is compared."""
    history = read_history(folder)
    if not history or any(name not in epoch for epoch in history for name in ("loss", "val_top1")):
        raise ValueError(f"{folder / 'run.json'} is damaged: an epoch has no `loss` or `val_top1`.")
    return history


def comparison(measured: Sequence[Result], size: str) -> str:
    """Format measured beside published test errors as a Markdown table.

    Args:
        measured: The rows' results.
        size: Name of the size: the published column is its own, or ResNet-110's.

    Returns:
        The table, and a line on the ranks.
    """
    net = size if size in measured[0].row.published else "resnet110"
    published = {each.row.label: each.row.published[net] for each in measured}
    lines = [
        f"| | median | every seed | published ({net}) |",
        "| --- | --- | --- | --- |",
    ]
    for each in measured:
        every = ", ".join(map(_percent, each.errors))
        error = _percent(published[each.row.label])
        lines.append(f"| {each.row.label} | {_percent(each.median_error)} | {every} | {error} |")
    own = sorted(measured, key=lambda each: each.median_error)
    theirs = sorted(measured, key=lambda each: published[each.row.label])
    agreeing, pairs = _agreement(
        [(each.median_error, published[each.row.label]) for each in measured]
    )
    return "\n".join(
        [
            *lines,
            "",
            f"- From the lowest error to the highest, here: {_labels(own)}.",
            f"- In the paper: {_labels(theirs)}.",
            f"- Of the {pairs} pairs that the paper ranks, {agreeing} are ranked alike here.",
        ]
    )


def _agreement(errors: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """Count the pairs that two lists rank alike, of those that the second ranks."""
    pairs = [
        (a[0] - b[0], -1 if a[1] < b[1] else 1)
        for index, a in enumerate(errors)
        for b in errors[index + 1 :]
        if a[1] != b[1]
    ]
    return sum(difference * sign > 0 for difference, sign in pairs), len(pairs)


def _labels(ordered: Sequence[Result]) -> str:
    return ", ".join(each.row.label for each in ordered)


def _percent(error: float) -> str:
    return "fails" if error == FAILS else f"{error:.2f}%"


def draw(path: Path, title: str, measured: Sequence[Result]) -> None:
    """Draw training loss and test error over the epochs: medians as lines, seeds as points.

    Args:
        path: The PNG file.
        title: Of the figure.
        measured: The rows' results.
    """
    figure = Figure(figsize=(13, 4.4), dpi=110, layout="constrained")
    figure.suptitle(title)
    for axes, key, label in zip(
        figure.subplots(1, 2), ("loss", "val_top1"), ("training loss", "test error, %"), strict=True
    ):
        for place, each in enumerate(measured):
            _draw_row(axes, each, key, f"C{place}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def _draw_row(axes: Any, result: Result, key: str, color: str) -> None:
    histories = list(result.histories.values())
    if not histories:
        return
    epochs = [record["epoch"] for record in histories[0]]
    values = [[_plotted(record, key) for record in history] for history in histories]
    for each in values:
        axes.plot(epochs, each, ".", color=color, alpha=0.35)
    medians = [statistics.median(column) for column in zip(*values, strict=True)]
    axes.plot(epochs, medians, color=color, label=result.row.label)


def _plotted(record: dict[str, Any], key: str) -> float:
    return 100 * (1 - record[key]) if key == "val_top1" else record[key]


def write_results(output: Path, name: str, size: str, measured: Sequence[Result]) -> str:
    """Write a table's plot and every epoch of its runs.

    Args:
        output: Folder for `NAME.png` and `NAME.csv`.
        name: Key of `TABLES`.
        size: Key of `SIZES`.
        measured: The rows' results.

    Returns:
        The comparison as Markdown.
    """
    output.mkdir(parents=True, exist_ok=True)
    draw(output / f"{name}.png", f"{TABLES[name].title}, size {size}", measured)
    records = [
        {"net": each.row.label, "seed": seed, **record}
        for each in measured
        for seed, history in each.histories.items()
        for record in history
    ]
    if records:
        write_history_csv(output / f"{name}.csv", records)
    title = TABLES[name].title
    return f"## {title}\n\n{comparison(measured, size)}\n\n![{title}]({name}.png)\n"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.reproduce", description=__doc__)
    parser.add_argument("tables", nargs="+", choices=TABLES, help="what to repeat")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="see training.train")
    parser.add_argument("--size", choices=SIZES, default="cpu", help="default: cpu")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs a net (default: 3)")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/reproduce"), help="default: runs/reproduce"
    )
    parser.add_argument("--output", type=Path, help="folder for the tables and plots")
    parser.add_argument(
        "--report", action="store_true", help="train nothing; compare the runs that have ended"
    )
    options = parser.parse_args(arguments)
    for name in ("seeds", "processes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be 1 or more. Received: {getattr(options, name)}")
    return options


def reproduce(options: argparse.Namespace) -> str:
    """Train what is not trained yet, unless only a report is asked for, and compare.

    Args:
        options: The parsed command line.

    Returns:
        The comparisons as Markdown, and which tables have no run yet that has ended.

    Raises:
        RuntimeError: If a run failed.
        ValueError: If a run that is there is of other images or damaged, or none has ended.
    """
    runs = options.runs / options.size
    by_folder = {row.folder: row for name in options.tables for row in TABLES[name].rows}
    rows = list(by_folder.values())
    if options.report:
        _check_rows(rows, options.data, options.seeds, runs)
    else:
        size = SIZES[options.size]
        train_rows(rows, size, options.data, options.seeds, runs, options.processes)
    measured = {name: results(TABLES[name].rows, options.seeds, runs) for name in options.tables}
    if not any(measured.values()):
        raise ValueError(f"There is nothing to report: no run in {runs} has ended.")
    return "\n".join(_reported(options, name, each) for name, each in measured.items())


def _reported(options: argparse.Namespace, name: str, measured: Sequence[Result]) -> str:
    if not measured:
        return f"No run of the table {name} has ended."
    if options.output:
        return write_results(options.output, name, options.size, measured)
    return comparison(measured, options.size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 if a run failed, 2 for a wrong argument."""
    options = parse_arguments(arguments)
    try:
        print(reproduce(options))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"training.reproduce: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
