"""Feature maps at the end of each stage of a net."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras

from keras_preact.composition import functional, nested_net, output_of
from keras_preact.layer_names import activated_end, has_stages, stage_numbers, stage_opening
from keras_preact.spec.rules import plain


@keras.saving.register_keras_serializable(package="keras_preact")
class FeatureExtractor(keras.Model):
    """Net that returns a dict of maps, `{"stage2": …, "stage3": …}`, instead of class scores."""

    @property
    def strides(self) -> dict[str, int]:
        """Return the stride of each map: input pixels, down and across, per pixel of the map."""
        return {name: map_stride(each) for name, each in self.output.items()}


def map_stride(tensor: keras.KerasTensor) -> int:
    """Return the stride of a map: pixels of a net's input, down and across, per pixel of the map.

    The strides on all ways from the input to the map have the same product.
    """
    stride = 1
    while True:
        operation, index, place = tensor._keras_history
        node = operation._inbound_nodes[index]
        if node.is_input:
            return stride
        if isinstance(operation, keras.Model):
            stride *= map_stride(operation.outputs[place])
        else:
            stride *= getattr(operation, "strides", (1,))[0]
        tensor = node.input_tensors[0]


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
