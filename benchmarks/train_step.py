"""Training images/s of our 50-layer nets against keras.applications.ResNet50V2.

    python -m benchmarks.train_step

Our ResNet50V2 is the peer's net, weight for weight; PreActResNet50 has timm's topology. Both train
as they are and with `rematerialize="norms"`. All have the same optimizer, loss and images, and are
compiled the same way, in turn.

    python -m benchmarks.train_step --choices --batch-size 8 --rounds 4 --save

trains ResNet50V2 with every choice of `keras_preact.ops.choices` made, and with each switched off
in turn.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.choices import ALL, candidate, table_of_choices
from benchmarks.command import at_least, command_line
from benchmarks.report import Report, processor_folder, table
from benchmarks.workers import Candidate, Measured, Step, measure_in_turn

if TYPE_CHECKING:
    import keras

PEER = "keras.applications.ResNet50V2"
OURS = ("ResNet50V2", "PreActResNet50")
# Ends the name of a net whose norms are rematerialized.
LEAN = ", norms rematerialized"
NETS = (PEER, *(f"{net}{form}" for net in OURS for form in ("", LEAN)))
POLICIES = ("float32", "mixed_bfloat16")
# Choices that a training step makes, by dtype policy.
TRAINED = {
    "float32": ("winograd", "products", "pointwise", "padding", "fused_norm", "bias", "onednn"),
    "mixed_bfloat16": ("products", "padding", "fused_norm", "bias"),
}


def _build(net: str, size: int) -> keras.Model:
    import keras

    import keras_preact

    builders = {PEER: keras.applications.ResNet50V2, **keras_preact.BUILDERS}
    options = {"rematerialize": "norms"} if net.endswith(LEAN) else {}
    return builders[net.removesuffix(LEAN)](weights=None, input_shape=(size, size, 3), **options)


def prepare(net: str, policy: str, batch_size: int, size: int, off: str = "") -> Step:
    """Build and compile a net; the step trains it on one batch.

    Args:
        net: Name of a builder, perhaps with `LEAN`.
        policy: Dtype policy.
        batch_size: Images a step.
        size: Height and width, in pixels.
        off: A choice that is switched off.
    """
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0" if off == "onednn" else "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_PREACT_WITHOUT"] = "" if off == "onednn" else off
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model = _build(net, size)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), "categorical_crossentropy", jit_compile=False
    )
    images = tf.random.normal((batch_size, size, size, 3))
    labels = tf.one_hot(tf.random.uniform((batch_size,), maxval=1000, dtype="int32"), 1000)
    return lambda: model.train_on_batch(images, labels)


def multiply_adds(net: str, size: int) -> int:
    """Count the multiplications of a forward pass per image, in convolutions and dense layers."""
    import keras

    total = 0
    for layer in _build(net, size).layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            total += math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    return total


def compare_choices(options: argparse.Namespace) -> str:
    """Measure a net with every choice made and with each switched off; return the table."""
    results = {}
    for policy in options.policies:
        print(policy)
        arguments = (OURS[0], policy, options.batch_size, options.size)
        candidates: dict[str, Candidate] = {ALL: (prepare, arguments)}
        for name in TRAINED[policy]:
            candidates[candidate(name)] = (prepare, (*arguments, name))
        results[policy] = measure_in_turn(candidates, options.rounds, options.steps)
    from keras_preact.ops.choices import CHOICES

    chosen = {name: CHOICES[name].chosen for name in TRAINED["float32"]}
    return table_of_choices(results, dict.fromkeys(results, options.batch_size), chosen)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels")
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument(
        "--nets",
        nargs="+",
        default=NETS,
        choices=NETS,
        help="beside the first, the peer; all are in memory at a time",
    )
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--steps", type=at_least(1), default=2, help="steps a round")
    parser.add_argument("--choices", action="store_true", help="each choice made, and switched off")
    parser.add_argument("--output", type=Path, help="also write the result here")
    parser.add_argument("--save", action="store_true", help="write it to the processor's folder")
    options = parser.parse_args()
    if options.save:
        name = "train_step_choices.md" if options.choices else "train_step.md"
        options.output = processor_folder() / name
    title = f"Training step, batch {options.batch_size} at {options.size}x{options.size}"
    title = f"{title}, by choice" if options.choices else title
    command = command_line("benchmarks.train_step")
    report = Report(title, command, ("keras", "tensorflow"), options.output)
    if options.choices:
        report.write(f"Net: {OURS[0]}.\n\n{compare_choices(options)}")
    else:
        report.write(compare_nets(options))


def compare_nets(options: argparse.Namespace) -> str:
    """Measure our nets beside the peer; return the table."""
    rows = []
    nets = [net for net in NETS if net == PEER or net in options.nets]
    for policy in options.policies:
        print(policy)
        arguments = (policy, options.batch_size, options.size)
        results = measure_in_turn(
            {net: (prepare, (net, *arguments)) for net in nets},
            options.rounds,
            options.steps,
        )
        rows += [_row(net, policy, results, options.batch_size) for net in nets]
    header = ("net", "policy", "images/s", "ratio", "peak memory, GB", "ratio", "first step, s")
    counts = {net: multiply_adds(net, options.size) for net in (PEER, *OURS)}
    listed = ", ".join(f"{net} {count / 1e9:.2f}e9" for net, count in counts.items())
    return (
        f"{table(header, rows)}\n\nImages/s of the fastest round. Ratios are to {PEER}. "
        f"Multiply-adds of an image's forward pass: {listed}."
    )


def _row(net: str, policy: str, results: dict[str, Measured], batch_size: int) -> tuple[str, ...]:
    measured, peer = results[net], results[PEER]
    return (
        net,
        policy,
        f"{batch_size / measured.best_s:.2f}",
        f"{peer.best_s / measured.best_s:.2f}",
        f"{measured.peak_bytes / 1e9:.2f}",
        f"{measured.peak_bytes / peer.peak_bytes:.2f}",
        f"{measured.first_step_s:.1f}",
    )


if __name__ == "__main__":
    main()
