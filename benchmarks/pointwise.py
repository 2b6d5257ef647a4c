"""Training time of 1x1 convolutions: TensorFlow's, a matrix product, and a mixture of both.

    python -m benchmarks.pointwise

In the mixture the kernel's gradient alone is a product. `keras_preact.ops.pointwise` chooses
between the last two.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import report, table, write
from benchmarks.workers import milliseconds_in_turn, training_step

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


def _mixture(x: Any, kernel: Any) -> Any:
    from keras_preact.ops.kernel_gradient import convolution

    return convolution(x, kernel, by_products=True)


FORMS = {"convolution": _convolution, "product": _product, "mixture": _mixture}
DTYPES = ("float32", "bfloat16")


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
    for dtype in DTYPES:
        for batch, size, channels, filters in SHAPES:
            shapes = (
                (batch, size, size, channels),
                (1, 1, channels, filters),
                (batch, size, size, filters),
            )
            arguments = tuple(tf.cast(tf.random.normal(shape), dtype) for shape in shapes)
            steps = [training_step(forward) for forward in FORMS.values()]
            fastest = milliseconds_in_turn(steps, arguments, options.rounds, options.calls)
            maps = f"{batch}x{size}x{size}x{channels} to {filters}"
            rows.append((dtype, maps, channels * filters, *(f"{each:.2f}" for each in fastest)))
    header = ("dtype", "maps", "weights", *(f"{name}, ms" for name in FORMS))
    command = "python -m benchmarks.pointwise " + shlex.join(sys.argv[1:])
    body = f"{table(header, rows)}\n\nForward pass and both gradients, fastest round."
    write(
        report("1x1 convolutions in training", command.strip(), ("tensorflow",), body),
        options.output,
    )


if __name__ == "__main__":
    main()
