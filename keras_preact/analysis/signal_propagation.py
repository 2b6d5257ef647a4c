"""Signals on their way through a net, and the share of each unit in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.chain import take_apart
from keras_preact.analysis.differentiation import norm
from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.tensor import Tensor


@dataclass(frozen=True)
class SignalPropagation:
    """Statistics of the maps that come into each unit, over the whole batch.

    Attributes:
        units: Names of the units, from the input on.
        means: `(units,)`: mean square of the channels' means.
        variances: `(units,)`: mean variance of the channels.
        branch_shares: `(units,)`: norm of what the branch adds, over that of the sum.
    """

    units: tuple[str, ...]
    means: np.ndarray
    variances: np.ndarray
    branch_shares: np.ndarray


def signal_propagation(model: keras.Model, x: Tensor, training: bool = True) -> SignalPropagation:
    """Measure the maps at every unit of a net, as in the plots of arXiv:2101.08692.

    The model is not changed: no statistics are updated.

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        training: Whether norms use the batch's statistics and dropout drops.

    Returns:
        The statistics.

    Raises:
        ValueError: If the model is no such net.
    """
    chain = take_apart(model)
    axes = [axis for axis in range(4) if axis != chain.channel_axis]
    rows = []
    with keras.StatelessScope():
        x = chain.stem(ops.convert_to_tensor(x, keras.config.floatx()), training=training)
        for unit in chain.units:
            mean, variance = ops.moments(ops.cast(x, "float32"), axes=axes)
            shortcut, branch = unit.terms(x, training)
            total = shortcut + branch
            share = norm(branch) / norm(total)
            rows.append(ops.stack([ops.mean(mean**2), ops.mean(variance), share]))
            x = unit.closed(total, training)
    means, variances, shares = ops.convert_to_numpy(ops.stack(rows)).T
    return SignalPropagation(tuple(unit.name for unit in chain.units), means, variances, shares)


def draw_signal_propagation(
    path: str | os.PathLike, signals: Mapping[str, SignalPropagation], title: str = ""
) -> None:
    """Draw the statistics of several nets, from the first unit to the last.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        signals: Measurements, by label.
        title: Title of the picture.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(13, 4), layout="constrained")
    fields = {
        "means": "mean square of the channels' means",
        "variances": "mean variance of the channels",
        "branch_shares": "norm of the branch over that of the sum",
    }
    for axes, (name, label) in zip(figure.subplots(1, 3), fields.items(), strict=True):
        for each, signal in signals.items():
            depth = np.linspace(0, 1, len(signal.units))
            axes.semilogy(depth, getattr(signal, name), label=plain(each))
        axes.set_xlabel("place of the unit (0: first, 1: last)")
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(plain(title))
    save_figure(figure, path)
