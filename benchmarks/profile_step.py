"""Where a training step of a deep net goes: time in each kind of TensorFlow's kernels.

python -m benchmarks.profile_step
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.command import at_least, command_line
from benchmarks.depth import BATCH_SIZE, keras_net
from benchmarks.report import Report, table

# Kinds of kernels that a row of their own is given.
SHOWN = 12


def kernel_times(folder: Path) -> tuple[Counter, Counter]:
    """Read seconds and calls of each kind of kernel from a profile that TensorFlow wrote."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    (path,) = folder.rglob("*.xplane.pb")
    space.ParseFromString(path.read_bytes())
    seconds, calls = Counter(), Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                # Kernels are called "name of the node:kind", TensorFlow's own code "Class::method".
                name, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if name and not name.endswith(":") and kind.isidentifier():
                    kind = kind.removeprefix("_MklNative").removeprefix("_Mkl")
                    seconds[kind] += event.duration_ps / 1e12
                    calls[kind] += 1
    return seconds, calls


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--depth", type=int, default=164)
    parser.add_argument("--steps", type=at_least(1), default=3)
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    command = command_line("benchmarks.profile_step")
    packages = ("keras", "tensorflow")
    report = Report("A training step by kernel", command, packages, options.output)
    build, train = keras_net("stacked", options.depth)
    import tensorflow as tf

    net = build()
    for _ in range(3):
        train(net)
    start = time.perf_counter()
    train(net)
    step_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(options.steps):
                train(net)
        seconds, calls = kernel_times(Path(folder))
    total = sum(seconds.values())
    rows = [
        (
            kind,
            f"{each / options.steps * 1000:.0f}",
            f"{each / total:.1%}",
            calls[kind] // options.steps,
        )
        for kind, each in seconds.most_common(SHOWN)
    ]
    rest = total - sum(each for _, each in seconds.most_common(SHOWN))
    rows.append(("all others", f"{rest / options.steps * 1000:.0f}", f"{rest / total:.1%}", ""))
    report.write(
        f"{table(('kernel', 'ms a step', 'share', 'calls a step'), rows)}\n\n"
        f"{options.depth} layers, stacked bottleneck units, batch {BATCH_SIZE}, float32. A step "
        f"without the profiler took {step_s:.2f} s; kernels run side by side, so their times add "
        "up to more."
    )


if __name__ == "__main__":
    main()
