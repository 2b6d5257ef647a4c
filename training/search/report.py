"""Results of a search: lines as it goes, then a table, plots, and the best as recipes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Line
from rich.console import Console
from rich.table import Table

from keras_preact.files import replacing
from training.search.confirm import Confirmed, by_means, confirmed, table_of_confirmed, verdict
from training.search.page import read_page, write_page
from training.search.ranking import (
    BEST,
    OBJECTIVES,
    hyperparameters,
    leaderboard,
    pareto_front,
    table_of,
    values_of,
)
from training.search.trials import Record, SearchFolder, write_recipe

# Lines of the table on a terminal.
SHOWN = 10
_MAP = matplotlib.colormaps["viridis"]


class Board:
    """Progress of a search: lines in a log, a table on a terminal.

    Args:
        folder: Of the search.
        objective: The metric that trials are compared by.
        max_trials: Most trials.
    """

    def __init__(self, folder: SearchFolder, objective: str, max_trials: int) -> None:
        self._folder = folder
        self._objective = objective
        self._max_trials = max_trials

    def show(self, record: Record) -> None:
        """Tell that a trial has begun or ended.

        Args:
            record: Of the trial.
        """
        print(self._line(record), flush=True)
        if record.status == "running":
            return
        records = self._folder.records(self._objective)
        ranked = leaderboard(records, self._objective)
        if sys.stdout.isatty():
            Console().print(self._table(ranked[:SHOWN]))
        elif ranked:
            ended = sum(each.status != "running" for each in records)
            best = ", ".join(self._place(each) for each in ranked[:BEST])
            print(f"{ended} of at most {self._max_trials} trials ended; best: {best}", flush=True)

    def _line(self, record: Record) -> str:
        name = f"trial {record.trial} on {record.attempts[-1]['worker']}"
        if record.status == "running":
            epochs = f"epochs {record.attempts[-1]['after_epoch']} to {record.epochs}"
            return f"{name}: {epochs}, {_cost(record)}, {_values(record)}"
        if record.status == "finished":
            result = record.results[self._objective]
            return f"{name}: {self._objective} {result:.4f}, {record.seconds:.0f} s"
        return f"{name} failed: {record.message}"

    def _place(self, record: Record) -> str:
        return f"{record.trial} {record.results[self._objective]:.4f} ({_cost(record)})"

    def _table(self, ranked: Sequence[Record]) -> Table:
        table = Table(title="Best trials")
        header, rows = table_of(ranked, self._objective)
        for name in header:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        return table


def write_report(folder: SearchFolder) -> str:
    """Write what a search has found so far.

    `leaderboard.md` and `.csv`, `search.html`, a page with plots to point at, `flops.png` (the
    objective against FLOPs with the Pareto front), `parallel.png` (parallel coordinates) and the
    best as recipes, `best-1.toml` and so on: by their means with other seeds, where they were
    trained again.

    Args:
        folder: Of the search.

    Returns:
        The lines to print.

    Raises:
        FileNotFoundError: If the folder is not that of a search.
        ValueError: If a file in it is damaged.
    """
    if not folder.description.exists():
        raise FileNotFoundError(f"{folder.output} is not the folder of a search.")
    description = folder.described()
    objective = description["objective"]
    if objective not in OBJECTIVES:
        raise ValueError(f"{folder.description} is damaged: no metric is named {objective!r}.")
    records = folder.records(objective)
    ranked = leaderboard(records, objective)
    again = confirmed(folder, objective)
    text = _markdown(description, records, ranked, again)
    with replacing(folder.output / "leaderboard.md") as partial:
        partial.write_text(text, encoding="utf-8")
    if not ranked:
        return text
    _write_csv(folder.output / "leaderboard.csv", records)
    draw_flops(folder.output / "flops.png", ranked, objective)
    draw_parallel(folder.output / "parallel.png", ranked, objective)
    heading, summary = _heading(description), _summary(description, records)
    page = read_page(folder, objective, heading, summary, ranked, again)
    write_page(folder.output / "search.html", page)
    _write_best(folder, objective, ranked, again)
    return text


def _write_best(
    folder: SearchFolder, objective: str, ranked: Sequence[Record], again: Sequence[Confirmed]
) -> None:
    """Write the recipes of the best nets."""
    nets = {net.trial: net for net in again}
    for place, record in enumerate(by_means(ranked[:BEST], again), 1):
        recipe = folder.read_recipe(record.trial)
        comment = [
            f"Place {place} of {len(ranked)}: trial {record.trial}, {objective} "
            f"{record.results[objective]:.4f} after {record.epochs} of {recipe.epochs} epochs,",
            f"{record.flops:,} FLOPs, {record.parameters:,} parameters.",
        ]
        if net := nets.get(record.trial):
            seeds = len(net.results)
            comment += [f"Trained again, with {seeds} other seeds: {net.mean:.4f} in the mean."]
        write_recipe(folder.output / f"best-{place}.toml", recipe, comment)


def _markdown(
    description: dict[str, Any],
    records: Sequence[Record],
    ranked: Sequence[Record],
    again: Sequence[Confirmed],
) -> str:
    lines = [f"# {_heading(description)}", "", _summary(description, records)]
    if ranked:
        header, rows = table_of(ranked, description["objective"])
        lines += ["", _row(header), _row(["---"] * len(header)), *map(_row, rows)]
        lines += ["", "![](flops.png)", "", "![](parallel.png)"]
    if again:
        lines += ["", "## Trained again, with other seeds", "", verdict(again), ""]
        header, rows = table_of_confirmed(again)
        lines += [_row(header), _row(["---"] * len(header)), *map(_row, rows)]
    failed = _of_status(records, "failed")
    if failed:
        lines += ["", "## Failed"]
    for record in failed:
        lines += ["", f"Trial {record.trial}: {_values(record)}", "", "```"]
        lines += [*record.message.splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _heading(description: dict[str, Any]) -> str:
    return f"Search by {description['oracle']} on {Path(description['source']).name}"


def _summary(description: dict[str, Any], records: Sequence[Record]) -> str:
    counts = {each: len(_of_status(records, each)) for each in ("finished", "failed", "running")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    # A search of an earlier version has no such entry.
    promoted = description.get("promote_by")
    by = f"Trials were continued by their `{promoted}`. " if promoted else ""
    return (
        f"Trials: {told or 'none yet'}. A trial that continues another takes its place below. {by}"
        f"`{description['objective']}` is that of the last epoch, on the images that the search "
        "chose by: of nets chosen so, it flatters the best."
    )


def _of_status(records: Sequence[Record], status: str) -> list[Record]:
    return [record for record in records if record.status == status]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write every trial, in the order of their numbers."""
    names = hyperparameters(records)
    results = sorted({name for record in records for name in record.results})
    own = ("trial", "status", "run", "epochs", "flops", "parameters", "seconds")
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        # The last epoch's number and seconds would look like the trial's.
        results = [name for name in results if name not in own and name != "epoch"]
        writer.writerow([*own, "attempts", *results, *names])
        for record in records:
            values = [getattr(record, name) for name in own]
            values += [len(record.attempts)]
            values += [record.results.get(name, "") for name in results]
            writer.writerow([*values, *(record.values.get(name, "") for name in names)])


def draw_flops(path: Path, ranked: Sequence[Record], objective: str) -> None:
    """Draw the objective against FLOPs, and the Pareto front.

    Args:
        path: The PNG file.
        ranked: Finished trials.
        objective: The metric that they are compared by.
    """
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    most = max(record.epochs for record in ranked)
    for epochs in sorted({record.epochs for record in ranked}):
        group = [record for record in ranked if record.epochs == epochs]
        axes.plot(
            [record.flops / 1e6 for record in group],
            [record.results[objective] for record in group],
            "o",
            color=_MAP(0.85 * (1 - epochs / most)),
            label=f"{epochs} epochs" if epochs > 1 else "1 epoch",
        )
    front = pareto_front(ranked, objective)
    axes.step(
        [record.flops / 1e6 for record in front],
        [record.results[objective] for record in front],
        where="post",
        color="#b8560b",
        label="Pareto front",
    )
    for record in front:
        place = (record.flops / 1e6, record.results[objective])
        axes.annotate(record.trial, place, (4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel("million multiply-adds an image")
    axes.set_ylabel(objective)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_parallel(path: Path, ranked: Sequence[Record], objective: str) -> None:
    """Draw every trial as a line through its hyperparameters, FLOPs and objective.

    Args:
        path: The PNG file.
        ranked: Finished trials, the best first.
        objective: The metric that they are compared by; it colors the lines.
    """
    names = [name for name in hyperparameters(ranked) if len(values_of(ranked, name)) > 1]
    figure = Figure(figsize=(2 + 1.3 * (len(names) + 2), 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    columns = [_place_choices(axes, place, ranked, name) for place, name in enumerate(names)]
    flops = [record.flops / 1e6 for record in ranked]
    results = [record.results[objective] for record in ranked]
    columns += [_place_numbers(axes, len(names), flops)]
    columns += [_place_numbers(axes, len(names) + 1, results)]
    span = Normalize(min(results), max(results))
    for heights, result in reversed(list(zip(zip(*columns, strict=True), results, strict=True))):
        _draw_curve(axes, heights, _MAP(span(result)))
    for place in range(len(columns)):
        axes.axvline(place, color="#444444", linewidth=0.8, zorder=1)
    axes.set_xticks(range(len(columns)), [*names, "MFLOPs", objective], rotation=25, ha="right")
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(columns) - 0.5)
    axes.set_ylim(-0.06, 1.06)
    for side in axes.spines.values():
        side.set_visible(False)
    _save(figure, path)


def _place_choices(axes: Axes, place: int, ranked: Sequence[Record], name: str) -> list[float]:
    """Return where each line crosses a hyperparameter's axis; equal values lie side by side."""
    options = values_of(ranked, name)
    gap = 1 / max(1, len(options) - 1)
    for index, option in enumerate(options):
        axes.text(place + 0.03, index * gap, str(option), fontsize=8, va="center", zorder=3)
    beside = np.linspace(-1, 1, len(ranked)) * min(0.04, 0.15 * gap)
    return [
        options.index(record.values.get(name)) * gap + shift
        for record, shift in zip(ranked, beside, strict=True)
    ]


def _place_numbers(axes: Axes, place: int, values: Sequence[float]) -> list[float]:
    span = Normalize(min(values), max(values))
    for value in (min(values), max(values)):
        axes.text(place + 0.03, span(value), f"{value:.4g}", fontsize=8, va="center", zorder=3)
    return [float(span(value)) for value in values]


def _draw_curve(axes: Axes, heights: Sequence[float], color: Any) -> None:
    """Draw a line that leaves every axis at a right angle."""
    points, codes = [(0, heights[0])], [Line.MOVETO]
    for place, (here, there) in enumerate(zip(heights, heights[1:], strict=False)):
        points += [(place + 0.5, here), (place + 0.5, there), (place + 1, there)]
        codes += [Line.CURVE4] * 3
    axes.add_patch(
        PathPatch(Line(points, codes), facecolor="none", edgecolor=color, alpha=0.8, zorder=2)
    )


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def _values(record: Record) -> str:
    return " ".join(f"{name}={value}" for name, value in record.values.items())


def _cost(record: Record) -> str:
    return f"{record.flops / 1e6:.2f} MFLOPs, {record.parameters:,} parameters"
