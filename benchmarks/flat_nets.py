"""Cost of flat nets of up to 300 layers, against the same nets with scanned units.

    python -m benchmarks.flat_nets --save

A flat net's units are layers of Keras; scanned ones run as a loop over stacked weights. Each net is
built, trained, saved and loaded in a process of its own. Of every duration there are two figures:
wall-clock seconds, and processor seconds on all cores, which depend less on other work.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.command import at_least, command_line
from benchmarks.report import Report, processor_folder, table
from benchmarks.workers import in_a_new_process
from training.process_memory import peak_bytes

# By title, a builder and the units of its stages; None for its own. The third is as deep as a net
# may be that is flat by default. Units of dense nets cannot be scanned.
NETS: dict[str, tuple[str, tuple[int, ...] | None]] = {
    "PreActResNet152": ("PreActResNet152", None),
    "PreActResNet200": ("PreActResNet200", None),
    "299 layers": ("PreActResNet200", (3, 36, 57, 3)),
    "PreActDenseNet201": ("PreActDenseNet201", None),
}
FORMS = {"flat": False, "scanned": True}
BATCH_SIZE = 8
SIZE = 64
CLASSES = 10


class Seconds(NamedTuple):
    """Duration of one task.

    Attributes:
        wall: Seconds on the clock.
        cpu: Seconds of all cores.
    """

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.cpu:.2f})"


@dataclass
class Cost:
    """Measurements of one net.

    Attributes:
        layers: Its layers in Keras.
        peak_gb: Peak resident memory of the process, in 1e9 bytes.
        seconds: By name of the task, its duration.
    """

    layers: int = 0
    peak_gb: float = 0.0
    seconds: dict[str, Seconds] = field(default_factory=dict)


def measure(title: str, form: str, steps: int) -> Cost:
    """Measure one net, in a process that has done nothing else."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    import keras_preact

    cost = Cost()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH_SIZE, SIZE, SIZE, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, BATCH_SIZE)

    def build() -> keras.Model:
        builder, units = NETS[title]
        options: dict[str, Any] = {} if units is None else {"units": units}
        return keras_preact.BUILDERS[builder](
            weights=None,
            input_shape=images.shape[1:],
            classes=CLASSES,
            scan_units=FORMS[form],
            **options,
        )

    def step() -> None:
        net.train_on_batch(images, labels)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.keras"
        # What the first net of a process costs beyond its layers.
        keras_preact.PreActResNet18(weights=None, include_top=False)
        cost.seconds["build"], net = _timed(build)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        # As `fit` does: else TensorFlow, which meets new variables, traces the first step twice.
        optimizer.build(net.trainable_variables)
        net.compile(optimizer, "sparse_categorical_crossentropy")
        cost.seconds["first step"], _ = _timed(step)
        later = [_timed(step)[0] for _ in range(steps)]
        cost.seconds["later step"] = Seconds(*(min(each) for each in zip(*later, strict=True)))
        cost.peak_gb, cost.layers = peak_bytes() / 1e9, len(net.layers)
        cost.seconds["save"], _ = _timed(lambda: net.save(path))
        cost.seconds["load"], _ = _timed(lambda: keras.saving.load_model(path))
    return cost


def _timed(function: Callable[[], Any]) -> tuple[Seconds, Any]:
    start = time.perf_counter(), time.process_time()
    result = function()
    return Seconds(time.perf_counter() - start[0], time.process_time() - start[1]), result


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS, metavar="NET")
    parser.add_argument(
        "--steps", type=at_least(1), default=5, help="later steps, of which the fastest counts"
    )
    parser.add_argument(
        "--save", action="store_true", help="write the table to the folder of this processor"
    )
    options = parser.parse_args()
    command = command_line("benchmarks.flat_nets")
    output = processor_folder() / "flat_nets.md" if options.save else None
    report = Report("Flat nets", command, ("keras", "tensorflow"), output)
    rows, tasks = [], ()
    for title in options.nets:
        for form in FORMS if title != "PreActDenseNet201" else ("flat",):
            cost = in_a_new_process(measure, title, form, options.steps)
            tasks = tuple(cost.seconds)
            rows.append((title, form, cost.layers, *cost.seconds.values(), f"{cost.peak_gb:.2f}"))
            print(*rows[-1], sep=" | ", flush=True)
    header = ("net", "form", "layers of Keras", *tasks, "peak memory, GB")
    report.write(
        f"{table(header, rows)}\n\n"
        f"Seconds, and in parentheses processor seconds; batch {BATCH_SIZE} at {SIZE}x{SIZE}, "
        "float32. The first step holds the trace and TensorFlow's optimization of it. A later step "
        f"is the fastest of {options.steps}."
    )


if __name__ == "__main__":
    main()
