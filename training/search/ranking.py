"""The order of trials: the leaderboard, the Pareto front, and both as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from training.search.trials import Record

# How many of the best become recipe files, and are trained again.
BEST = 3
# Metrics that a run reports, and the direction in which each is better.
OBJECTIVES = {"val_top1": "max", "val_top5": "max", "val_loss": "min"}
# Those by which a trial may be continued: the training's own as well.
PROMOTIONS = {**OBJECTIVES, "top1": "max", "loss": "min"}


def leaderboard(records: Iterable[Record], objective: str) -> list[Record]:
    """Return the finished trials, the best first.

    Args:
        records: Of any trials.
        objective: The metric that they are compared by, such as `val_top1`.

    Returns:
        One record for each run: of trials that continue one another, the last.
    """
    latest: dict[str, Record] = {}
    for record in records:
        if record.status == "finished" and (
            record.run not in latest or record.epochs > latest[record.run].epochs
        ):
            latest[record.run] = record
    return sorted(
        latest.values(),
        key=lambda record: record.results[objective],
        reverse=OBJECTIVES[objective] == "max",
    )


def table_of(ranked: Sequence[Record], objective: str) -> tuple[list[str], list[list[str]]]:
    """Format the leaderboard as text.

    Args:
        ranked: Records, the best first.
        objective: The metric that they are compared by.

    Returns:
        The header, and one row for each record.
    """
    names = hyperparameters(ranked)
    header = ["", "trial", objective, "epochs", "MFLOPs", "parameters", *names]
    rows = [
        [
            *(str(place), record.trial, f"{record.results[objective]:.4f}", str(record.epochs)),
            *(f"{record.flops / 1e6:.2f}", f"{record.parameters:,}"),
            *(str(record.values.get(name, "")) for name in names),
        ]
        for place, record in enumerate(ranked, 1)
    ]
    return header, rows


def pareto_front(records: Sequence[Record], objective: str) -> list[Record]:
    """Return the trials that no other beats at as few FLOPs.

    Args:
        records: Finished trials.
        objective: The metric to compare.

    Returns:
        Those, from the fewest FLOPs on: each is better than all before.
    """
    sign = 1 if OBJECTIVES[objective] == "max" else -1
    front: list[Record] = []
    for record in sorted(records, key=lambda each: (each.flops, -sign * each.results[objective])):
        if not front or sign * record.results[objective] > sign * front[-1].results[objective]:
            front.append(record)
    return front


def values_of(records: Iterable[Record], name: str) -> list[Any]:
    """Return the different values that a hyperparameter has had, in order.

    Args:
        records: Those that lack it have None.
        name: Of the hyperparameter.
    """
    values = {record.values.get(name) for record in records}
    numbers = all(isinstance(value, int | float) for value in values)
    return sorted(values, key=None if numbers else str)


def hyperparameters(records: Sequence[Record]) -> list[str]:
    """Return the names of all values that records have."""
    return list(dict.fromkeys(name for record in records for name in record.values))
