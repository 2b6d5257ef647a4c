"""Places in an image where a net finds a class: Grad-CAM and occlusion."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.differentiation import linearize
from keras_preact.analysis.pictures.figures import new_figure, save_figure
from keras_preact.layer_names import maps_end
from keras_preact.tensor import Tensor


def grad_cam(
    model: keras.Model,
    images: Tensor,
    classes: Sequence[int] | np.ndarray | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Compute where the maps of a layer speak for a class (Grad-CAM, arXiv:1610.02391).

    Each map is weighted by the mean gradient of the class's score, before the softmax, over its
    pixels. Only the positive part of the sum counts.

    Args:
        model: A functional net with a dense layer at its end.
        images: Inputs of the net, `(batch, height, width, channels)`, or with the channels first.
        classes: Number of a class per image; by default the one that the net predicts.
        layer: Name of a layer that returns maps, also of stacked units; by default the last one.

    Returns:
        `(batch, height, width)` of the layer's maps, each from 0 to 1, its largest value; all 0
        where nothing speaks for the class.

    Raises:
        ValueError: If there is no such layer, it gives no maps, or the net has no classifier.
    """
    classifier = _classifier(model)
    maps = _maps(model, layer)
    rest = keras.Model(maps, classifier.input)
    body = keras.Model(model.input, maps)
    activations = body(ops.convert_to_tensor(images))
    weights = _class_weights(model, classifier, images, classes, activations.shape[0])

    def scores(x: Tensor) -> list[Tensor]:
        features = ops.cast(rest(x), "float32")
        return [ops.sum(features * weights)]

    (value,), pull = linearize(scores, activations)
    gradients = ops.cast(pull([ops.ones_like(value)]), "float32")
    axis = 1 if _channels_first(model) else 3
    pixels = [each for each in (1, 2, 3) if each != axis]
    importance = ops.mean(gradients, axis=pixels, keepdims=True)
    heat = ops.relu(ops.sum(importance * ops.cast(activations, "float32"), axis=axis))
    heat = ops.convert_to_numpy(heat)
    return heat / np.maximum(heat.max(axis=(1, 2), keepdims=True), np.finfo("float32").tiny)


def occlusion(
    model: keras.Model,
    images: Tensor,
    classes: Sequence[int] | np.ndarray | None = None,
    size: int = 32,
    stride: int = 16,
    value: float = 0.0,
) -> np.ndarray:
    """Compute the loss of a class's score under a square that covers the image (arXiv:1311.2901).

    Args:
        model: A net with class scores at its end.
        images: Inputs of the net, `(batch, height, width, channels)`, or with the channels first.
        classes: Number of a class per image; by default the one that the net predicts.
        size: Height and width of the square, pixels.
        stride: Pixels from one place of the square to the next.
        value: Value of the square; 0 is the mean of normalized images.

    Returns:
        `(batch, rows, columns)`: the score less the score with the square at that place.

    Raises:
        ValueError: If the square is larger than the image, or a size is not positive.
    """
    images = np.array(ops.convert_to_numpy(images))
    height_axis = 2 if _channels_first(model) else 1
    height, width = images.shape[height_axis : height_axis + 2]
    if not (0 < size <= min(height, width) and stride > 0):
        raise ValueError(
            f"`size` must be from 1 to {min(height, width)}, as the images are {height} x {width}, "
            f"and `stride` 1 or more. Received: size={size}, stride={stride}"
        )
    scores = ops.convert_to_numpy(model(images))
    classes = _checked_classes(classes, scores)
    rows = np.arange(len(images))
    lost = [
        [
            scores[rows, classes]
            - _covered(model, images, height_axis, top, left, size, value)[rows, classes]
            for left in range(0, width - size + 1, stride)
        ]
        for top in range(0, height - size + 1, stride)
    ]
    return np.moveaxis(np.array(lost), 2, 0)


def draw_class_activation(
    path: str | os.PathLike, photographs: Sequence[np.ndarray], heats: Tensor, labels: Sequence[str]
) -> None:
    """Draw photographs, each beside itself overlaid with the places that a net looks at.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        photographs: RGB images, uint8 `(height, width, 3)` of any sizes.
        heats: For each, an array `(rows, columns)`, of `grad_cam` or `occlusion`.
        labels: A title for each.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    count = len(photographs)
    figure = new_figure(figsize=(6, 3 * count), layout="constrained")
    panels = figure.subplots(count, 2, squeeze=False)
    for (plain, overlaid), photograph, heat, label in zip(
        panels, photographs, heats, labels, strict=True
    ):
        height, width = photograph.shape[:2]
        plain.imshow(photograph)
        overlaid.imshow(photograph)
        overlaid.imshow(
            heat,
            cmap="inferno",
            alpha=0.5,
            interpolation="bicubic",
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        plain.set_title(label, fontsize=10)
        for axes in (plain, overlaid):
            axes.set_axis_off()
    save_figure(figure, path)


def _classifier(model: keras.Model) -> keras.layers.Dense:
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense):
        raise ValueError(
            f"`model` must end in a dense layer to class scores. Received: {model.name!r}, which "
            f"ends in a {type(last).__name__}"
        )
    return last


def _maps(model: keras.Model, layer: str | None) -> Tensor:
    if layer is None:
        return maps_end(model).output
    maps = model.get_layer(layer).output
    if len(maps.shape) != 4:
        raise ValueError(f"`layer` must give maps. Received: {layer!r}, which gives {maps.shape}")
    return maps


def _class_weights(
    model: keras.Model,
    classifier: keras.layers.Dense,
    images: Tensor,
    classes: Sequence[int] | np.ndarray | None,
    batch: int,
) -> Tensor:
    """Return the weights of the class of each image, float32 `(batch, features)`."""
    if classes is None:
        classes = np.argmax(ops.convert_to_numpy(model(ops.convert_to_tensor(images))), axis=1)
    kernel = ops.convert_to_numpy(ops.cast(classifier.kernel, "float32"))
    classes = _checked_classes(classes, np.empty((batch, kernel.shape[1])))
    return ops.convert_to_tensor(kernel.T[classes])


def _checked_classes(classes: Sequence[int] | np.ndarray | None, scores: np.ndarray) -> np.ndarray:
    if classes is None:
        return scores.argmax(axis=1)
    classes = np.asarray(classes)
    number = scores.shape[1]
    if classes.shape != (len(scores),) or classes.min() < 0 or classes.max() >= number:
        raise ValueError(
            f"`classes` must be a number from 0 to {number - 1} for each of the {len(scores)} "
            f"images. Received: {classes}"
        )
    return classes


def _covered(
    model: keras.Model,
    images: np.ndarray,
    height_axis: int,
    top: int,
    left: int,
    size: int,
    value: float,
) -> np.ndarray:
    covered = images.copy()
    square = [slice(None)] * 4
    square[height_axis : height_axis + 2] = slice(top, top + size), slice(left, left + size)
    covered[tuple(square)] = value
    return ops.convert_to_numpy(model(covered))


def _channels_first(model: keras.Model) -> bool:
    formats = (getattr(layer, "data_format", None) for layer in model.layers)
    return next(each for each in formats if each) == "channels_first"
