"""Where a training step of a deep net goes: time in each kind of TensorFlow's kernels.

python -m benchmarks.profile_step
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.report import report, table, write

BATCH_SIZE = 32
# Kinds of kernels that a row of their own is given.
SHOWN = 12


def _trained_net(depth: int) -> tuple[Any, Any]:
    """A net of stacked bottleneck units, and the batch that it has been trained on thrice."""
    import keras
    import numpy as np

    import keras_preact

    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH_SIZE, 32, 32, 3)).astype("float32")
    labels = np.eye(10, dtype="float32")[rng.integers(0, 10, BATCH_SIZE)]
    net = keras_preact.PreActResNet1001(units=((depth - 2) // 9,) * 3, scan_units=True)
    net.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy")
    for _ in range(3):
        net.train_on_batch(images, labels)
    return net, (images, labels)


def kernel_times(folder: Path) -> tuple[Counter, Counter]:
    """Seconds and calls of each kind of kernel in a profile that TensorFlow wrote."""
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=164)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    net, batch = _trained_net(options.depth)
    start = time.perf_counter()
    net.train_on_batch(*batch)
    step_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(options.steps):
                net.train_on_batch(*batch)
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
    body = (
        f"{table(('kernel', 'ms a step', 'share', 'calls a step'), rows)}\n\n"
        f"{options.depth} layers, stacked bottleneck units, batch {BATCH_SIZE}, float32. A step "
        f"without the profiler took {step_s:.2f} s; kernels run side by side, so their times add "
        "up to more."
    )
    command = "python -m benchmarks.profile_step " + shlex.join(sys.argv[1:])
    text = report("A training step by kernel", command.strip(), ("keras", "tensorflow"), body)
    write(text, options.output)


if __name__ == "__main__":
    main()
