"""Gradients on their way back through a net, which identity shortcuts keep alive.

In a net of pre-activation units, `x_L = x_l + sum F(x_i)`, so the gradient at `x_l` holds that at
`x_L` unscaled (arXiv:1603.05027, equation 5). These functions measure it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.chain import Chain, ResidualUnit, take_apart
from keras_preact.analysis.differentiation import PullBack, differentiable, linearize, norm
from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.tensor import Tensor


@dataclass(frozen=True)
class GradientFlow:
    """Norms of the loss's gradient at each unit, over the whole batch.

    Attributes:
        units: Names of the units, from the input on.
        inputs: `(units,)`: norms of the gradient at the unit's input.
        shortcuts: `(units,)`: norms of the part of it that came back through the shortcut.
        branches: `(units,)`: norms of the part that came back through the residual branch.
        loss: The mean loss.
    """

    units: tuple[str, ...]
    inputs: np.ndarray
    shortcuts: np.ndarray
    branches: np.ndarray
    loss: float


def gradient_flow(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    loss: Any = "sparse_categorical_crossentropy",
    training: bool = True,
) -> GradientFlow:
    """Measure the gradient at every unit of a net.

    The units are differentiated one by one, from the last to the first. Where a projection shares
    the unit's first normalization with the branch, its part and the branch's still add up to the
    whole. The model is not changed: no statistics are updated. Where it computes in float16, a copy
    in float32 is measured.

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        y: Targets that the loss compares with the net's output.
        loss: A Keras loss, or its name.
        training: Whether norms use the batch's statistics and dropout drops.

    Returns:
        The norms.

    Raises:
        ValueError: If the model is no such net; on TensorFlow, if it has float8 layers.
    """
    model = differentiable(model)
    chain = take_apart(model)
    maps = _maps(chain, ops.convert_to_tensor(x, keras.config.floatx()), training)
    value, gradient = head_gradient(chain, maps[-1], y, loss, training)
    norms = []
    for unit, each in zip(reversed(chain.units), reversed(maps[:-1]), strict=True):
        shortcut, branch = _through(unit, each, gradient, training)
        gradient = shortcut + branch
        norms.append([float(norm(each)) for each in (gradient, shortcut, branch)])
    inputs, shortcuts, branches = np.array(norms[::-1]).T
    return GradientFlow(
        tuple(unit.name for unit in chain.units), inputs, shortcuts, branches, value
    )


def head_gradient(
    chain: Chain, last: Tensor, y: Tensor, loss: Any, training: bool
) -> tuple[float, Tensor]:
    """Return the loss, and its gradient at the last unit's output.

    Args:
        chain: The net.
        last: Maps that the last unit gives.
        y: Targets that the loss compares with the net's output.
        loss: A Keras loss, or its name.
        training: Whether norms use the batch's statistics and dropout drops.

    Returns:
        The mean loss, and a gradient of the shape of `last`.
    """
    compute = keras.losses.get(loss)

    def head(last: Tensor) -> list[Tensor]:
        return [ops.mean(compute(ops.convert_to_tensor(y), chain.head(last, training=training)))]

    (value,), pull = linearize(head, last)
    return float(value), pull([ops.ones_like(value)])


def _maps(chain: Chain, x: Tensor, training: bool) -> list[Tensor]:
    """Return the input of every unit, and the output of the last."""
    with keras.StatelessScope():
        maps = [chain.stem(x, training=training)]
        for unit in chain.units:
            maps.append(unit(maps[-1], training=training))
    return maps


def _through(
    unit: ResidualUnit, x: Tensor, gradient: Tensor, training: bool
) -> tuple[Tensor, Tensor]:
    """Return the two parts of the gradient at a unit's input: by the shortcut and by the branch."""
    _, pull_sum, pull = linearized_unit(unit, x, training)
    gradient = pull_sum([gradient])
    return pull([gradient, None]), pull([None, gradient])


def linearized_unit(
    unit: ResidualUnit, x: Tensor, training: bool
) -> tuple[Tensor, PullBack, PullBack]:
    """Evaluate a unit, ready to take gradients back through it.

    Args:
        unit: The unit.
        x: Its input.
        training: Whether norms use the batch's statistics and dropout drops.

    Returns:
        The output; how a gradient goes from there to the sum; and from the two terms of the sum,
        shortcut and branch, to the input.
    """
    terms, pull = linearize(lambda each: unit.terms(each, training), x)
    (output,), pull_sum = linearize(
        lambda total: [unit.closed(total, training)], terms[0] + terms[1]
    )
    return output, pull_sum, pull


def draw_gradient_flow(
    path: str | os.PathLike, flows: Mapping[str, GradientFlow], title: str = ""
) -> None:
    """Draw the gradients of several nets, from the first unit to the last.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        flows: Measurements, by label.
        title: Title of the picture.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(10, 4), layout="constrained")
    whole, parts = figure.subplots(1, 2)
    for place, (label, flow) in enumerate(flows.items()):
        label = plain(label)
        depth = np.linspace(0, 1, len(flow.units))
        color = f"C{place}"
        whole.semilogy(depth, flow.inputs, color=color, label=label)
        parts.semilogy(depth, flow.shortcuts, color=color, label=f"{label}: shortcut")
        parts.semilogy(depth, flow.branches, color=color, linestyle=":", label=f"{label}: branch")
    whole.set_ylabel("norm of the gradient at a unit's input")
    parts.set_ylabel("its parts")
    for axes in (whole, parts):
        axes.set_xlabel("place of the unit (0: first, 1: last)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(plain(title))
    save_figure(figure, path)
