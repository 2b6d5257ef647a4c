"""Feature maps at the end of each stage of a net."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import keras

from keras_preact.composition import functional, nested_net, output_of
from keras_preact.layer_names import (
    activated_end,
    belongs_to_net,
    has_stages,
    stage_numbers,
    stage_opening,
)
from keras_preact.loss_scaling import scaling_when_compiled
from keras_preact.spec.rules import plain
from keras_preact.tensor import Tensor

# A layer, and what `keras.ops.image.resize` is in a graph.
_RESIZING = ("Resizing", "Resize")
# Layers and operations that change the size of images and leave that of the pixels.
_FRAMING = (
    *("Cropping2D", "ZeroPadding2D", "CenterCrop", "RandomCrop"),
    *("CropImages", "PadImages", "Pad", "Slice", "GetItem"),
)
# These resize an image that is smaller than the crop.
_ENLARGING = ("CenterCrop", "RandomCrop")
# For a size that is not known.
_EXAMPLE_SIZE = 96


@keras.saving.register_keras_serializable(package="keras_preact")
class FeatureExtractor(keras.Model):
    """Net that returns a dict of maps, `{"stage2": …, "stage3": …}`, instead of class scores.

    Save it as `.keras`: Keras's old format, `.h5`, keeps neither its class nor the maps' names.
    """

    @property
    def strides(self) -> dict[str, float]:
        """Return the stride of each map: input pixels, down and across, per pixel of the map.

        Raises:
            ValueError: If a layer before the net has not one stride, or none that is known
                (`map_stride`).
        """
        return {name: map_stride(each) for name, each in self.output.items()}


def map_stride(tensor: keras.KerasTensor) -> float:
    """Return the stride of a map: pixels of a net's input, down and across, per pixel of the map.

    The strides on all ways from the input to the map have the same product. Layers before the net
    that enlarge images divide it, so that it may be a fraction.

    Raises:
        ValueError: If a layer on the way has not one stride, or none that is known: it resizes
            images of unknown size, is a slice such as `::2`, or neither has `strides`, nor crops or
            pads, nor keeps the size, as a `Reshape` or `Lambda` may.
    """
    stride = Fraction(1)
    # Of height and width. The map's are those of the first layer on the way back that has an order.
    axes = (1, 2)
    for operation, node in _way_back(tensor):
        before = _axes_before(operation, axes)
        stride *= _stride_of(operation, node, before, axes)
        axes = before
    return int(stride) if stride.denominator == 1 else float(stride)


def _way_back(tensor: keras.KerasTensor) -> Iterator[tuple[Any, Any]]:
    """Yield the layers and operations from a map to an input, and their calls as Keras's nodes."""
    while True:
        operation, index, place = tensor._keras_history
        node = operation._inbound_nodes[index]
        if node.is_input:
            return
        if isinstance(operation, keras.Model) and hasattr(operation, "outputs"):
            yield from _way_back(operation.outputs[place])
        else:
            yield operation, node
        tensor = node.input_tensors[0]


def _axes_before(operation: Any, axes: tuple[int, int]) -> tuple[int, int]:
    """Return the axes of height and width in the input of an operation, by those of its output."""
    kind, order = type(operation).__name__, getattr(operation, "data_format", None)
    if kind == "Permute":
        height, width = (operation.dims[axis - 1] for axis in axes)
    elif kind == "Transpose":
        height, width = (operation.axes[axis] if operation.axes else 3 - axis for axis in axes)
    elif order:
        height, width = (2, 3) if order == "channels_first" else (1, 2)
    else:
        height, width = axes
    return height, width


def _stride_of(
    operation: Any, node: Any, before: tuple[int, int], after: tuple[int, int]
) -> Fraction:
    """Return the stride of a layer or operation in one of its calls.

    Args:
        operation: The layer or operation.
        node: Its call.
        before: Axes of height and width in its input.
        after: Those in its output.
    """
    kind, x, y = type(operation).__name__, node.input_tensors[0], node.outputs[0]
    if isinstance(operation, keras.layers.UpSampling2D):
        strides = [Fraction(1, size) for size in operation.size]
    elif isinstance(operation, keras.layers.Conv2DTranspose) or kind == "ConvTranspose":
        strides = [Fraction(1, stride) for stride in _strides(operation)]
    elif kind in _RESIZING:
        strides = _ratios(operation, x, y)
    elif kind in _FRAMING:
        strides = [Fraction(1)] if _keeps_pixels(kind, node) else []
    elif hasattr(operation, "strides"):
        strides = [Fraction(stride) for stride in _strides(operation)]
    # A net's own layers without strides keep the size.
    elif belongs_to_net(operation.name) or _keeps_size(operation, node, before, after):
        strides = [Fraction(1)]
    else:
        strides = []
    if len(set(strides)) != 1:
        raise ValueError(
            f"{operation.name!r} (of type {kind}) must have one stride, known and the same down "
            "and across: it has no slices such as `::2`, where it resizes images, their size "
            "must be known, and where it has no `strides`, it keeps their size. "
            f"Received: {x.shape} to {y.shape}. The net behind it has strides of its own."
        )
    return strides[0]


def _keeps_size(operation: Any, node: Any, before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Return whether there are as many rows and columns after a call as before; see `_stride_of`.

    Where their numbers are not known, an example tells.
    """
    x, y = node.input_tensors[0], node.outputs[0]
    if len(x.shape) != 4 or len(y.shape) != 4:
        return False
    if None in x.shape[1:]:
        examples = {id(each): _example(each) for each in node.input_tensors}
        arguments, options = node.arguments.fill_in(examples)
        x = examples[id(x)]
        y = keras.tree.flatten(operation.compute_output_spec(*arguments, **options))[0]
    return [x.shape[axis] for axis in before] == [y.shape[axis] for axis in after]


def _example(tensor: keras.KerasTensor) -> keras.KerasTensor:
    batch, *sizes = tensor.shape
    shape = (batch, *(_EXAMPLE_SIZE if size is None else size for size in sizes))
    return keras.KerasTensor(shape, dtype=tensor.dtype)


def _strides(operation: Any) -> Sequence[int]:
    """Return the strides of an operation that has them; those of a layer are a tuple."""
    strides = operation.pool_size if operation.strides is None else operation.strides
    return (strides,) if isinstance(strides, int) else strides


def _ratios(operation: Any, before: Tensor, after: Tensor) -> list[Fraction]:
    """Return how many pixels there are per pixel of a resized map; none where unknown."""
    axes = slice(2, 4) if operation.data_format == "channels_first" else slice(1, 3)
    if None in (*before.shape[axes], *after.shape[axes]):
        return []
    (height, width), (rows, columns) = before.shape[axes], after.shape[axes]
    # The map is cropped or padded to the proportions of the new one before.
    fitting = (width * rows // columns, height * columns // rows)
    if operation.crop_to_aspect_ratio:
        height, width = min(height, fitting[0]), min(width, fitting[1])
    elif operation.pad_to_aspect_ratio:
        height, width = max(height, fitting[0]), max(width, fitting[1])
    return [Fraction(height, rows), Fraction(width, columns)]


def _keeps_pixels(kind: str, node: Any) -> bool:
    """Return whether a call of one of `_FRAMING` neither resizes images nor leaves out pixels."""
    before, after = node.input_tensors[0].shape, node.outputs[0].shape
    if kind == "GetItem":
        key = node.arguments.args[1]
        parts = key if isinstance(key, tuple) else (key,)
        return all(
            part is Ellipsis or (type(part) is slice and part.step in (None, 1, -1))
            for part in parts
        )
    known = [each for each in zip(before, after, strict=True) if None not in each]
    return kind not in _ENLARGING or all(small <= large for large, small in known)


def feature_extractor(model: keras.Model, stages: Sequence[int] | None = None) -> FeatureExtractor:
    """Build a net that returns the maps at the end of stages, pre-activated.

    Dense prediction, such as detection or segmentation, starts from them.

    A map is the input of the next weight layer: in full pre-activation, the stage's output after
    the normalization and activation that open the next stage, or after the head's. The weights are
    shared with `model`. Tokens of a transformer encoder are no map: the last stage's map is the
    input of the encoder.

    Args:
        model: A net built by this package, or one that contains its layers or such a net.
        stages: Numbers of the stages, from 1 (the stem) on; every stage but the stem by default.

    Returns:
        A model from the same input to `{"stage2": map, …}`. Its `strides` are those of the maps.

    Raises:
        ValueError: If the model is no such net, has no stage of that number, or is cut between the
            last of them and the norm and activation that follow it.
    """
    model = functional(model)
    name = f"{getattr(model, 'name', '')}_features"
    if isinstance(model, keras.Model) and not has_stages(model):
        net = nested_net(model)
        maps = net.called(feature_extractor(net.model, stages))
        return scaling_when_compiled(FeatureExtractor(model.input, maps, name=name))
    existing = stage_numbers(model)
    stages = existing[1:] if stages is None else plain(stages)
    if (
        not isinstance(stages, Iterable)
        or not (stages := tuple(stages))
        or any(stage not in existing for stage in stages)
    ):
        raise ValueError(
            f"`stages` must be a sequence of numbers of stages of {model.name!r}, which has "
            f"{existing}. Received: {stages!r}"
        )
    outputs = {
        f"stage{stage}": output_of(activated_end(model))
        if stage == existing[-1]
        else stage_opening(model, stage + 1).input
        for stage in stages
    }
    return scaling_when_compiled(FeatureExtractor(model.input, outputs, name=name))
