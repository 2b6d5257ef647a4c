"""Time of 3x3 convolutions: TensorFlow's, and Winograd's algorithm.

    python -m benchmarks.winograd

`keras_preact.transforms.winograd` chooses between the two for inference, and
`keras_preact.ops.winograd.winograd_pays` for training.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.command import at_least, command_line
from benchmarks.report import Report, table
from benchmarks.workers import milliseconds_in_turn

# Height and width, channels: those of a 50-layer net, and of WideResNet28_10.
SHAPES = ((56, 64), (28, 128), (14, 256), (7, 512), (16, 320), (8, 640))
# Calls a round.
CALLS = 5

Form = Callable[[Any], Any]


def _inference(kernel: Any) -> tuple[Form, Form]:
    """Return the convolution, and Winograd's algorithm with the kernel transformed beforehand."""
    import tensorflow as tf

    from keras_preact.ops.winograd import transformed_kernel, winograd

    points, kernel = tf.constant(transformed_kernel(kernel)), tf.constant(kernel)
    return lambda maps: tf.nn.conv2d(maps, kernel, 1, "SAME"), lambda maps: winograd(maps, points)


def _training(kernel: Any) -> tuple[Form, Form]:
    """Return both with the gradients of maps and kernel."""
    import tensorflow as tf

    from keras_preact.ops.winograd import trainable_winograd

    kernel = tf.constant(kernel)

    def step(convolve: Callable[[Any, Any], Any]) -> Form:
        def with_gradients(maps: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([maps, kernel])
                outputs = convolve(maps, kernel)
            # As many channels out as in: the maps do for the gradient from above.
            return outputs, *tape.gradient(outputs, [maps, kernel], maps)

        return with_gradients

    return step(lambda maps, kernel: tf.nn.conv2d(maps, kernel, 1, "SAME")), step(
        trainable_winograd
    )


USES = {"inference": _inference, "training": _training}


def measure(use: str, batch: int, side: int, channels: int, rounds: int) -> list[float]:
    """Return milliseconds of the convolution and of Winograd's algorithm."""
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    maps = tf.constant(rng.normal(size=(batch, side, side, channels)), tf.float32)
    forms = USES[use](rng.normal(size=(3, 3, channels, channels)).astype("float32"))
    spec = [tf.TensorSpec((None, *maps.shape[1:]))]
    steps = [tf.function(form, input_signature=spec, autograph=False) for form in forms]
    return milliseconds_in_turn(steps, (maps,), rounds, CALLS)


def main() -> None:
    """Measure, print and write the table."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    title = "3x3 convolutions by Winograd's algorithm"
    command = command_line("benchmarks.winograd")
    report = Report(title, command, ("keras", "tensorflow"), options.output)
    rows = []
    for use in USES:
        for batch in options.batch_sizes:
            for side, channels in SHAPES:
                direct, ours = measure(use, batch, side, channels, options.rounds)
                shape = f"{side}x{side}x{channels}"
                times = (f"{direct:.2f}", f"{ours:.2f}", f"{direct / ours:.2f}")
                rows.append((use, batch, shape, *times))
    header = ("use", "batch", "maps", "convolution, ms", "Winograd, ms", "ratio")
    report.write(
        f"{table(header, rows)}\n\nfloat32, as many channels out as in, fastest of the rounds. "
        "Training: the forward pass and both gradients."
    )


if __name__ == "__main__":
    main()
