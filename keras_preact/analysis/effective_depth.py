"""Effective depth of a net: the number of residual branches that the gradient flows through.

A net of n residual units is a sum over 2^n paths, each of which goes through some of the branches
and past the others. Most paths go through about n/2 branches. But the gradient that comes back
along a path falls with its length, so that the paths that train the net are short
(arXiv:1605.06431, section 4.3).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.chain import Chain, take_apart
from keras_preact.analysis.differentiation import PullBack, differentiable, norm
from keras_preact.analysis.gradient_flow import head_gradient, linearized_unit
from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.tensor import Tensor


@dataclass(frozen=True)
class PathGradients:
    """Gradients at the first unit's input that come back along single paths, by length of the path.

    Attributes:
        lengths: `(lengths,)`: residual branches on a path.
        norms: `(lengths,)`: mean norm of the gradient along one path of that length.
        shares: `(lengths,)`: the norm times the number of such paths, as a share of the sum over
            all the lengths that were measured; NaN where no gradient comes back at all.
    """

    lengths: np.ndarray
    norms: np.ndarray
    shares: np.ndarray

    @property
    def effective_depth(self) -> float:
        """Return the mean number of branches on a path, weighted by the gradient along it."""
        return float(self.lengths @ self.shares)


def path_gradients(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    loss: Any = "sparse_categorical_crossentropy",
    *,
    lengths: Sequence[int] | np.ndarray | None = None,
    samples: int = 20,
    seed: int = 0,
) -> PathGradients:
    """Measure the gradient along random paths, in inference.

    A path of a length passes that many units, at random, through their branch, and the others
    through their shortcut. The whole net is linearized once, which takes as much memory as a step
    of training. Where it computes in float16, a copy in float32 is measured.

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        y: Targets that the loss compares with the net's output.
        loss: A Keras loss, or its name.
        lengths: Lengths of the paths, from 0 to the number of units; by default, all of them.
        samples: Paths drawn of each length.
        seed: Seed of the draws.

    Returns:
        The norms by length.

    Raises:
        ValueError: If the model is no such net, or a length is not from 0 to the number of units;
            on TensorFlow, if the net has float8 layers.
    """
    model = differentiable(model)
    chain = take_apart(model)
    count = len(chain.units)
    lengths = np.arange(count + 1) if lengths is None else np.asarray(lengths)
    if lengths.size == 0 or lengths.min() < 0 or lengths.max() > count:
        raise ValueError(f"`lengths` must be from 0 to the {count} units. Received: {lengths}")
    if samples < 1:
        raise ValueError(f"`samples` must be 1 or more. Received: {samples}")
    last, pulls = _linearized(chain, ops.convert_to_tensor(x, keras.config.floatx()))
    _, gradient = head_gradient(chain, last, y, loss, training=False)
    rng = np.random.default_rng(seed)

    def mean_norm(length: int) -> float:
        paths = _paths(rng, count, length, samples)
        return float(np.mean([float(norm(_along(pulls, path, gradient))) for path in paths]))

    norms = np.array([mean_norm(length) for length in lengths])
    return PathGradients(lengths, norms, _shares(lengths, norms, count))


def _linearized(chain: Chain, x: Tensor) -> tuple[Tensor, list[tuple[PullBack, PullBack]]]:
    """Return the last unit's output, and pull-backs through each unit's sum and terms."""
    pulls = []
    with keras.StatelessScope():
        x = chain.stem(x, training=False)
    for unit in chain.units:
        x, pull_sum, pull = linearized_unit(unit, x, training=False)
        pulls.append((pull_sum, pull))
    return x, pulls


def _paths(rng: np.random.Generator, units: int, length: int, samples: int) -> Iterator[np.ndarray]:
    """Draw random paths, which say of each unit whether its branch is on it."""
    # There is one path through none of them, and one through all.
    for _ in range(1 if length in (0, units) else samples):
        path = np.zeros(units, bool)
        path[rng.choice(units, length, replace=False)] = True
        yield path


def _along(pulls: list[tuple[PullBack, PullBack]], path: np.ndarray, gradient: Tensor) -> Tensor:
    """Return the gradient at the first unit's input that comes back along one path."""
    for (pull_sum, pull), through_branch in zip(reversed(pulls), path[::-1], strict=True):
        gradient = pull_sum([gradient])
        gradient = pull([None, gradient] if through_branch else [gradient, None])
    return gradient


def _shares(lengths: np.ndarray, norms: np.ndarray, units: int) -> np.ndarray:
    """Return the share of each length; only logarithms of the numbers of paths fit into floats."""
    paths = [
        math.lgamma(units + 1) - math.lgamma(each + 1) - math.lgamma(units - each + 1)
        for each in lengths
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(norms) + paths
        weights = np.exp(logarithms - logarithms.max())
    return weights / weights.sum()


def draw_path_gradients(
    path: str | os.PathLike, nets: Mapping[str, PathGradients], title: str = ""
) -> None:
    """Draw the gradient along one path and along all paths of a length.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        nets: Measurements, by label.
        title: Title of the picture.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(10, 4), layout="constrained")
    single, together = figure.subplots(1, 2)
    for label, each in nets.items():
        single.semilogy(each.lengths, each.norms, marker=".", label=plain(label))
        depth = f"{plain(label)}: effective depth {each.effective_depth:.1f}"
        together.plot(each.lengths, each.shares, marker=".", label=depth)
    single.set_ylabel("norm of the gradient along one path")
    together.set_ylabel("share of all paths of the length")
    for axes in (single, together):
        axes.set_xlabel("residual branches on the path")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(plain(title))
    save_figure(figure, path)
