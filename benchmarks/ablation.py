r"""The paper's two ablations, the order of activation and the kind of shortcut, on CIFAR-10.

    python -m benchmarks.ablation --data DATA/cifar-10-batches-bin \
        --output benchmarks/results/ablation

At the size "cpu" a net has the depth of ResNet-56, half its width and maps of half the size, and
sees 60,000 images in all (`training/recipes/cifar_ablation.toml`). With a GPU, `--size resnet110`
and `--size resnet164` are the paper's own. Runs and their state are those of `training.reproduce`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import command_line, failed
from benchmarks.report import Report
from training.reproduce import SIZES, parse_arguments, reproduce


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        epilog="Any other option is one of training.reproduce.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--size", choices=SIZES, default="cpu", help="default: cpu")
    options, others = parser.parse_known_args(arguments)
    given = ["--size", options.size, "--output", str(options.output), *others]
    tables = parse_arguments(["orders", "shortcuts", *given])
    report = Report(
        f"The paper's ablations on CIFAR-10, size {options.size}",
        command_line("benchmarks.ablation", arguments),
        ("keras", "tensorflow"),
        options.output / "README.md",
    )
    try:
        comparisons = reproduce(tables)
    except (ValueError, RuntimeError, OSError) as error:
        return failed("benchmarks.ablation", error)
    report.write(
        "Test error after the last epoch; the median of the seeds beside the paper's.\n\n"
        + comparisons
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
