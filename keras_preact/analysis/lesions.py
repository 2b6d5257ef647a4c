"""Lesion studies: nets with some of their units deleted or moved (arXiv:1605.06431).

A net of identity shortcuts is a sum over its units, and loses little with any one of the terms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.chain import Chain, ResidualUnit, take_apart
from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.tensor import Tensor


def scores_without(model: keras.Model, x: Tensor, units: Sequence[str]) -> np.ndarray:
    """Compute the scores of a net without some of its units.

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        units: Names of the units to delete, such as `["stage2_unit3"]`; they must leave the
            shape as it is.

    Returns:
        The net's outputs in inference.

    Raises:
        ValueError: If the net has no such unit, or one changes the shape.
    """
    chain = take_apart(model)
    _check_removable(chain, units)
    return _scores(chain, [each for each in chain.units if each.name not in units], x)


def scores_with_order(model: keras.Model, x: Tensor, order: Sequence[str]) -> np.ndarray:
    """Compute the scores of a net whose units come in another order.

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        order: Names of all its units; those that change the shape must stay in their places.

    Returns:
        The net's outputs in inference.

    Raises:
        ValueError: If the names are not those of the net's units, or the shapes do not fit.
    """
    chain = take_apart(model)
    units = {unit.name: unit for unit in chain.units}
    if sorted(order) != sorted(units):
        raise ValueError(f"`order` must name every unit once, {list(units)}. Received: {order}")
    moved = [old for old, new in zip(units, order, strict=True) if old != new]
    _check_removable(chain, moved)
    return _scores(chain, [units[name] for name in order], x)


@dataclass(frozen=True)
class LesionStudy:
    """Errors of a net with units deleted or moved, as shares of the images.

    Attributes:
        error: Error of the whole net.
        units: Names of the units that leave the shape as it is, from the input on.
        without: `(units,)`: error with only that unit deleted.
        counts: `(counts,)`: number of units deleted, or of exchanges, at random.
        deleted: `(counts, samples)`: error with so many units deleted.
        moved: `(counts, samples)`: error after so many exchanges of two units of one shape.
        correlations: `(counts, samples)`: Kendall's rank correlation of the order then with the
            net's own.
    """

    error: float
    units: tuple[str, ...]
    without: np.ndarray
    counts: np.ndarray
    deleted: np.ndarray
    moved: np.ndarray
    correlations: np.ndarray


def lesion_study(
    model: keras.Model,
    x: Tensor,
    labels: Tensor,
    *,
    counts: Sequence[int] = (1, 2, 4, 8),
    samples: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LesionStudy:
    """Delete each unit, delete several, and change their order (arXiv:1605.06431, section 4).

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        labels: Their classes, integers `(batch,)`.
        counts: How many units to delete, and how many exchanges to make.
        samples: Draws of each count.
        seed: Seed of the draws.
        progress: Function called with the number of evaluations done, and of all.

    Returns:
        The errors.

    Raises:
        ValueError: If the model is no such net, or has fewer units that may go than are to go, or
            there is not one label per image.
    """
    chain = take_apart(model)
    removable = [place for place, unit in enumerate(chain.units) if unit.keeps_shape]
    if min(counts) < 1 or max(counts) > len(removable):
        raise ValueError(
            f"`counts` must be from 1 to the {len(removable)} units that leave the shape as it is. "
            f"Received: {tuple(counts)}"
        )
    labels = np.asarray(labels)
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"`labels` must be the class of each of the {x.shape[0]} images, {x.shape[:1]}. "
            f"Received: {labels.shape}"
        )
    total, done = 1 + len(removable) + 2 * len(counts) * samples, 0

    def error(places: Sequence[int]) -> float:
        nonlocal done
        scores = _scores(chain, [chain.units[place] for place in places], x)
        done += 1
        if progress:
            progress(done, total)
        return float(np.mean(scores.argmax(axis=-1) != labels))

    rng = np.random.default_rng(seed)
    everything = range(len(chain.units))

    def less(gone: Sequence[int] | np.ndarray) -> list[int]:
        return [place for place in everything if place not in gone]

    orders = [
        [_exchanged(rng, chain, removable, count) for _ in range(samples)] for count in counts
    ]
    return LesionStudy(
        error=error(everything),
        units=tuple(chain.units[place].name for place in removable),
        without=np.array([error(less([place])) for place in removable]),
        counts=np.asarray(counts),
        deleted=np.array(
            [
                [error(less(rng.choice(removable, count, replace=False))) for _ in range(samples)]
                for count in counts
            ]
        ),
        moved=np.array([[error(order) for order in row] for row in orders]),
        correlations=np.array([[_rank_correlation(order) for order in row] for row in orders]),
    )


def _exchanged(
    rng: np.random.Generator, chain: Chain, removable: Sequence[int], count: int
) -> list[int]:
    """Return the places of all units after some random exchanges of two units of one shape."""
    order = list(range(len(chain.units)))
    shapes = [tuple(unit.branch.input.shape) for unit in chain.units]
    for _ in range(count):
        first = rng.choice(removable)
        others = [each for each in removable if shapes[each] == shapes[first] and each != first]
        second = rng.choice(others or [first])
        order[first], order[second] = order[second], order[first]
    return order


def _rank_correlation(order: Sequence[int]) -> float:
    """Return Kendall's tau between an order of 0, 1, … and the rising one."""
    if len(order) < 2:
        return 1.0
    first, second = np.triu_indices(len(order), 1)
    places = np.asarray(order)
    return float(np.mean(np.sign(places[second] - places[first])))


def draw_lesion_study(
    path: str | os.PathLike, studies: Mapping[str, LesionStudy], title: str = ""
) -> None:
    """Draw the errors of several nets: by unit, by number of deleted units, by order.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        studies: Measurements, by label.
        title: Title of the picture.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(14, 4), layout="constrained")
    single, several, order = figure.subplots(1, 3, sharey=True)
    for place, (label, study) in enumerate(studies.items()):
        style = {"color": f"C{place}", "label": plain(label)}
        single.plot(np.linspace(0, 1, len(study.units)), study.without, marker=".", **style)
        single.axhline(study.error, color=style["color"], linestyle=":")
        several.plot(study.counts, np.median(study.deleted, axis=1), marker=".", **style)
        several.fill_between(
            study.counts,
            study.deleted.min(axis=1),
            study.deleted.max(axis=1),
            color=style["color"],
            alpha=0.2,
        )
        order.scatter(study.correlations.ravel(), study.moved.ravel(), s=12, **style)
    single.set_xlabel("place of the deleted unit (0: first, 1: last)")
    several.set_xlabel("units deleted at random")
    order.set_xlabel("rank correlation with the net's own order")
    order.invert_xaxis()
    single.set_ylabel("error (dotted: of the whole net)")
    for axes in (single, several, order):
        axes.grid(alpha=0.3)
    single.legend(fontsize=8)
    figure.suptitle(plain(title))
    save_figure(figure, path)


def _check_removable(chain: Chain, names: Sequence[str]) -> None:
    removable = [unit.name for unit in chain.units if unit.keeps_shape]
    if strays := [name for name in names if name not in removable]:
        raise ValueError(
            f"Only units that leave the shape as it is may go or move: {removable}. "
            f"Received: {strays}"
        )


def _scores(chain: Chain, units: Sequence[ResidualUnit], x: Tensor) -> np.ndarray:
    x = chain.stem(x, training=False)
    for unit in units:
        x = unit(x)
    return ops.convert_to_numpy(chain.head(x, training=False))
