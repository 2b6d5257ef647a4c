"""Feature maps at the end of each stage of a net."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import keras

from keras_preact.composition import functional, nested_net, output_of
from keras_preact.layer_names import activated_end, has_stages, stage_numbers, stage_opening
from keras_preact.spec.rules import plain
from keras_preact.tensor import Tensor

# A layer, and what `keras.ops.image.resize` is in a graph.
_RESIZING = ("Resizing", "Resize")


@keras.saving.register_keras_serializable(package="keras_preact")
class FeatureExtractor(keras.Model):
    """Net that returns a dict of maps, `{"stage2": …, "stage3": …}`, instead of class scores."""

    @property
    def strides(self) -> dict[str, float]:
        """Return the stride of each map: input pixels, down and across, per pixel of the map.

        Raises:
            ValueError: If a layer before the net has not one stride, as one that resizes images of
                unknown size, or a slice such as `::2`.
        """
        return {name: map_stride(each) for name, each in self.output.items()}


def map_stride(tensor: keras.KerasTensor) -> float:
    """Return the stride of a map: pixels of a net's input, down and across, per pixel of the map.

    The strides on all ways from the input to the map have the same product. Layers before the net
    that enlarge images divide it, so that it may be a fraction.

    Raises:
        ValueError: If a layer on the way has not one stride, as one that resizes images of unknown
            size, or a slice such as `::2`.
    """
    stride = _stride(tensor)
    return int(stride) if stride.denominator == 1 else float(stride)


def _stride(tensor: keras.KerasTensor) -> Fraction:
    stride = Fraction(1)
    while True:
        operation, index, place = tensor._keras_history
        node = operation._inbound_nodes[index]
        if node.is_input:
            return stride
        if isinstance(operation, keras.Model):
            stride *= _stride(operation.outputs[place])
        else:
            stride *= _stride_of(operation, node)
        tensor = node.input_tensors[0]


def _stride_of(operation: Any, node: Any) -> Fraction:
    """Return the stride of a layer or operation in one of its calls."""
    kind, before, after = type(operation).__name__, node.input_tensors[0], node.outputs[0]
    if isinstance(operation, keras.layers.UpSampling2D):
        strides = [Fraction(1, size) for size in operation.size]
    elif isinstance(operation, keras.layers.Conv2DTranspose) or kind == "ConvTranspose":
        strides = [Fraction(1, stride) for stride in _strides(operation)]
    elif kind in _RESIZING:
        strides = _ratios(operation, before, after)
    elif kind == "GetItem":
        strides = [] if _leaves_out_pixels(node.arguments) else [Fraction(1)]
    else:
        strides = [Fraction(stride) for stride in _strides(operation)]
    if len(set(strides)) != 1:
        raise ValueError(
            f"{operation.name!r} (of type {kind}) must have one stride, known and the same down "
            "and across: it has no slices such as `::2`, and where it resizes images, their size "
            f"must be known. Received: {before.shape} to {after.shape}. The net behind it has "
            "strides of its own."
        )
    return strides[0]


def _strides(operation: Any) -> Sequence[int]:
    """Return the strides of an operation, 1 where it has none; those of a layer are a tuple."""
    strides = getattr(operation, "strides", 1)
    if strides is None:
        strides = operation.pool_size
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


def _leaves_out_pixels(arguments: Any) -> bool:
    """Return whether the arguments of a `GetItem` have a slice such as `::2`."""
    key = arguments.args[1]
    slices = [each for each in (key if isinstance(key, tuple) else (key,)) if type(each) is slice]
    return any(each.step not in (None, 1, -1) for each in slices)


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
        return FeatureExtractor(model.input, maps, name=name)
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
    return FeatureExtractor(model.input, outputs, name=name)
