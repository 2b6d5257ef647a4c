"""Per-stage feature maps of a built net."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_preact.layer_names import maps_end, stage_numbers, stage_opening


@keras.saving.register_keras_serializable(package="keras_preact")
class FeatureExtractor(keras.Model):
    """A net that returns a dict of maps, `{"stage2": …, "stage3": …}`, instead of class scores."""

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the input, along height and width, to one pixel of each map."""
        return {name: map_stride(each) for name, each in self.output.items()}


def map_stride(tensor: keras.KerasTensor) -> int:
    """Pixels of a net's input, along height and width, to one pixel of a map.

    Whatever way leads from the input to the map, the strides on it have the same product.
    """
    stride = 1
    while True:
        operation, index, _ = tensor._keras_history
        node = operation._inbound_nodes[index]
        if node.is_input:
            return stride
        stride *= getattr(operation, "strides", (1,))[0]
        tensor = node.input_tensors[0]


def feature_extractor(model: keras.Model, stages: Sequence[int] | None = None) -> FeatureExtractor:
    """The maps at the end of a net's stages, pre-activated, as dense prediction needs them.

    A map is what the next weight layer sees: in full pre-activation the stage's output after the
    normalization and activation that open the next stage, or after the head's. The weights are
    shared with `model`. A transformer encoder's tokens are no map: the last stage's is what goes
    into the encoder.

    Args:
        model: A net built by this package, or one that contains its layers.
        stages: Numbers of the stages, from 1 (the stem) on; every stage but the stem by default.

    Returns:
        A model from the same input to `{"stage2": map, …}`; its `strides` tells each map's stride.

    Raises:
        ValueError: If the model is no such net, or has no stage of that number.
    """
    existing = stage_numbers(model)
    stages = existing[1:] if stages is None else tuple(stages)
    if not stages or any(stage not in existing for stage in stages):
        raise ValueError(
            f"`stages` must be numbers of stages of {model.name!r}, which has {existing}. "
            f"Received: {stages}"
        )
    outputs = {
        f"stage{stage}": maps_end(model).output
        if stage == existing[-1]
        else stage_opening(model, stage + 1).input
        for stage in stages
    }
    return FeatureExtractor(model.input, outputs, name=f"{model.name}_features")
