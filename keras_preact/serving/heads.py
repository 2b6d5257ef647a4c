"""Outputs of an exported net: their names, what they say, and the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_preact.images.preprocessing import Preprocessing
from keras_preact.output_kinds import (
    CLASSES,
    LABELS,
    LOGITS,
    VALUES,
    check_class_names,
    output_kind,
)
from keras_preact.tensor import Tensor

ERRORS = "errors"
# An answer about an image has other entries of these names.
_RESERVED = (ERRORS, "error", "image")
EMBEDDING = "embedding"
# Name of the one output in the signatures.
_NAMES = {
    CLASSES: "probabilities",
    LABELS: "probabilities",
    LOGITS: "logits",
    VALUES: EMBEDDING,
}
# Half-precision outputs of a thousand classes sum to 1 within about a hundredth.
_SUM_TOLERANCE = 0.02
ClassNames = Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True)
class Head:
    """An output of a net.

    Attributes:
        name: Its name in the signatures.
        kind: What its numbers say, one of those of `keras_preact.output_kinds`.
        labels: Names of its classes; none for `VALUES`.
    """

    name: str
    kind: str
    labels: tuple[str, ...]

    def check(self, numbers: np.ndarray) -> None:
        """Check the numbers of some images.

        Raises:
            ValueError: If they are not what the kind of the output says.
        """
        if not fits(self.kind, numbers):
            raise ValueError(
                f"The output {self.name!r} of `model` must be {_EXPECTED[self.kind]}. Received: "
                f"{numbers.min():.4g} to {numbers.max():.4g}, which sum to {numbers.sum():.4g} for "
                "an image"
            )


_EXPECTED = {
    CLASSES: "probabilities that sum to 1, as its softmax is over the classes",
    LABELS: "probabilities in 0..1, each of its own",
    LOGITS: "finite",
    VALUES: "finite",
}


def fits(kind: str, numbers: np.ndarray) -> bool:
    """Return whether the numbers of some images `(images, …)` may be of an output of this kind."""
    if not np.isfinite(numbers).all():
        return False
    if kind == CLASSES:
        sums = numbers.sum(axis=-1)
        return bool(numbers.min() >= 0 and np.abs(sums - 1).max() < _SUM_TOLERANCE)
    return kind != LABELS or bool(numbers.min() >= 0 and numbers.max() <= 1)


def heads_of(
    model: keras.Model, preprocessing: Preprocessing, class_names: ClassNames
) -> tuple[Head, ...]:
    """Tell what the outputs of a model say.

    Args:
        model: A functional model from images to one output or several.
        preprocessing: Preprocessing of its images.
        class_names: Names of the classes; of several outputs by the outputs' names. An output
            without an activation that is not named `predictions` is one of classes only if it has
            them.

    Returns:
        The outputs, in the order of `model.outputs`.

    Raises:
        ValueError: If names of classes do not fit, outputs cannot be told apart by their names, or
            nothing tells whether an output with names of classes has probabilities.
    """
    if len(model.outputs) == 1:
        if isinstance(class_names, Mapping):
            raise ValueError(
                "`class_names` must be the names of one output's classes, as the model has no "
                f"other. Received: names for {sorted(class_names)}"
            )
        kind = _kind(model, 0, preprocessing, class_names)
        return (Head(_NAMES[kind], kind, _labels(model.outputs[0], kind, class_names)),)
    names = _output_names(model)
    by_name = _by_name(class_names, names)
    kinds = [
        _kind(model, place, preprocessing, by_name.get(name)) for place, name in enumerate(names)
    ]
    return tuple(
        Head(name, kind, _labels(output, kind, by_name.get(name)))
        for name, kind, output in zip(names, kinds, model.outputs, strict=True)
    )


def gray_image(preprocessing: Preprocessing) -> np.ndarray:
    """Return a batch of one gray image, float32, pixels in 0..255."""
    size, channels = preprocessing.input_size, preprocessing.channels
    return np.full((1, size, size, channels), 127.5, "float32")


def _kind(model: keras.Model, place: int, preprocessing: Preprocessing, class_names: Any) -> str:
    named = class_names is not None
    kind = output_kind(model.outputs[place], named)
    if kind is None:
        outputs = model(preprocessing.normalize(gray_image(preprocessing)), training=False)
        scores = keras.tree.flatten(outputs)
        numbers = keras.ops.convert_to_numpy(scores[place]).astype("float32")
        kind = CLASSES if fits(CLASSES, numbers) else VALUES
    if named and kind == VALUES:
        raise ValueError(
            "`class_names` must not be given for an output that has no scores of classes: those of "
            "a softmax, of a sigmoid, or of a dense layer without an activation. Received: names "
            f"for the output {place} of {model.name!r}, "
            f"of the shape {tuple(model.outputs[place].shape)}"
        )
    return kind


def _labels(output: Tensor, kind: str, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of an output's classes, checked; by default their indices."""
    if kind == VALUES:
        return ()
    if class_names is None:
        return tuple(str(index) for index in range(output.shape[-1]))
    check_class_names(class_names, output)
    return tuple(class_names)


def _output_names(model: keras.Model) -> list[str]:
    """Return the names of several outputs: the keys of a dictionary, or the names of layers."""
    if isinstance(model.output, Mapping):
        # Keras sorts the keys of some kinds of dictionaries, and keeps the order of others.
        names = [path[0] for path, _ in keras.tree.flatten_with_path(model.output)]
    else:
        names = [tensor._keras_history[0].name for tensor in model.outputs]
    wrong = [name for name in names if name in _RESERVED or not str(name).isidentifier()]
    if wrong or len({*names}) < len(names):
        raise ValueError(
            "Several outputs need names of their own, letters, digits and underscores, none of "
            f"{_RESERVED}: give them as a dictionary of one output each, "
            f"`keras.Model(inputs, {{'kind': …}})`. Received: {names}"
        )
    return names


def _by_name(class_names: ClassNames, names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    if class_names is None:
        return {}
    if not isinstance(class_names, Mapping) or (class_names.keys() - {*names}):
        received = sorted(class_names) if isinstance(class_names, Mapping) else class_names
        raise ValueError(
            "`class_names` of a model with several outputs must be names by output, with some of "
            f"the keys {names}. Received: {received}"
        )
    return class_names
