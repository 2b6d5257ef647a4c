"""Choice of the batch that fits into memory: its size, or the micro-batches of a given one.

The memory of a step is computed first, from the maps that training keeps of an image. Then a step
of the job is tried in a process of its own, which is stopped where it takes too much, so that the
run itself is never at risk. The next size follows from what the step before took.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from keras_preact.files import read_json
from training import processes
from training.engines.devices import read_workers
from training.memory import GIB, resident_bytes
from training.recipe import AUTO, Recipe
from training.run import read_run

# Share of the memory that the first steps may take: later ones and evaluations take a little more.
SHARE = 0.95
# A size that is no larger than this many times one that fits is not tried any more.
WORTH_IT = 1.1
# Steps that are tried, unless none has fitted yet.
MOST = 5
# A step that was stopped would have taken this many times the memory, or more.
STOPPED = 1.25
# Seconds between two looks at the memory of a step, which may take some gigabytes in one.
_INTERVAL = 0.02
# What the libraries say where an allocation fails.
_EXHAUSTED = re.compile(r"RESOURCE_EXHAUSTED|ResourceExhausted|bad_alloc|[Oo]ut of memory|\bOOM\b")


@dataclass(frozen=True)
class Demand:
    """Memory that a job takes, as computed, and may take.

    Attributes:
        fixed: Bytes that do not depend on the batch.
        per_image: Bytes for each image of a micro-batch.
        limit: Bytes that there are.
        source: Where the limit comes from.
        on_host: Whether it is the memory of the machine, and not of an accelerator.
        images: Training images.
        devices: Devices that share a micro-batch.
        batch_size: Images of a batch; 0 where it is to be chosen.
        parts: Micro-batches of a batch, as the recipe has it: of a given batch, the fewest.
    """

    fixed: float
    per_image: float
    limit: float
    source: str
    on_host: bool
    images: int
    devices: int
    batch_size: int
    parts: int

    @property
    def sizes(self) -> list[int]:
        """Sizes of a micro-batch that may be chosen, rising."""
        if self.batch_size:
            share = self.batch_size // self.devices
            most = share // self.parts
            return [self.devices * each for each in range(1, most + 1) if share % each == 0]
        most = self.images // self.parts // self.devices
        # From 8 images on, multiples of 8, which processors divide evenly.
        return [self.devices * each for each in range(1, most + 1) if each < 8 or each % 8 == 0]

    def batch(self, size: int) -> tuple[int, int]:
        """Return the batch and its number of micro-batches of a size."""
        if self.batch_size:
            return self.batch_size, self.batch_size // size
        return size * self.parts, self.parts

    def bytes_of(self, size: int) -> float:
        """Return the computed memory of a step with micro-batches of a size."""
        return self.fixed + self.per_image * size


@dataclass(frozen=True)
class Attempt:
    """A step that was tried.

    Attributes:
        size: Images of the micro-batch.
        bytes: Peak of the memory; of a step that was stopped, the least that it must have been.
        fits: Whether the step came to its end within the memory.
    """

    size: int
    bytes: float
    fits: bool


def next_size(demand: Demand, attempts: Sequence[Attempt] = ()) -> int | None:
    """Return the size of the micro-batch to try next.

    Args:
        demand: The memory of the job.
        attempts: The steps that were tried.

    Returns:
        The size; None where the largest that fits is known well enough, or none fits.
    """
    fitting = max((each.size for each in attempts if each.fits), default=0)
    least_failed = min((each.size for each in attempts if not each.fits), default=None)
    sizes = [each for each in demand.sizes if fitting < each]
    if least_failed is not None:
        sizes = [each for each in sizes if each < least_failed]
    if not sizes or fitting and len(attempts) >= MOST:
        return None
    per_image = demand.per_image
    if attempts:
        last = attempts[-1]
        per_image = max((last.bytes - demand.fixed) / last.size, 1.0)
    expected = (SHARE * demand.limit - demand.fixed) / per_image
    place = bisect_right(sizes, expected)
    if not fitting:
        return sizes[max(place - 1, 0)]
    return sizes[place - 1] if place and sizes[place - 1] > WORTH_IT * fitting else None


def choose_batch(
    options: argparse.Namespace, recipe: Recipe, arguments: Sequence[str]
) -> dict[str, Any] | None:
    """Choose the batch of a run that asks for it, as if the command line had given it.

    A run that was begun keeps its batch.

    Args:
        options: The command line; `batch_size` and `gradient_accumulation_steps` are added to it.
        recipe: The recipe, with the overrides applied.
        arguments: The command line, from which other processes make the same job.

    Returns:
        What was chosen and why, as JSON; None where nothing was to be chosen.

    Raises:
        ValueError: If nothing fits, the job is wrong, or several workers share it.
    """
    if recipe.batch_size != AUTO and options.memory_gib is None:
        return None
    if len(read_workers(os.environ.get("TF_CONFIG", ""))[0]) > 1:
        raise ValueError(
            "The batch is chosen on one machine: several workers need numbers for `batch_size` and "
            f"`gradient_accumulation_steps`. Received: {recipe.batch_size}, "
            f"memory_gib={options.memory_gib}"
        )
    if (options.output / "run.json").exists():
        return _kept(options, recipe)
    choice = _search(arguments)
    _set(options, choice["batch_size"], choice["gradient_accumulation_steps"])
    return choice


def _kept(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any] | None:
    """Keep the batch of the run that is in the folder, unless another is given."""
    record = read_run(options.output)
    try:
        recorded = record["recipe"]["batch_size"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{options.output / 'run.json'} is damaged: it does not say the batch of the run. "
            "Give it by --batch-size, without --memory-gib."
        ) from error
    # A rule sets the batch later, once the images are known.
    ruled = recipe.rule != "none" and "batch_size" not in options
    if ruled or recipe.batch_size in (AUTO, recorded):
        _set(options, recorded, record["recipe"].get("gradient_accumulation_steps", 1))
    return record.get("batch_choice")


def _set(options: argparse.Namespace, batch_size: int, parts: int) -> None:
    options.batch_size = batch_size
    options.gradient_accumulation_steps = parts


def _search(arguments: Sequence[str]) -> dict[str, Any]:
    """Try steps until the largest micro-batch that fits is known."""
    demand, attempt = _try(arguments, None)
    attempts = [attempt]
    while size := next_size(demand, attempts):
        print(f"{_said(demand, attempts[-1])} Trying {size}.", flush=True)
        # What is free may change; what is computed is a process's own.
        attempts.append(_try(arguments, size, demand.limit)[1])
    fitting = [each for each in attempts if each.fits]
    if not fitting:
        least = attempts[-1]
        raise ValueError(
            f"Not even {least.size} images at a time fit into {demand.limit / GIB:.2f} GiB "
            f"({demand.source}): a step takes {least.bytes / GIB:.2f} GiB or more, and may take "
            f"{SHARE:.0%}. A smaller net or `input_size` takes less, and so does "
            "--model-options rematerialize=true."
        )
    best = max(fitting, key=lambda each: each.size)
    batch_size, parts = demand.batch(best.size)
    print(_said(demand, best), flush=True)
    print(_chosen(demand, best), flush=True)
    return {
        "batch_size": batch_size,
        "gradient_accumulation_steps": parts,
        "memory_gib": round(demand.limit / GIB, 3),
        "memory_from": demand.source,
        "computed_gib": round(demand.bytes_of(best.size) / GIB, 3),
        "attempts": [
            {"micro_batch": each.size, "gib": round(each.bytes / GIB, 3), "fits": each.fits}
            for each in attempts
        ],
    }


def _said(demand: Demand, attempt: Attempt) -> str:
    took = "took" if attempt.fits else "does not fit: it takes"
    more = "" if attempt.fits else " or more"
    return (
        f"A step with {attempt.size} images at a time {took} {attempt.bytes / GIB:.2f} GiB{more} "
        f"(computed: {demand.bytes_of(attempt.size) / GIB:.2f}) of {demand.limit / GIB:.2f} GiB "
        f"({demand.source}), of which it may take {SHARE:.0%}."
    )


def _chosen(demand: Demand, attempt: Attempt) -> str:
    batch_size, parts = demand.batch(attempt.size)
    if parts == 1:
        return f"The batch has {batch_size} images."
    return f"The batch of {batch_size} images is {parts} micro-batches of {attempt.size}."


def _try(arguments: Sequence[str], size: int | None, limit: float = 0.0) -> tuple[Demand, Attempt]:
    """Try a step in a process of its own.

    Args:
        arguments: The command line of the job.
        size: Images of the micro-batch; None for the size that is computed.
        limit: Bytes that there are; 0 for those that the process finds.

    Returns:
        The memory of the job as computed there, and the attempt.

    Raises:
        ValueError: If the job is wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "report.json", Path(folder) / "log.txt"
        with open(log, "w", encoding="utf-8") as file:
            command = ["training.step_memory", str(report), str(size or 0), *arguments]
            process = processes.start(command, file)
            try:
                stopped = _watch(process, report, limit)
            finally:
                processes.stop(process)
        record = read_json(report) if report.exists() else {}
        printed = processes.last_lines(log, 40)
    if "error" in record:
        raise ValueError(record["error"])
    # Linux kills with signal 9.
    exhausted = stopped or process.returncode == -9 or bool(_EXHAUSTED.search(printed))
    if "demand" not in record or not (exhausted or "peak" in record):
        raise ValueError(f"A step of the job, in a process of its own, failed:\n{printed}")
    demand = Demand(**record["demand"])
    limit = limit or demand.limit
    peak = record.get("peak", STOPPED * limit)
    return demand, Attempt(record["size"], peak, peak <= SHARE * limit)


def _watch(process: Popen, report: Path, limit: float) -> bool:
    """Wait for the process of a step, unless it takes more of the machine's memory than there is.

    Returns:
        Whether it does, and is to be stopped.
    """
    demand = None
    while process.poll() is None:
        if demand is None and report.exists():
            demand = read_json(report).get("demand")
        if demand and demand["on_host"]:
            if resident_bytes(process.pid) > (limit or demand["limit"]):
                return True
        time.sleep(_INTERVAL)
    return False
