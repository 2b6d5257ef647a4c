"""Places in an image where a net finds a class: Grad-CAM and occlusion."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.channel_axis import input_axis, maps_axis
from keras_preact.analysis.differentiation import differentiable, linearize
from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.analysis.tap import tapped
from keras_preact.composition import named_layers, nets, required_functional
from keras_preact.layer_names import maps_end
from keras_preact.messages import did_you_mean
from keras_preact.tensor import Tensor


def grad_cam(
    model: keras.Model,
    images: Any,
    classes: Sequence[int] | np.ndarray | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Compute where the maps of a layer speak for a class (Grad-CAM, arXiv:1610.02391).

    Each map is weighted by the mean gradient of the class's score, before the softmax, over its
    pixels. Only the positive part of the sum counts. The gradient is that of the whole model, by
    whatever ways the layer acts on the score. Where it computes in float16, it is that of a copy in
    float32.

    Args:
        model: A functional model with a dense layer at its end, such as a net or one that holds
            nets.
        images: Inputs of the model: images `(batch, height, width, channels)`, or with the channels
            first; where it has several inputs, as it is called with them.
        classes: Number of a class per image; by default the one that the net predicts.
        layer: Name of a layer that returns maps, or its path in nested models
            (`keras_preact.named_layers`); by default the last one of the net.

    Returns:
        `(batch, height, width)` of the layer's maps, each from 0 to 1, its largest value; all 0
        where nothing speaks for the class.

    Raises:
        ValueError: If there is no such layer or several, it gives no maps, it is not called just
            once, the model has no classifier, or it computes in float16 and holds layers of classes
            that are not registered with Keras; on TensorFlow, if it has float8 layers.
    """
    model = differentiable(required_functional(model))
    run = _Run(model, _layer_of_maps(model, layer), _classifier(model), _as_tensors(model, images))
    activations, predicted = run(None)
    classes = _checked_classes(classes, ops.convert_to_numpy(ops.cast(predicted, "float32")))
    chosen = ops.one_hot(classes, predicted.shape[1], dtype="float32")

    def scores(change: Tensor) -> list[Tensor]:
        return [ops.sum(ops.cast(run(change)[1], "float32") * chosen)]

    (value,), pull = linearize(scores, ops.zeros_like(activations))
    gradients = ops.cast(pull([ops.ones_like(value)]), "float32")
    axis = maps_axis(model, run.layer)
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
        model: A functional model with class scores at its end, such as a net. It is in inference.
        images: Inputs of the net, `(batch, height, width, channels)`, or with the channels first.
        classes: Number of a class per image; by default the one that the net predicts.
        size: Height and width of the square, pixels.
        stride: Most pixels from one place of the square to the next. The places are evenly spaced,
            from one end of the image to the other.
        value: Value of the square; 0 is the mean of normalized images.

    Returns:
        `(batch, rows, columns)`: the score less the score with the square at that place.
        `draw_class_activation` draws it with `square=(size / height, size / width)`.

    Raises:
        ValueError: If the model is not functional or has several inputs or outputs, the square is
            larger than the image, or a size is not positive.
    """
    model = required_functional(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"`model` must have one input and one output. Received: {model.name!r}, which has "
            f"{len(model.inputs)} and {len(model.outputs)}"
        )
    images = np.array(ops.convert_to_numpy(images))
    height_axis = 2 if input_axis(model) == 1 else 1
    height, width = images.shape[height_axis : height_axis + 2]
    if not (0 < size <= min(height, width) and stride > 0):
        raise ValueError(
            f"`size` must be from 1 to {min(height, width)}, as the images are {height} x {width}, "
            f"and `stride` 1 or more. Received: size={size}, stride={stride}"
        )
    scores = _scores(model, images)
    classes = _checked_classes(classes, scores)
    rows = np.arange(len(images))
    lost = [
        [
            scores[rows, classes]
            - _covered(model, images, height_axis, top, left, size, value)[rows, classes]
            for left in _places(width, size, stride)
        ]
        for top in _places(height, size, stride)
    ]
    return np.moveaxis(np.array(lost), 2, 0)


def draw_class_activation(
    path: str | os.PathLike,
    photographs: Sequence[np.ndarray],
    heats: Tensor,
    labels: Sequence[str],
    square: tuple[float, float] | None = None,
) -> None:
    """Draw photographs, each beside itself overlaid with the places that a net looks at.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        photographs: RGB images, uint8 `(height, width, 3)` of any sizes.
        heats: For each, an array `(rows, columns)`, of `grad_cam` or `occlusion`.
        labels: A title for each.
        square: Height and width of the square of `occlusion`, as shares of the image's. Each value
            is drawn at the center of its square. By default the values cover the photograph, as
            those of `grad_cam` do.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `square` is no two shares.
    """
    if square is not None and not (
        np.shape(square) == (2,) and all(0 < share <= 1 for share in square)
    ):
        raise ValueError(
            f"`square` must be two shares of the image, above 0 and up to 1. Received: {square}"
        )
    count = len(photographs)
    figure = new_figure(figsize=(6, 3 * count), layout="constrained")
    panels = figure.subplots(count, 2, squeeze=False)
    for (photo, overlaid), photograph, heat, label in zip(
        panels, photographs, heats, labels, strict=True
    ):
        rows, columns = np.shape(heat)
        photo.imshow(photograph)
        overlaid.imshow(photograph)
        overlaid.imshow(
            heat,
            cmap="inferno",
            alpha=0.5,
            interpolation="bicubic",
            extent=_extent(
                (rows, columns), square or (1 / rows, 1 / columns), photograph.shape[:2]
            ),
        )
        overlaid.axis(photo.axis())
        photo.set_title(plain(label), fontsize=10)
        for axes in (photo, overlaid):
            axes.set_axis_off()
    save_figure(figure, path)


@dataclass(frozen=True)
class _Run:
    """Model, run in inference with a change of the maps of one of its layers.

    Attributes:
        model: The model.
        layer: The layer of maps, at any depth.
        classifier: The dense layer at the end, at any depth.
        inputs: Tensors that the model is called on.
    """

    model: keras.Model
    layer: keras.layers.Layer
    classifier: keras.layers.Dense
    inputs: Any

    def __call__(self, change: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the maps, and the scores that the classifier gives before its activation.

        Args:
            change: What is added to the maps.
        """
        maps, given = [], []

        def at_layer(inputs: Tensor, outputs: Tensor) -> Tensor:
            maps.append(outputs)
            return outputs if change is None else outputs + change

        def at_classifier(inputs: Tensor, outputs: Tensor) -> Tensor:
            given.append(outputs)
            return outputs

        with (
            tapped(self.layer, at_layer),
            tapped(self.classifier, at_classifier),
            _without_activation(self.classifier),
        ):
            self.model(self.inputs, training=False)
        for layer, calls in ((self.layer, maps), (self.classifier, given)):
            if len(calls) != 1:
                raise ValueError(
                    f"{layer.name!r} must be called once in {self.model.name!r}. Received: a layer "
                    f"that is called {len(calls)} times"
                )
        if getattr(maps[0], "ndim", 0) != 4:
            raise ValueError(
                f"`layer` must give maps. Received: {self.layer.name!r}, which gives "
                f"{getattr(maps[0], 'shape', type(maps[0]).__name__)}"
            )
        return maps[0], given[0]


@contextlib.contextmanager
def _without_activation(layer: keras.layers.Dense) -> Iterator[None]:
    """Let a dense layer give what it gives before its activation."""
    activation, layer.activation = layer.activation, None
    try:
        yield
    finally:
        layer.activation = activation


def _classifier(model: keras.Model) -> keras.layers.Dense:
    """Return the dense layer that gives a model's one output of scores, but for an activation."""
    found = [each for each in map(_dense_before, model.outputs) if each is not None]
    if len(found) != 1:
        last = model.outputs[0]._keras_history[0]
        raise ValueError(
            f"`model` must end in a dense layer to class scores. Received: {model.name!r}, which "
            f"ends in a {type(last).__name__}"
        )
    return found[0]


def _dense_before(tensor: Tensor) -> keras.layers.Dense | None:
    operation, node, place = tensor._keras_history
    if isinstance(operation, keras.layers.Dense):
        return operation
    if isinstance(operation, keras.layers.Activation | keras.layers.Softmax):
        return _dense_before(operation._inbound_nodes[node].input_tensors[0])
    if isinstance(operation, keras.Model):
        return _dense_before(operation.outputs[place])
    return None


def _layer_of_maps(model: keras.Model, name: str | None) -> keras.layers.Layer:
    """Return the layer of a name or path; by default that of the last maps of the one net."""
    found = nets(model) if name is None else []
    if len(found) == 1:
        return maps_end(found[0])
    layers = dict(named_layers(model))
    if name in layers:
        return layers[name]
    paths = [path for path in layers if path.rpartition("/")[2] == name]
    if len(paths) == 1:
        return layers[paths[0]]
    if found or paths:
        ends = [maps_end(net) for net in found]
        paths = paths or [path for path in layers if layers[path] in ends]
        raise ValueError(f"`layer` must tell which one of {paths}. Received: {name!r}")
    raise ValueError(
        f"{model.name!r} has no layer {name!r}.{did_you_mean(str(name), layers, quote=chr(39))}"
    )


def _as_tensors(model: keras.Model, images: Any) -> Any:
    if len(model.inputs) == 1:
        return ops.convert_to_tensor(images)
    return keras.tree.map_structure(ops.convert_to_tensor, images)


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
    return _scores(model, covered)


def _scores(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Return a model's one output, which may be in a dictionary."""
    (scores,) = keras.tree.flatten(model(images, training=False))
    return ops.convert_to_numpy(scores)


def _places(length: int, size: int, stride: int) -> list[int]:
    """Return where squares begin along one side: evenly, the last one at the image's end."""
    steps = math.ceil((length - size) / stride)
    return [round(step * (length - size) / steps) for step in range(steps + 1)] if steps else [0]


def _extent(
    values: tuple[int, ...], square: Sequence[float], pixels: tuple[int, ...]
) -> tuple[float, ...]:
    """Return the left, right, lower and upper end of the values of squares on a photograph.

    Args:
        values: Rows and columns of the values.
        square: Height and width of the square, as shares of the image's.
        pixels: Height and width of the photograph, pixels.
    """
    ends = []
    for count, share, length in zip(values, square, pixels, strict=True):
        step = (1 - share) / (count - 1) if count > 1 else 1.0
        # A value reaches half a step from the center of its square.
        beyond = (step - share) / 2 * length
        ends.append((-beyond - 0.5, length + beyond - 0.5))
    (upper, lower), (left, right) = ends
    return left, right, lower, upper
