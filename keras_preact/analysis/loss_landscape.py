"""Loss around the weights of a net, on a line or a plane (arXiv:1712.09913)."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.composition import named_layers, required_functional
from keras_preact.files import replacing
from keras_preact.layers import StackedUnits
from keras_preact.tensor import Tensor
from keras_preact.transforms.graph_config import DEPTHWISE_LAYERS

# Arrays to add to the trainable variables, one per variable.
Direction = list[np.ndarray]

# A loss is known again by its values for drawn outputs: those of probabilities, and larger ones.
_SCALES = (1.0, 10.0)
_KNOWN_IMAGES = 128


@dataclass(frozen=True)
class LossLandscape:
    """Mean losses on a line or a plane through a net's weights.

    Attributes:
        coordinates: `(points,)`: how far along each direction; 0 is the net itself.
        losses: `(points,)` on a line, `(points, points)` on a plane, the second direction along
            the second axis.
    """

    coordinates: np.ndarray
    losses: np.ndarray


def filter_normalized_direction(model: keras.Model, seed: int) -> Direction:
    """Draw a random direction in which every filter changes in proportion to its norm.

    Each filter of the direction has the norm of the net's filter, so that nets of different
    scales of weights can be compared. Depthwise convolutions have a filter per channel. Biases,
    scales and shifts do not move.

    Args:
        model: A net. The units of stacked weights have filters of their own.
        seed: Seed of the draws.

    Returns:
        One array for each of the net's trainable variables.
    """
    rng = np.random.default_rng(seed)
    stacked = _variables_in(model, (StackedUnits,))
    depthwise = _variables_in(model, DEPTHWISE_LAYERS)
    return [
        _like_filters(
            ops.convert_to_numpy(variable),
            rng,
            stacked=id(variable) in stacked,
            depthwise=id(variable) in depthwise,
        )
        for variable in model.trainable_variables
    ]


def _variables_in(model: keras.Model, kinds: tuple[type[keras.layers.Layer], ...]) -> set[int]:
    """Return the identities of the variables that layers of these classes train."""
    return {
        id(variable)
        for _, layer in named_layers(model)
        if isinstance(layer, kinds)
        for variable in layer.trainable_variables
    }


def _like_filters(
    weights: np.ndarray, rng: np.random.Generator, stacked: bool, depthwise: bool
) -> np.ndarray:
    if weights.ndim - stacked < 2:
        return np.zeros_like(weights)
    drawn = rng.standard_normal(weights.shape).astype(weights.dtype)
    # The last axis counts the filters, or the last two of a depthwise kernel, and the first of
    # stacked weights the units.
    axes = tuple(range(int(stacked), weights.ndim - (2 if depthwise else 1)))
    norms = [np.sqrt((each**2).sum(axis=axes, keepdims=True)) for each in (weights, drawn)]
    return drawn * norms[0] / norms[1]


def loss_landscape(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    directions: Sequence[Direction],
    coordinates: Sequence[float] | np.ndarray,
    loss: Any = "sparse_categorical_crossentropy",
    batch_size: int = 128,
    path: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LossLandscape:
    """Measure the loss at the points of a line or a plane.

    The net is in inference, with the moving statistics that it has; its weights are put back.
    Penalties, such as those of weight regularizers, are left out.

    Args:
        model: The net, in the middle; a functional model.
        x: Images `(images, height, width, channels)`, or with the channels first.
        y: Targets of the loss, `(images, …)`.
        directions: One or two results of `filter_normalized_direction`, or, for a line to another
            net, the differences of the two nets' weights.
        coordinates: How far to go along each.
        loss: A Keras loss, or its name.
        batch_size: Images at a time.
        path: A file, `.npz`, that keeps each row of points once it is measured. Where it is there
            already, the rows that it has are not measured again; it must be of the same net,
            directions, images, targets and loss, which is known by its values for drawn outputs.
        progress: Function called with the number of rows done, and of all, after each row.

    Returns:
        The losses.

    Raises:
        ValueError: If the model is not functional, there are no directions or more than two, they
            do not fit the net, or the file is of other coordinates, or of another net, directions,
            images, targets or loss, or of an earlier version.
    """
    coordinates = np.asarray(coordinates, "float64")
    model = required_functional(model)
    _check_directions(model, directions)
    shape = (len(coordinates),) * len(directions)
    evaluated = _Unpenalized(model.inputs, model.outputs, name=model.name)
    evaluated.compile(loss=loss)
    about: dict[str, Any] = {}
    if path is not None:
        about["about"] = _digest([*model.get_weights(), *itertools.chain(*directions), x, y])
        about["known_losses"] = _known_losses(evaluated, x, y)
    losses, done = _load(path, coordinates, shape, about)
    weights = [ops.convert_to_numpy(each) for each in model.trainable_variables]
    try:
        for row in range(done, len(coordinates)):
            for column in np.ndindex(shape[1:]):
                point = [coordinates[place] for place in (row, *column)]
                _move(model, weights, directions, point)
                losses[row, *column] = evaluated.evaluate(x, y, batch_size, verbose=0)
            _save(path, coordinates, losses, row + 1, about)
            if progress:
                progress(row + 1, len(coordinates))
    finally:
        _move(model, weights, (), ())
    return LossLandscape(coordinates, losses)


def draw_loss_landscape(path: str | os.PathLike, landscape: LossLandscape, title: str = "") -> None:
    """Draw a line as a curve, a plane as contours beside a surface.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        landscape: The measured losses. Losses that are not finite are left out.
        title: Title of the picture.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    losses = np.where(np.isfinite(landscape.losses), landscape.losses, np.nan)
    if losses.ndim == 1:
        figure = new_figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(landscape.coordinates, losses, marker=".")
        axes.set(xlabel="along the direction", ylabel="loss")
        axes.grid(alpha=0.3)
    else:
        figure = new_figure(figsize=(11, 4.8), layout="constrained")
        _draw_plane(figure, landscape.coordinates, losses)
    figure.suptitle(plain(title))
    save_figure(figure, path)


def _draw_plane(figure: Any, coordinates: np.ndarray, losses: np.ndarray) -> None:
    first, second = np.meshgrid(coordinates, coordinates, indexing="ij")
    contours, surface = (
        figure.add_subplot(1, 2, 1),
        figure.add_subplot(1, 2, 2, projection="3d"),
    )
    # Losses rise by orders of magnitude towards the rim.
    heights = np.log10(losses)
    lines = contours.contour(
        first,
        second,
        losses,
        levels=10 ** np.linspace(np.nanmin(heights), np.nanmax(heights), 25),
        cmap="viridis",
    )
    contours.clabel(lines, fontsize=7, fmt="%.3g")
    contours.set(xlabel="first direction", ylabel="second direction", aspect="equal")
    surface.plot_surface(first, second, heights, cmap="viridis", linewidth=0)
    surface.set(xlabel="first direction", ylabel="second direction", zlabel="log10 of the loss")


def _check_directions(model: keras.Model, directions: Sequence[Direction]) -> None:
    if len(directions) not in (1, 2):
        raise ValueError(f"`directions` must be one or two. Received: {len(directions)}")
    expected = [tuple(each.shape) for each in model.trainable_variables]
    for direction in directions:
        received = [np.shape(each) for each in direction]
        if received != expected:
            raise ValueError(
                f"A direction must have an array for each of the {len(expected)} trainable "
                f"variables of {model.name!r}, of its shape. Received: {len(received)} arrays, "
                f"of the shapes {received[:3]} … for {expected[:3]} …"
            )


class _Unpenalized(keras.Model):
    """Model whose loss is that of its outputs alone."""

    @property
    def losses(self) -> list[Tensor]:
        """Return no penalties, such as those of weight regularizers."""
        return []


def _known_losses(evaluated: keras.Model, x: Tensor, y: Tensor) -> list[float]:
    """Return the losses of drawn outputs, by which a loss is known again, whatever it is made of.

    Args:
        evaluated: A compiled model, whose outputs have the shapes of those that are drawn.
        x: Images.
        y: Targets.
    """
    targets = ops.convert_to_numpy(y[:_KNOWN_IMAGES])
    if targets.dtype.kind == "f":
        # As Keras does with targets that it evaluates.
        targets = targets.astype(keras.backend.floatx())
    outputs = evaluated(ops.convert_to_tensor(x[:1]), training=False)
    rng = np.random.default_rng(0)

    def loss(scale: float) -> float:
        def draw(output: Tensor) -> Tensor:
            values = scale * rng.random((len(targets), *output.shape[1:]))
            return ops.convert_to_tensor(values, output.dtype)

        drawn = keras.tree.map_structure(draw, outputs)
        return float(evaluated.compute_loss(y=ops.convert_to_tensor(targets), y_pred=drawn))

    return list(map(loss, _SCALES))


def _move(
    model: keras.Model,
    weights: Sequence[np.ndarray],
    directions: Sequence[Direction],
    point: Sequence[float],
) -> None:
    for index, variable in enumerate(model.trainable_variables):
        moved = weights[index]
        for direction, distance in zip(directions, point, strict=True):
            moved = moved + distance * direction[index]
        variable.assign(moved)


def _digest(arrays: Sequence[Tensor]) -> str:
    """Return the same text for the same arrays only."""
    digest = hashlib.sha256()
    for each in map(ops.convert_to_numpy, arrays):
        digest.update(f"{each.shape}{each.dtype}".encode())
        digest.update(np.ascontiguousarray(each).data)
    return digest.hexdigest()


def _load(
    path: str | os.PathLike | None,
    coordinates: np.ndarray,
    shape: tuple[int, ...],
    about: dict[str, Any],
) -> tuple[np.ndarray, int]:
    """Return the losses measured so far, and their number of rows."""
    if path is None or not Path(path).exists():
        return np.full(shape, np.nan), 0
    with np.load(path, allow_pickle=False) as file:
        losses, there = file["losses"], file["coordinates"]
        if losses.shape != shape or not np.array_equal(there, coordinates):
            raise ValueError(
                f"{path} holds losses of the shape {losses.shape} at {there}. "
                f"Expected: {shape} at {coordinates}"
            )
        if "known_losses" not in file:
            raise ValueError(
                f"{path} is of an earlier version, whose losses may count penalties: remove it, or "
                "give another path, to measure anew."
            )
        if str(file["about"]) != about["about"]:
            raise ValueError(
                f"{path} holds losses of another net, or of other directions, images or targets."
            )
        known, own = file["known_losses"], about["known_losses"]
        # Machines sum in different orders.
        if not np.allclose(known, own, rtol=1e-5, atol=1e-6, equal_nan=True):
            raise ValueError(
                f"{path} is of another loss, which is {known} for drawn outputs. Expected: "
                f"{np.array(own)}, as `loss`"
            )
        return losses, int(file["rows"])


def _save(
    path: str | os.PathLike | None,
    coordinates: np.ndarray,
    losses: np.ndarray,
    rows: int,
    about: dict[str, Any],
) -> None:
    if path is None:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        np.savez(partial, coordinates=coordinates, losses=losses, rows=rows, **about)
