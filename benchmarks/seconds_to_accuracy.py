r"""Seconds a short recipe needs to come near what a standard one reaches, on CIFAR-10.

    KERAS_BACKEND=jax python -m benchmarks.seconds_to_accuracy \
        --data DATA/cifar-10-batches-bin --output runs/speed

The images live on the device (`training.train --data-on-device`). A run that an earlier call of the
same command finished is not begun again; one that was interrupted is refused, since the epoch after
which it went on would hold another compilation. All runs of a recipe have one program: with
`JAX_COMPILATION_CACHE_DIR` set to a folder, it is compiled once.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import keras

from benchmarks.command import at_least, command_line
from benchmarks.report import Report, table
from training.run import read_run
from training.train import main as train

# A run may be this far below the standard one, in share of the test images.
MARGIN = 0.003


def run(recipe: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train once, and return the record of the run."""
    output = options.output / f"{Path(recipe).stem}_{seed}"
    if (output / "run.json").exists() and read_run(output).get("status") != "finished":
        raise SystemExit(
            f"benchmarks.seconds_to_accuracy: the run in {output} was interrupted, so that its "
            "seconds are not those of one process. Remove the folder."
        )
    keras.backend.clear_session()
    status = train(
        [
            *("--recipe", recipe, "--data", options.data, "--data-on-device"),
            *("--seed", str(seed), "--dtype-policy", options.policy, "--output", str(output)),
            *("--save-every", str(options.save_every), "--log-every", "1000000"),
        ]
    )
    if status:
        raise SystemExit(status)
    return read_run(output)


def seconds(record: dict[str, Any]) -> float:
    """Return the seconds of a run's epochs, evaluations included.

    The first epoch contains the tracing and the compilation: it is taken to last as long as the
    median of the others.
    """
    first, *others = (epoch["seconds"] for epoch in record["history"])
    return (statistics.median(others) if others else first) + sum(others)


def summarize(records: list[dict[str, Any]]) -> tuple[object, ...]:
    """Format the table row of a recipe."""
    accuracies = [record["history"][-1]["val_top1"] for record in records]
    recipe = records[0]["recipe"]
    return (
        records[0]["recipe_name"],
        recipe["epochs"],
        recipe["batch_size"],
        len(records),
        f"{statistics.median(accuracies):.2%}",
        f"{min(accuracies):.2%} to {max(accuracies):.2%}",
        f"{statistics.median(map(seconds, records)):.1f}",
        f"{statistics.median(record['history'][0]['seconds'] for record in records):.1f}",
    )


def main() -> None:
    """Train, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, in a folder or .npz files")
    parser.add_argument("--output", required=True, type=Path, help="the folder of the runs")
    parser.add_argument("--standard", default="cifar_standard", help="the recipe to come near")
    parser.add_argument("--short", default="cifar_fast", help="the recipe that is timed")
    parser.add_argument("--seeds", type=at_least(1), default=5, help="runs of the short recipe")
    parser.add_argument("--policy", default="mixed_bfloat16", help="of both")
    parser.add_argument("--save-every", type=int, default=20, help="epochs between two checkpoints")
    parser.add_argument("--table", type=Path, help="also write the result here")
    options = parser.parse_args()
    report = Report(
        "Seconds to accuracy on CIFAR-10",
        command_line("benchmarks.seconds_to_accuracy"),
        ("keras", keras.backend.backend()),
        options.table,
    )
    short = [run(options.short, seed, options) for seed in range(options.seeds)]
    standard = run(options.standard, 0, options)
    goal = standard["history"][-1]["val_top1"] - MARGIN
    near = sum(record["history"][-1]["val_top1"] >= goal for record in short)
    header = ("recipe", "epochs", "batch", "runs", "top 1", "range", "seconds", "first epoch, s")
    report.write(
        f"{table(header, [summarize([standard]), summarize(short)])}\n\n"
        "Medians of the test accuracy after the last epoch, and of the seconds of all epochs with "
        "an evaluation in each. The first epoch, which contains the compilation, is counted like "
        f"the median of the others. {near} of {len(short)} short runs come within {MARGIN:.1%} of "
        "the standard one.",
        ", ".join(standard["devices"]),
    )


if __name__ == "__main__":
    main()
