"""Choices between two ways to compute the same thing, by which of them is the faster.

Which one is faster depends on the processor. Here is each choice with the benchmark that measures
it, so that a user of another machine can compare. The environment variable `KERAS_PREACT_WITHOUT`
switches choices off for a whole process, `without` for a part of a program:

    KERAS_PREACT_WITHOUT=winograd,products python -m training.train …

A choice is made when a layer is called or a graph is traced. A graph keeps the choices that it was
traced with.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from keras_preact.messages import did_you_mean

VARIABLE = "KERAS_PREACT_WITHOUT"


@dataclass(frozen=True)
class Choice:
    """Choice by shape, dtype or device.

    Attributes:
        name: Name by which it is switched off.
        chosen: Sentence that says what is computed, where, and instead of what.
        decided_by: Module, function or constant that decides.
        benchmark: Command that measures it.
        measured: By processor, how many times as fast it was there; a range is over shapes or nets.
        switch: Its switch, if not `KERAS_PREACT_WITHOUT` and `without`.
    """

    name: str
    chosen: str
    decided_by: str
    benchmark: str
    measured: dict[str, str]
    switch: str = VARIABLE


_CHOICES = (
    Choice(
        "winograd",
        "On a CPU, wide 3x3 convolutions in float32 train by Winograd's algorithm.",
        "keras_preact.ops.winograd.winograd_pays",
        "python -m benchmarks.winograd",
        {
            "AMD Zen 5": "1.04, a training step of ResNet50V2 in float32",
            "AMD Zen 4": "1.6 to 2.6 in batches of 32",
        },
    ),
    Choice(
        "products",
        "On a CPU, gradients of some kernels are matrix products: of 1x1 kernels, and of wide 3x3 "
        "kernels with a stride of 2, or in bfloat16 on small maps.",
        "keras_preact.ops.kernel_gradient.products_pay",
        "python -m benchmarks.kernel_gradient",
        {
            "AMD Zen 5": "1.02 in float32, 1.08 in bfloat16, a training step of ResNet50V2",
            "AMD Zen 4": "1.03 to 2.66",
        },
    ),
    Choice(
        "pointwise",
        "On a CPU, 1x1 convolutions of few weights train in float32 as one matrix product.",
        "keras_preact.ops.pointwise.trainable_pointwise",
        "python -m benchmarks.pointwise",
        {
            "AMD Zen 5": "1.04, a training step of ResNet50V2 in float32",
            "AMD with AVX2": "0.98 to 1.32",
        },
    ),
    Choice(
        "padding",
        "A strided convolution pads before its gradients on a CPU, where TensorFlow's gradients of "
        "a convolution that pads by itself are slow, and inside the convolution on a GPU.",
        "keras_preact.layers.conv.Conv2D",
        "python -m benchmarks.train_step --choices",
        {
            "AMD with AVX-512 and BF16": "3.8 in bfloat16",
            "AMD Zen 5": "0.97 in float32, 1.05 in bfloat16, a training step of ResNet50V2",
            "AMD Zen 4": "0.99 in float32, 1.03 in bfloat16, a training step of ResNet50V2",
        },
    ),
    Choice(
        "fused_norm",
        "On TensorFlow, batch norms and what folding leaves of them are one kernel.",
        "keras_preact.ops.fused_norm.fused_norm_fits",
        "python -m benchmarks.train_step --choices",
        {
            "AMD Zen 5": "1.12 in float32, 1.58 in bfloat16, a training step of ResNet50V2",
            "AMD Zen 4": "1.11 in float32, 1.33 in bfloat16, a training step of ResNet50V2",
        },
    ),
    Choice(
        "bias",
        "On a CPU, the gradient of a bias is a matrix product, not TensorFlow's sum.",
        "keras_preact.layers.conv.PaddedConvolution",
        "python -m benchmarks.train_step --choices",
        {
            "AMD Zen 5": "1.02 in float32, 1.07 in bfloat16, a training step of ResNet50V2",
            "AMD Zen 4": "1.00 in float32, 1.03 in bfloat16, a training step of ResNet50V2",
        },
    ),
    Choice(
        "moments",
        "On JAX, a batch norm takes mean and variance in one pass over the maps instead of two.",
        "keras_preact.layers.batch_norm.BatchNormalization",
        "KERAS_BACKEND=jax python -m benchmarks.gpu_step --task train",
        {"NVIDIA H200": "1.11, a training step of ResNet50V2"},
    ),
    Choice(
        "streams",
        "In an export, two parts of a batch go through the net side by side.",
        "keras_preact.serving.signatures.STREAMS",
        "python -m benchmarks.inference --choices",
        {
            "AMD Zen 5": "0.96 to 1.07 in float32, 1.03 to 1.11 in bfloat16",
            "AMD Zen 4": "1.01 in float32",
        },
    ),
    Choice(
        "plain_loops",
        'Nets with loops are not compiled by XLA on a CPU where `jit_compile` is `"auto"`.',
        "keras_preact.layers.StackedUnits",
        "python -m benchmarks.depth",
        {"AMD with AVX2": "16, at 110 layers"},
    ),
    Choice(
        "loops",
        "Stages of many like units are loops in nets of more than 300 layers: less time to trace.",
        "keras_preact.blocks.stages.AUTO_SCAN_LAYERS",
        "python -m benchmarks.flat_nets",
        {},
        switch="`scan_units=False` of `keras_preact.Architecture`",
    ),
    Choice(
        "threads",
        "Where every core has a replica to itself, an operation has one thread.",
        "training.engines.strategy",
        "python -m training.train --recipe digits --data digits --output runs/digits "
        "--devices CPU:0 CPU:1",
        {},
        switch="the environment variable TF_NUM_INTRAOP_THREADS",
    ),
    Choice(
        "onednn",
        "Commands of `training` use oneDNN's kernels on processors without AVX-512 too.",
        "training/__init__.py",
        "python -m benchmarks.train_step",
        {
            "AMD Zen 5": "2.35, a training step of ResNet50V2 in float32",
            "AMD Zen 4": "1.76, a training step of ResNet50V2 in float32",
        },
        switch="the environment variable TF_ENABLE_ONEDNN_OPTS",
    ),
    Choice(
        "no_xla",
        "On TensorFlow, training steps and exports are not compiled by XLA.",
        "`jit_compile` of a recipe and of `keras_preact.export_savedmodel`",
        "python -m benchmarks.inference",
        {
            "AMD Zen 5": "1.03 to 1.08, exports of PreActResNet50",
            "AMD Zen 4": "1.07 to 1.09, exports of PreActResNet50",
        },
        switch="`jit_compile`",
    ),
)
CHOICES = {choice.name: choice for choice in _CHOICES}
# Names that `without` and the environment variable take.
SWITCHED_HERE = tuple(each.name for each in _CHOICES if each.switch == VARIABLE)


def _checked(names: list[str], source: str) -> frozenset[str]:
    """Return names of choices, or raise an error with the closest right one."""
    for name in names:
        if name in SWITCHED_HERE:
            continue
        if name in CHOICES:
            raise ValueError(f"The choice {name!r} is switched by {CHOICES[name].switch}.")
        raise ValueError(
            f"{source} may have the names {', '.join(SWITCHED_HERE)}. Received: {name!r}."
            f"{did_you_mean(name, CHOICES)}"
        )
    return frozenset(names)


def _names_in_environment() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


_without = _checked(_names_in_environment(), f"The environment variable {VARIABLE}")


def enabled(name: str) -> bool:
    """Return whether a choice is made; if not, the plain way is taken.

    Args:
        name: One of `CHOICES`.

    Raises:
        ValueError: If there is no such choice.
    """
    _checked([name], "`name`")
    return name not in _without


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Switch choices off within a `with` statement.

    Args:
        *names: Some of `CHOICES`.

    Raises:
        ValueError: If there is no such choice.
    """
    global _without
    before = _without
    _without = before | _checked(list(names), "`names`")
    try:
        yield
    finally:
        _without = before
