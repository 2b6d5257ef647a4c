"""Time of 3x3 convolutions: TensorFlow's, and Winograd's algorithm.

    python -m benchmarks.winograd

`keras_preact.transforms.winograd` chooses between the two.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from benchmarks.report import report, table, write
from benchmarks.workers import seconds_of_call

# Height and width, channels: those of a 50-layer net.
SHAPES = ((56, 64), (28, 128), (14, 256), (7, 512))
# Calls a round.
CALLS = 5


def measure(batch: int, side: int, channels: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of the convolution and of Winograd's algorithm."""
    import numpy as np
    import tensorflow as tf

    from keras_preact.layers.winograd import transformed_kernel, winograd

    rng = np.random.default_rng(0)
    maps = tf.constant(rng.normal(size=(batch, side, side, channels)), tf.float32)
    kernel = rng.normal(size=(3, 3, channels, channels)).astype("float32")
    points, kernel = tf.constant(transformed_kernel(kernel)), tf.constant(kernel)
    spec = [tf.TensorSpec((None, *maps.shape[1:]))]
    forms = (
        lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"),
        lambda x: winograd(x, points),
    )
    steps = [tf.function(form, input_signature=spec, autograph=False) for form in forms]
    for step in steps:
        step(maps)
    times = [[seconds_of_call(step, (maps,), CALLS) for step in steps] for _ in range(rounds)]
    return tuple(1e3 * min(each) for each in zip(*times, strict=True))


def main() -> None:
    """Measure, print and write the table."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    rows = []
    for batch in options.batch_sizes:
        for side, channels in SHAPES:
            direct, ours = measure(batch, side, channels, options.rounds)
            shape = f"{side}x{side}x{channels}"
            rows.append((batch, shape, f"{direct:.2f}", f"{ours:.2f}", f"{direct / ours:.2f}"))
    header = ("batch", "maps", "convolution, ms", "Winograd, ms", "ratio")
    body = f"{table(header, rows)}\n\nfloat32, as many channels out as in, fastest of the rounds."
    command = "python -m benchmarks.winograd " + shlex.join(sys.argv[1:])
    title = "3x3 convolutions by Winograd's algorithm"
    write(report(title, command.strip(), ("keras", "tensorflow"), body), options.output)


if __name__ == "__main__":
    main()
