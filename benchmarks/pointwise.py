"""Training time of 1x1 convolutions, as TensorFlow's convolution and as a matrix product.

    python -m benchmarks.pointwise

`keras_preact.layers.Conv2D` chooses between the two by the size of the kernel.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import report, table, write

# Batch, height and width, channels in, channels out: CIFAR nets, then ImageNet nets.
SHAPES = (
    (32, 32, 64, 16),
    (32, 32, 16, 64),
    (32, 16, 128, 32),
    (32, 16, 32, 128),
    (32, 8, 256, 64),
    (32, 8, 64, 256),
    (16, 56, 256, 64),
    (16, 56, 64, 256),
    (16, 28, 512, 128),
    (16, 14, 1024, 256),
    (16, 7, 2048, 512),
)


def _convolution(x: Any, kernel: Any) -> Any:
    import tensorflow as tf

    return tf.nn.conv2d(x, kernel, 1, "SAME")


def _product(x: Any, kernel: Any) -> Any:
    from keras import ops

    return ops.matmul(x, kernel[0, 0])


def _training(forward: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """The forward pass and both gradients, as one graph."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def step(x: Any, kernel: Any, upstream: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = forward(x, kernel)
        return tape.gradient(y, [x, kernel], upstream)

    return step


def _seconds(step: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        step(*arguments)
    return (time.perf_counter() - start) / calls


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--calls", type=int, default=5, help="calls a round")
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    import tensorflow as tf

    rows = []
    for batch, size, channels, filters in SHAPES:
        arguments = (
            tf.random.normal((batch, size, size, channels)),
            tf.random.normal((1, 1, channels, filters)),
            tf.random.normal((batch, size, size, filters)),
        )
        steps = [_training(forward) for forward in (_convolution, _product)]
        for step in steps:
            _seconds(step, arguments, 2)
        rounds = [
            [_seconds(step, arguments, options.calls) for step in steps]
            for _ in range(options.rounds)
        ]
        convolution, product = (1000 * min(times) for times in zip(*rounds, strict=True))
        shape = f"{batch}x{size}x{size}x{channels} to {filters}"
        ratio = f"{convolution / product:.2f}"
        rows.append((shape, channels * filters, f"{convolution:.2f}", f"{product:.2f}", ratio))
    header = ("maps", "weights", "convolution, ms", "product, ms", "ratio")
    command = "python -m benchmarks.pointwise " + shlex.join(sys.argv[1:])
    body = (
        f"{table(header, rows)}\n\nForward pass and both gradients, float32, fastest round. "
        "Ratio above 1: the product is faster."
    )
    write(
        report("1x1 convolutions in training", command.strip(), ("tensorflow",), body),
        options.output,
    )


if __name__ == "__main__":
    main()
