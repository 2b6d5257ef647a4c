"""Body of a net in the form that keras_hub's detectors and segmenters take."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_preact.composition import output_of
from keras_preact.features import feature_extractor
from keras_preact.layer_names import data_format, first_convolution, maps_end, stage_numbers
from keras_preact.tensor import Tensor
from keras_preact.transforms.precision import with_dtype


@keras.saving.register_keras_serializable(package="keras_preact")
class ImageEncoder(keras.Model):
    """Net that returns its last maps, with what keras_hub asks of an image encoder.

    It has the properties of a `keras_hub.models.FeaturePyramidBackbone`, and needs no keras_hub.
    Save it as `.keras`: Keras's old format, `.h5`, does not keep its class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # keras_hub's heads compute in it.
        self.dtype_policy = first_convolution(self).dtype_policy

    @property
    def pyramid_outputs(self) -> dict[str, Tensor]:
        """Maps by level, finest first: P{l} has the stride 2^l, pre-activated.

        It is the map at the end of the last stage of that stride, the stem included.
        """
        features = feature_extractor(self, stage_numbers(self))
        levels = {
            int(math.log2(stride)): features.output[stage]
            for stage, stride in features.strides.items()
        }
        return {f"P{level}": levels[level] for level in sorted(levels)}

    @property
    def data_format(self) -> str:
        """Order of the axes, `"channels_last"` or `"channels_first"`."""
        return data_format(self)

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Shape of an image; None where height or width may be any."""
        return self.input_shape[1:]

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> keras.Model:
        # keras_hub adds the dtype that a preset is loaded with.
        config = {**config}
        dtype = config.pop("dtype", None)
        encoder = super().from_config(config, custom_objects)
        return encoder if dtype is None else with_dtype(encoder, dtype)


def as_image_encoder(model: keras.Model) -> ImageEncoder:
    """Build the body of a net as an image encoder of keras_hub.

    `keras_hub.models.DeepLabV3Backbone`, `RetinaNetBackbone` and `ImageClassifier` train on it, and
    are saved and loaded with it; others, such as `SegFormerBackbone`, ask more of their encoders.
    Where keras_hub makes the input itself, give it `image_shape=encoder.image_shape`.

    Args:
        model: A net built by this package, or one that contains its layers. Its weights are shared.

    Returns:
        A model from the same input to the last maps, pre-activated. Its `pyramid_outputs` are the
        maps of the stages, by the logarithm of their stride: `{"P2": map of stride 4, …}`.

    Raises:
        ValueError: If the model is no such net, or the stride of a stage is no power of two.
    """
    strides = feature_extractor(model, stage_numbers(model)).strides
    if odd := {name: each for name, each in strides.items() if not _is_power_of_two(each)}:
        raise ValueError(
            "Level l of a pyramid has the stride 2^l, so the strides of all stages must be powers "
            f"of two. Received: {odd} in {model.name!r}"
        )
    return ImageEncoder(model.input, output_of(maps_end(model)), name=f"{model.name}_encoder")


def _is_power_of_two(stride: float) -> bool:
    return stride >= 1 and math.log2(stride).is_integer()
