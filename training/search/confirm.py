"""The best nets of a search, trained again with other seeds: what chance explains, and what not."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import ttest_ind

from training import processes
from training.run import read_run
from training.search.ranking import BEST, OBJECTIVES, leaderboard
from training.search.trials import Record, SearchFolder, results_of, write_recipe

# Probability below which a difference between means counts as more than chance.
SIGNIFICANT = 0.05
# Name of the folder of a training with another seed.
_SEED = re.compile(r"seed\d+")


@dataclass(frozen=True)
class Confirmed:
    """Results of one net with several seeds.

    Attributes:
        trial: The trial that found it.
        results: The objective after the last epoch, with each seed.
    """

    trial: str
    results: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.results)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds."""
        return statistics.stdev(self.results) if len(self.results) > 1 else 0.0

    def chance(self, other: Confirmed) -> float | None:
        """Return how likely chance explains the difference; None with too few results to tell."""
        if min(len(self.results), len(other.results)) < 2:
            return None
        return float(ttest_ind(self.results, other.results, equal_var=False).pvalue)

    def differs_from(self, other: Confirmed) -> bool:
        """Return whether Welch's t-test tells two nets apart."""
        chance = self.chance(other)
        return chance is not None and chance < SIGNIFICANT


def confirm(
    folder: SearchFolder,
    records: Iterable[Record],
    seeds: int,
    options: Sequence[str],
    threads: int,
) -> None:
    """Train nets with other seeds than the search did. What is there already is not trained again.

    Args:
        folder: Of the search.
        records: Trials whose nets are trained, for all epochs of the recipe.
        seeds: Trainings of each.
        options: Options of `training.train`: the data, the devices.
        threads: Threads that each computes on; 0 for all cores.

    Raises:
        RuntimeError: If a training fails.
    """
    for record, number in itertools.product(records, range(1, seeds + 1)):
        run = _folder(folder, record) / f"seed{number}"
        if _is_finished(run):
            continue
        recipe = folder.read_recipe(record.trial)
        run.parent.mkdir(parents=True, exist_ok=True)
        path, log = run.with_suffix(".toml"), run.with_suffix(".log")
        write_recipe(path, recipe.replace(seed=recipe.seed + number))
        print(f"trial {record.trial} again, seed {recipe.seed + number}", flush=True)
        command = ["training.train", "--recipe", str(path), "--output", str(run), *options]
        if status := processes.run(command, log, threads):
            raise RuntimeError(
                f"Training ended with exit status {status}; {log}:\n{processes.last_lines(log, 12)}"
            )


def confirmed(folder: SearchFolder, objective: str) -> list[Confirmed]:
    """Read what the best nets of a search have reached with other seeds.

    Args:
        folder: Of the search.
        objective: The metric to compare.

    Returns:
        Those of the best that were trained again, the best mean first.
    """
    best = leaderboard(folder.records(objective), objective)[:BEST]
    results = {record.trial: _results(_folder(folder, record), objective) for record in best}
    nets = [Confirmed(trial, each) for trial, each in results.items() if each]
    return sorted(nets, key=lambda net: net.mean, reverse=OBJECTIVES[objective] == "max")


def by_means(ranked: Sequence[Record], nets: Sequence[Confirmed]) -> list[Record]:
    """Order trials by the means over several seeds, as far as there are some.

    Args:
        ranked: Trials, the best result of the search first.
        nets: Some of them, the best mean first.

    Returns:
        The trials. Those trained again share out their places by their means, since a mean and a
        result that was chosen for being the best cannot be compared.
    """
    trials = {record.trial: record for record in ranked}
    means = (trials[net.trial] for net in nets)
    again = {net.trial for net in nets}
    return [next(means) if record.trial in again else record for record in ranked]


def verdict(nets: Sequence[Confirmed]) -> str:
    """Say in a sentence whether the best net is better than the others.

    Args:
        nets: The best mean first.
    """
    best, *others = nets
    alike = [net.trial for net in others if not best.differs_from(net)]
    if not others:
        return f"Only trial {best.trial} was trained again."
    if not alike:
        return f"Trial {best.trial} is better than the others by more than chance explains."
    return (
        f"Trial {best.trial} cannot be told apart from {_listed(alike)}: with so few seeds, chance "
        "explains the difference (Welch's t-test, p >= 0.05)."
    )


def table_of_confirmed(nets: Sequence[Confirmed]) -> tuple[list[str], list[list[str]]]:
    """Format results with several seeds as text.

    Args:
        nets: In the order of the rows.

    Returns:
        The header, and one row for each net.
    """
    header = ["trial", "mean", "standard deviation", "every seed"]
    rows = [
        [
            *(net.trial, f"{net.mean:.4f}", f"{net.spread:.4f}"),
            ", ".join(f"{result:.4f}" for result in net.results),
        ]
        for net in nets
    ]
    return header, rows


def _listed(trials: Sequence[str]) -> str:
    return f"trial{'s' if len(trials) > 1 else ''} {' and '.join(trials)}"


def _folder(folder: SearchFolder, record: Record) -> Path:
    """Return where a net is trained again: where it was before a trial continued it, if it was."""
    same = [each.trial for each in folder.records() if each.run == record.run]
    paths = [folder.output / "confirmed" / trial for trial in (record.trial, *same)]
    return next((path for path in paths if path.exists()), paths[0])


def _results(path: Path, objective: str) -> tuple[float, ...]:
    """Read the results of a net with each seed that was trained to the end."""
    found = {int(run.name[4:]): run for run in path.glob("seed*") if _SEED.fullmatch(run.name)}
    finished = [run for _, run in sorted(found.items()) if _is_finished(run)]
    results = [results_of(run, objective) for run in finished]
    for run, result in zip(finished, results, strict=True):
        if not result:
            raise ValueError(f"{run / 'run.json'} is damaged: it has no epoch.")
    return tuple(result[-1] for result in results)


def _is_finished(run: Path) -> bool:
    return (run / "run.json").exists() and read_run(run).get("status") == "finished"
