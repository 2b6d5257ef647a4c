"""Cost of depth: build, first step, later steps, peak memory, save, load.

    python -m benchmarks.depth
    KERAS_BACKEND=jax python -m benchmarks.depth --forms stacked rematerialised PyTorch
    python -m benchmarks.depth --depths 1001 --forms "stacked, norms rematerialised" PyTorch

CIFAR nets of bottleneck units, batch 32, one process per net. Their units are stacked and run in a
loop, the same compiled by XLA, stacked with the norms or all rematerialized, or separate; beside
them the same nets
in PyTorch, eager and channels last (`benchmarks/torch_resnet.py`). On JAX all of Keras's are
compiled. A GPU is used where JAX and PyTorch have one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# No import here may bring in Keras or TensorFlow: PyTorch's process would hold them, and that of
# Keras would have them before the clock starts.
from benchmarks.command import at_least, command_line
from benchmarks.report import Report, table
from benchmarks.workers import in_a_new_process
from training.process_memory import peak_bytes

DEPTHS = (110, 497, 1001, 2000, 4997)
# Deeper, a form takes many minutes to trace or tens of gigabytes.
DEEPEST = {
    "stacked": 2000,
    "stacked, XLA": 110,
    "stacked, norms rematerialised": 2000,
    "separate": 1001,
    "PyTorch": 2000,
}
NORMS = "stacked, norms rematerialised"
FORMS = ("stacked", "stacked, XLA", NORMS, "rematerialised", "separate", "PyTorch")
BATCH_SIZE = 32


@dataclass
class Cost:
    """Measurements of one net.

    Attributes:
        form: One of `FORMS`.
        depth: Layers with weights along the longest path.
        build_s: Seconds to build the net.
        first_step_s: Seconds of the first training step, tracing included.
        step_s: Seconds of the fastest later training step.
        hundred_steps_s: Seconds from the start of the process, imports included, to the end of the
            100th training step: those until the end of the first, and 99 times `step_s`.
        peak_gb: Peak resident memory of the process up to here, or of the GPU's arrays, in 1e9
            bytes.
        save_s: Seconds to save the net; None for PyTorch, as for `load_s`.
        load_s: Seconds to load it.
    """

    form: str
    depth: int
    build_s: float
    first_step_s: float
    step_s: float
    hundred_steps_s: float
    peak_gb: float
    save_s: float | None = None
    load_s: float | None = None


def units_of(depth: int) -> int:
    """Return the bottleneck units per stage of a CIFAR net."""
    return (depth - 2) // 9


def measure(form: str, depth: int, steps: int, started: float) -> Cost:
    """Measure one net, in a process that has done nothing else.

    Args:
        form: One of `FORMS`.
        depth: Layers.
        steps: Later steps.
        started: When the process was started, by `time.time`: other clocks are of one process.

    Returns:
        The measurements.
    """
    build, train = (_torch if form == "PyTorch" else keras_net)(form, depth)
    build_s, net = _timed(build)
    first_step_s, _ = _timed(lambda: train(net))
    first_step_end = time.time() - started
    step_s = min(_timed(lambda: train(net))[0] for _ in range(steps))
    peak_gb = peak_bytes() / 1e9
    hundred_steps_s = first_step_end + 99 * step_s
    cost = Cost(form, depth, build_s, first_step_s, step_s, hundred_steps_s, peak_gb)
    if form != "PyTorch":
        cost.save_s, cost.load_s = _save_and_load(net)
    return cost


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH_SIZE, 32, 32, 3)).astype("float32")
    return images, rng.integers(0, 10, BATCH_SIZE)


def keras_net(form: str, depth: int) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return functions that build a net of ours and that train it on a batch."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    import keras_preact

    images, labels = _batch()
    targets = np.eye(10, dtype="float32")[labels]

    def build() -> Any:
        net = keras_preact.PreActResNet1001(
            units=(units_of(depth),) * 3,
            scan_units=form != "separate",
            rematerialize={NORMS: "norms", "rematerialised": True}.get(form, False),
        )
        if form == "stacked, XLA":
            # The limits that the layers set to XLA are tested here.
            for layer in net.layers:
                layer.supports_jit = True
        net.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            "categorical_crossentropy",
            jit_compile=form == "stacked, XLA" or keras.backend.backend() == "jax",
        )
        # As `fit` does: else TensorFlow, which meets new variables, traces the first step twice.
        net.optimizer.build(net.trainable_variables)
        return net

    return build, lambda net: net.train_on_batch(images, targets)


def _torch(form: str, depth: int) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Return functions that build the same net in PyTorch and that train it on a batch."""
    import torch

    from benchmarks.torch_resnet import CifarPreActResNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = _batch()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    x, y = x.to(device), torch.from_numpy(labels).to(device)

    def build() -> Any:
        net = CifarPreActResNet(units_of(depth)).to(device)
        # PyTorch's annotations lack the memory format.
        net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return net, torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def train(net_and_optimizer: Any) -> float:
        net, optimizer = net_and_optimizer
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return build, train


def _save_and_load(net: Any) -> tuple[float, float]:
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.keras"
        save_s, _ = _timed(lambda: net.save(path))
        load_s, _ = _timed(lambda: keras.saving.load_model(path))
    return save_s, load_s


def _row(cost: Cost) -> tuple[str, ...]:
    seconds = [f"{each:.1f}" for each in (cost.build_s, cost.first_step_s)]
    file = ["" if each is None else f"{each:.1f}" for each in (cost.save_s, cost.load_s)]
    later = [f"{cost.step_s:.2f}", f"{cost.hundred_steps_s:.0f}", f"{cost.peak_gb:.2f}"]
    return (str(cost.depth), cost.form, *seconds, *later, *file)


def merged(old: list[Cost], new: list[Cost]) -> list[Cost]:
    """Merge both lists in order; later measurements replace earlier ones."""
    costs = {(cost.depth, FORMS.index(cost.form)): cost for cost in [*old, *new]}
    return [costs[key] for key in sorted(costs)]


def plot(costs: list[Cost], path: Path) -> None:
    """Draw each cost against depth."""
    from matplotlib.figure import Figure

    from keras_preact.files import replacing

    panels = {
        "build_s": "build, s",
        "first_step_s": "first training step, s",
        "step_s": "later training step, s",
        "peak_gb": "peak memory, GB",
        "save_s": "save, s",
        "load_s": "load, s",
    }
    figure = Figure(figsize=(13, 7), dpi=100, layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
        for form in FORMS:
            of_form = [each for each in costs if each.form == form]
            points = [(each.depth, getattr(each, name)) for each in of_form]
            points = [point for point in points if point[1] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=form)
        axis.set(title=title, xlabel="layers", xlim=(0, None), ylim=(0, None))
    axes.flat[0].legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png")


HEADER = (
    "layers",
    "units",
    "build, s",
    "first step, s",
    "later step, s",
    "start to step 100, s",
    "peak memory, GB",
    "save, s",
    "load, s",
)


def measure_all(options: argparse.Namespace) -> list[Cost]:
    """Measure what the command line asks for, and keep the results of every net as it ends.

    Args:
        options: The parsed command line.

    Returns:
        The measurements, with those of earlier commands in the JSON file beside the output.
    """
    from keras_preact.files import write_json

    data = options.output.with_suffix(".json") if options.output else None
    recorded = json.loads(data.read_text()) if data and data.exists() else []
    costs = [Cost(**each) for each in recorded]
    for depth in options.depths:
        for form in options.forms:
            if depth > DEEPEST.get(form, depth):
                continue
            new = in_a_new_process(measure, form, depth, options.steps, time.time())
            print(dataclasses.asdict(new), flush=True)
            costs = merged(costs, [new])
            if data:
                write_json(data, [dataclasses.asdict(each) for each in costs])
    return costs


def main() -> None:
    """Measure, print and write the table and the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--depths", nargs="*", type=int, default=DEPTHS, help="none: only draw the results again"
    )
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument(
        "--steps", type=at_least(1), default=3, help="later steps, of which the fastest counts"
    )
    parser.add_argument("--device", help="the name of the GPU, if one is used")
    parser.add_argument(
        "--output",
        type=Path,
        help="write the table here, and a plot and a JSON file beside it; rows that the JSON file "
        "has and this run does not measure are kept",
    )
    options = parser.parse_args()
    # Without the arguments: the rows may come from several commands.
    command = command_line("benchmarks.depth", [])
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    report = Report("Depth", command, ("keras", backend, "torch"), options.output)
    costs = measure_all(options)
    body = (
        f"{table(HEADER, [_row(cost) for cost in costs])}\n\n"
        f"Bottleneck units, CIFAR form, batch {BATCH_SIZE}, float32. A later step is the fastest "
        f"of {options.steps}; the time to step 100 is that until the end of the first, imports "
        "included, and 99 later steps, not 100 steps run. Rows come from runs of their own, with "
        "`--depths` and `--forms`."
    )
    if options.output:
        path = options.output.with_suffix(".png")
        plot(costs, path)
        body += f"\n\n![Cost against depth]({path.name})"
    report.write(body, options.device)


if __name__ == "__main__":
    main()
