"""How many candidates of a search are held to a budget of parameters and FLOPs in a second.

    python -m benchmarks.candidates --output benchmarks/results/candidates.md

The candidates are all nets of three stages, of 1 to 8 units and eight widths each, in three kinds
of unit and with four kinds of attention: 3.1 million. Each kind has a `CostTable`. Its first pass
over the candidates counts every part once; the second finds all of them in the table, and is the
one that the rate is of. Times are processor seconds, of one core.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import command_line
from benchmarks.report import Report, table
from keras_preact import PreActResNet20
from keras_preact.analysis import CostTable

UNITS = tuple(itertools.product(range(1, 9), repeat=3))
CHANNELS = tuple(itertools.product((8, 16, 24, 32, 48, 64, 96, 128), repeat=3))
KINDS = tuple(
    itertools.product(("basic", "bottleneck", "inverted_bottleneck"), (None, "se", "eca", "cbam"))
)


@dataclass(frozen=True)
class Pass:
    """One pass over the candidates of a kind.

    Attributes:
        kept: How many are within the budget.
        seconds: Processor seconds.
    """

    kept: int
    seconds: float


def select(costs: CostTable, parameters: float, flops: float) -> Pass:
    """Count the candidates within a budget.

    Args:
        costs: The table of their kind.
        parameters: The most that a net may have.
        flops: The most multiply-adds of a forward pass.

    Returns:
        The results.
    """
    start = time.process_time()
    kept = 0
    for channels in CHANNELS:
        for units in UNITS:
            cost = costs.cost(units, channels)
            if cost.parameters <= parameters and cost.flops <= flops:
                kept += 1
    return Pass(kept, time.process_time() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.candidates")
    parser.add_argument("--parameters", type=float, default=1e6, help="budget (default: 1e6)")
    parser.add_argument("--flops", type=float, default=50e6, help="budget (default: 50e6)")
    parser.add_argument("--output", type=Path, help="a Markdown file")
    options = parser.parse_args(arguments)
    command = command_line("benchmarks.candidates", arguments)
    report = Report("Candidates", command, ("keras",), options.output)
    count = len(UNITS) * len(CHANNELS)
    rows, total = [], 0.0
    for unit, attention in KINDS:
        kind = PreActResNet20.architecture.replace(unit=unit, attention=attention)
        costs = CostTable(kind, classes=10)
        first, second = (select(costs, options.parameters, options.flops) for _ in range(2))
        total += second.seconds
        rate = f"{count / second.seconds:,.0f}"
        rows.append((unit, attention or "none", f"{second.kept:,}", f"{first.seconds:.1f}", rate))
        print(rows[-1], flush=True)
    header = ("unit", "attention", "kept", "first pass, s", "later, candidates/s")
    body = (
        f"{table(header, rows)}\n\n"
        f"{len(KINDS)} kinds of {count:,} candidates each, kept with up to "
        f"{options.parameters:,.0f} parameters and {options.flops:,.0f} FLOPs (multiply-adds, "
        f"images of 32x32 pixels). All {len(KINDS) * count:,} in {total:.1f} processor seconds: "
        f"{len(KINDS) * count / total:,.0f} a second."
    )
    report.write(body)


if __name__ == "__main__":
    main()
