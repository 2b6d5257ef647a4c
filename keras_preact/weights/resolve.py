"""Meaning of the `weights` argument of a builder."""

from __future__ import annotations

import os
from pathlib import Path

from keras_preact.messages import did_you_mean
from keras_preact.weights.catalogue import (
    CATALOGUE,
    DATASETS,
    Entry,
    best_weights,
    list_weights,
)
from keras_preact.weights.hugging_face import is_address, repository
from keras_preact.weights.sources import is_weights_file, source_of


def resolve_weights(
    weights: str | os.PathLike | None, builder: str | None, include_top: bool, classes: int
) -> Entry | Path | str | None:
    """Find what `weights` names, before anything is built or downloaded.

    Args:
        weights: None, one of `DATASETS`, the name of an entry of the catalogue, the address of a
            repository on the Hugging Face Hub, or a path.
        builder: Name of the builder; None for a net that is not published.
        include_top: Whether the net has a classifier.
        classes: Number of its classes.

    Returns:
        An entry, an address, a path, or None.

    Raises:
        ValueError: If there is nothing of that name, or it is of another net.
    """
    if weights is None:
        return None
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(
            "`weights` must be None, a name or a path. "
            f"Received: {weights!r} (of type {type(weights).__name__})"
        )
    if is_address(weights):
        repository(weights)
        return weights
    entry = _entry(weights, builder)
    if entry is None:
        path = Path(weights)
        source_of(path)
        if not path.is_file():
            raise ValueError(f"`weights` names no file: {str(path)!r}")
        return path
    _check_fits(entry, weights, builder, include_top, classes)
    return entry


def _entry(weights: str | os.PathLike, builder: str | None) -> Entry | None:
    """Return the entry that a name means; None if it is not a name but a path."""
    if isinstance(weights, str) and weights in DATASETS:
        entry = builder and best_weights(builder, weights)
        if not entry:
            raise ValueError(
                f'`weights="{weights}"`: there are no weights trained on '
                f"{DATASETS[weights].title} for {builder or 'a net of its own architecture'}, of "
                f"pixels as `preprocess_input` makes them. {_existing(builder)}"
            )
        return entry
    name = os.fspath(weights)
    if name in CATALOGUE:
        return CATALOGUE[name]
    if not isinstance(weights, str) or is_weights_file(name):
        return None
    hint = did_you_mean(name, [*DATASETS, *CATALOGUE], quote="'")
    raise ValueError(
        '`weights` must be None, "imagenet", "cifar10", the name of an entry of '
        "`keras_preact.weights.list_weights()`, the address of a repository (hf://user/repo), or "
        "the path of a file of weights. "
        f"Received: {name!r}.{hint} {_existing(builder)}"
    )


def _existing(builder: str | None) -> str:
    names = [entry.name for entry in list_weights(builder)] if builder else []
    if not names:
        return f"There are none for {builder or 'it'}; a path loads a file."
    return f"For {builder} there are {names}."


def _check_fits(
    entry: Entry, weights: str | os.PathLike, builder: str | None, include_top: bool, classes: int
) -> None:
    if builder and entry.builder != builder:
        raise ValueError(
            f"{entry.name!r} fits `{entry.builder}`, not `{builder}`. {_existing(builder)}"
        )
    if not include_top or entry.classes == classes:
        return
    if entry.classes is None:
        raise ValueError(
            f"{entry.name!r} holds no weights for the top: it needs `include_top=False`."
        )
    raise ValueError(
        f"With `weights={os.fspath(weights)!r}` and `include_top=True`, `classes` must be "
        f"{entry.classes}, as {entry.name!r} has. To fine-tune, build the net with these and give "
        f"it a new head by `keras_preact.transforms.replace_head(net, {classes})`; `weights=None` "
        f"starts from random weights. Received: classes={classes}"
    )
