"""Training time of 1x1 convolutions: TensorFlow's, a matrix product, and a mixture of both.

    python -m benchmarks.pointwise

In the mixture only the kernel's gradient is a product. `keras_preact.ops.pointwise` chooses among
the three. A product has no stride.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.command import at_least, command_line
from benchmarks.report import Report, table
from benchmarks.workers import milliseconds_in_turn, training_step

# Batch, height and width, channels in, channels out, stride: CIFAR nets, ImageNet nets, and the
# projecting shortcuts of both.
SHAPES = (
    (32, 32, 64, 16, 1),
    (32, 32, 16, 64, 1),
    (32, 16, 128, 32, 1),
    (32, 16, 32, 128, 1),
    (32, 8, 256, 64, 1),
    (32, 8, 64, 256, 1),
    (16, 56, 256, 64, 1),
    (16, 56, 64, 256, 1),
    (16, 28, 512, 128, 1),
    (16, 14, 1024, 256, 1),
    (16, 7, 2048, 512, 1),
    (128, 32, 16, 32, 2),
    (128, 16, 32, 64, 2),
    (128, 32, 64, 128, 2),
    (16, 56, 64, 128, 2),
    (16, 56, 256, 512, 2),
    (16, 28, 512, 1024, 2),
    (16, 14, 1024, 2048, 2),
)
FORMS = ("convolution", "product", "mixture")


def _forms(stride: int) -> list[Callable[[Any, Any], Any]]:
    """Return the forms of a convolution, without the product where there is a stride."""
    import tensorflow as tf
    from keras import ops

    from keras_preact.ops.kernel_gradient import convolution

    def plain(x: Any, kernel: Any) -> Any:
        return tf.nn.conv2d(x, kernel, stride, "SAME")

    def product(x: Any, kernel: Any) -> Any:
        return ops.matmul(x, kernel[0, 0])

    def mixture(x: Any, kernel: Any) -> Any:
        return convolution(x, kernel, (stride, stride), by_products=True)

    return [plain, product, mixture] if stride == 1 else [plain, mixture]


DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least(1), default=8)
    parser.add_argument("--calls", type=at_least(1), default=5, help="calls a round")
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    command = command_line("benchmarks.pointwise")
    report = Report("1x1 convolutions in training", command, ("tensorflow",), options.output)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    import tensorflow as tf

    rows = []
    for dtype in DTYPES:
        for batch, size, channels, filters, stride in SHAPES:
            out = -(-size // stride)
            shapes = (
                (batch, size, size, channels),
                (1, 1, channels, filters),
                (batch, out, out, filters),
            )
            arguments = tuple(tf.cast(tf.random.normal(shape), dtype) for shape in shapes)
            steps = [training_step(forward) for forward in _forms(stride)]
            fastest = milliseconds_in_turn(steps, arguments, options.rounds, options.calls)
            times = [f"{each:.2f}" for each in fastest]
            if stride > 1:
                times.insert(1, "")
            maps = f"{batch}x{size}x{size}x{channels} to {filters}"
            rows.append((dtype, maps, stride, channels * filters, *times))
    header = ("dtype", "maps", "stride", "weights", *(f"{name}, ms" for name in FORMS))
    report.write(f"{table(header, rows)}\n\nForward pass and both gradients, fastest round.")


if __name__ == "__main__":
    main()
