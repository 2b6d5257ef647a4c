"""Training time of 3x3 convolutions: TensorFlow's, and with the kernel's gradient by products.

    python -m benchmarks.kernel_gradient

`keras_preact.ops.kernel_gradient.products_pay` chooses between the two. The second table holds
both against float64; `--errors` prints it only.
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

# Batch, height and width, channels in, channels out, stride.
SHAPES = (
    # ResNet50V2.
    (16, 56, 64, 64, 1),
    (16, 56, 64, 64, 2),
    (16, 28, 128, 128, 1),
    (16, 28, 128, 128, 2),
    (16, 14, 256, 256, 1),
    (16, 14, 256, 256, 2),
    (16, 7, 512, 512, 1),
    # PreActResNet50, which strides one unit later.
    (16, 56, 128, 128, 2),
    (16, 28, 256, 256, 2),
    (16, 14, 512, 512, 2),
    # PreActResNet18 and WideResNet28_10 on images of 32x32.
    (128, 32, 64, 128, 2),
    (128, 16, 128, 128, 1),
    (128, 16, 128, 256, 2),
    (128, 8, 256, 256, 1),
    (128, 8, 256, 512, 2),
    (128, 4, 512, 512, 1),
    (32, 32, 160, 320, 2),
    (32, 16, 320, 640, 2),
    (32, 8, 640, 640, 1),
    # PreActResNet20.
    (128, 32, 16, 32, 2),
    (128, 8, 64, 64, 1),
)
# Those whose numbers are held against float64, with their dtypes.
HELD = (
    ((2, 14, 128, 144, 1), "bfloat16"),
    ((2, 7, 144, 128, 1), "bfloat16"),
    ((2, 14, 128, 144, 2), "float32"),
    ((2, 7, 144, 128, 2), "bfloat16"),
)
DTYPES = ("float32", "bfloat16")
# Calls a round.
CALLS = 3


def _forms(stride: int) -> list[Callable[[Any, Any], Any]]:
    """Return the convolution of maps padded beforehand, and ours."""
    import tensorflow as tf

    from keras_preact.ops.kernel_gradient import convolution

    def padded(maps: Any, kernel: Any) -> Any:
        if stride == 1:
            return tf.nn.conv2d(maps, kernel, 1, "SAME")
        return tf.nn.conv2d(tf.pad(maps, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel, stride, "VALID")

    def by_products(maps: Any, kernel: Any) -> Any:
        return convolution(maps, kernel, (stride, stride), by_products=True)

    return [padded, by_products]


def measure(dtype: str, shape: tuple[int, int, int, int, int], rounds: int) -> list[float]:
    """Return milliseconds of the convolution and of ours, forward and both gradients."""
    import tensorflow as tf

    batch, side, channels, filters, stride = shape
    out = -(-side // stride)
    shapes = (
        (batch, side, side, channels),
        (3, 3, channels, filters),
        (batch, out, out, filters),
    )
    arguments = tuple(tf.cast(tf.random.normal(each), dtype) for each in shapes)
    steps = [training_step(form) for form in _forms(stride)]
    return milliseconds_in_turn(steps, arguments, rounds, CALLS)


def errors(shape: tuple[int, int, int, int, int], dtype: str, mean: float) -> list[float]:
    """Return how far the kernel's gradient is from float64: TensorFlow's and ours.

    Args:
        shape: As in `SHAPES`.
        dtype: Of maps, kernel and gradients.
        mean: Mean of the maps, whose standard deviation is 1. Sums in 16 bits lose the more, the
            further it is from zero.

    Returns:
        Largest differences, as shares of the largest magnitude in float64.
    """
    import tensorflow as tf

    batch, side, channels, filters, stride = shape
    out = -(-side // stride)
    maps = tf.random.stateless_normal((batch, side, side, channels), (0, 0), mean)
    kernel = tf.zeros((3, 3, channels, filters))
    upstream = tf.random.stateless_normal((batch, out, out, filters), (0, 1), mean)
    rounded = [tf.cast(each, dtype) for each in (maps, kernel, upstream)]
    padded, by_products = _forms(stride)

    def gradient(form: Callable[[Any, Any], Any], of: str) -> Any:
        _, found = training_step(form)(*(tf.cast(each, of) for each in rounded))
        return tf.cast(found, "float64")

    truth = gradient(padded, "float64")
    return [
        float(tf.reduce_max(abs(gradient(form, dtype) - truth)) / tf.reduce_max(abs(truth)))
        for form in (padded, by_products)
    ]


def table_of_errors() -> str:
    """Return the errors of the cases in `HELD` as a table, for maps of two means."""
    rows = []
    for shape, dtype in HELD:
        batch, side, channels, filters, stride = shape
        named = f"{batch}x{side}x{side}x{channels} to {filters}"
        for mean in (0.0, 2.0):
            theirs, ours = errors(shape, dtype, mean)
            rows.append((dtype, named, stride, mean, f"{theirs:.1e}", f"{ours:.1e}"))
    header = ("dtype", "maps", "stride", "mean", "convolution, error", "products, error")
    return table(header, rows)


def main() -> None:
    """Measure, print and write the tables."""
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least(1), default=6)
    parser.add_argument("--errors", action="store_true", help="only the errors, no times")
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    command = command_line("benchmarks.kernel_gradient")
    title = "3x3 convolutions in training, the kernel's gradient by products"
    report = Report(title, command, ("tensorflow",), options.output)
    from keras_preact.ops.kernel_gradient import products_pay

    rows = []
    for dtype in () if options.errors else DTYPES:
        for shape in SHAPES:
            batch, side, channels, filters, stride = shape
            direct, ours = measure(dtype, shape, options.rounds)
            maps = (batch, side, side, channels)
            pays = products_pay(maps, (3, 3, channels, filters), (stride, stride), dtype)
            named = f"{'x'.join(map(str, maps))} to {filters}"
            columns = (f"{direct:.2f}", f"{ours:.2f}", f"{direct / ours:.2f}")
            rows.append((dtype, named, stride, *columns, "yes" if pays else ""))
    header = ("dtype", "maps", "stride", "convolution, ms", "products, ms", "ratio", "chosen")
    times = f"{table(header, rows)}\n\nForward pass and both gradients, fastest of the rounds.\n\n"
    report.write(
        ("" if options.errors else times)
        + (
            f"{table_of_errors()}\n\nThe kernel's gradient: its largest difference from float64, "
            "as a share of the largest magnitude, for maps and gradients of this mean."
        )
    )


if __name__ == "__main__":
    main()
