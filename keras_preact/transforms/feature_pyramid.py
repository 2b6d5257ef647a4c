"""Feature pyramid on the stages of a net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from keras_preact.composition import functional, only_net
from keras_preact.features import feature_extractor, map_stride
from keras_preact.layer_names import data_format, first_convolution
from keras_preact.layers import Conv2D, NearestResize
from keras_preact.loss_scaling import scaling_when_compiled
from keras_preact.spec.rules import POSITIVE_INTEGER
from keras_preact.tensor import Tensor

# That of torchvision's pyramid: `kaiming_uniform_` with a gain of 1.
_INITIALIZER = {"scale": 1.0, "mode": "fan_in", "distribution": "uniform"}


@keras.saving.register_keras_serializable(package="keras_preact")
class FeaturePyramid(keras.Model):
    """Net that returns a dict of maps of equal channels, `{"P2": …, "P3": …}`.

    Save it as `.keras`: Keras's old format, `.h5`, keeps neither its class nor the maps' names.
    """

    @property
    def strides(self) -> dict[str, float]:
        """Return the stride of each map, as of `keras_preact.FeatureExtractor`."""
        names = [layer.name for layer in self.layers]
        strides: dict[str, float] = {}
        for level in self.output:
            stage = int(level.removeprefix("P"))
            has_stage = f"fpn_output{stage}" in names
            strides[level] = (
                map_stride(self.get_layer(f"fpn_lateral{stage}").input)
                if has_stage
                else 2 * strides[f"P{stage - 1}"]
            )
        return strides


def feature_pyramid(
    model: keras.Model,
    channels: int = 256,
    stages: Sequence[int] | None = None,
    extra_level: bool = False,
) -> FeaturePyramid:
    """Build a feature pyramid (arXiv:1612.03144) on the maps at the end of a net's stages.

    From the last stage to the first, a 1x1 convolution of the stage's map, `fpn_lateral{s}`, is
    added to the sum before it, resized to its height and width by the nearest pixel; a 3x3
    convolution of each sum, `fpn_output{s}`, is a level. As in torchvision, convolutions have
    biases, and nothing follows them.

    Args:
        model: A net built by this package, or one that contains its layers or such a net. Its
            weights are shared.
        channels: Channels of every level.
        stages: Numbers of the stages; every stage but the stem by default.
        extra_level: Whether to add a level of half the last one's size, every second pixel of it.

    Returns:
        A model from the same input to `{"P2": map, …}`, finest first, P{s} of stage s; its
        `strides` tells each map's stride. With a net of the ImageNet form, level l has stride 2^l,
        as in the paper.

    Raises:
        ValueError: If the model is no such net, or has no stage of that number, or `channels` is
            not a positive integer.
    """
    channels = POSITIVE_INTEGER.check("channels", channels)
    maps = feature_extractor(model, stages).output
    maps = {int(name.removeprefix("stage")): maps[name] for name in maps}
    net = only_net(model)
    layers = _Layers(channels, data_format(net), first_convolution(net).dtype_policy)
    levels, above = {}, None
    for stage in sorted(maps, reverse=True):
        x = layers.conv(maps[stage], 1, name=f"fpn_lateral{stage}")
        if above is not None:
            x = layers.add_resized(x, above, stage)
        levels[f"P{stage}"] = layers.conv(x, 3, name=f"fpn_output{stage}")
        above = x
    levels = dict(reversed(levels.items()))
    if extra_level:
        last = max(maps)
        levels[f"P{last + 1}"] = layers.halved(levels[f"P{last}"], name=f"fpn_pool{last + 1}")
    pyramid = FeaturePyramid(functional(model).input, levels, name=f"{model.name}_pyramid")
    return scaling_when_compiled(pyramid)


@dataclass(frozen=True)
class _Layers:
    """Factory of the pyramid's layers, which it also applies."""

    channels: int
    data_format: str
    dtype: keras.DTypePolicy

    def conv(self, x: Tensor, kernel_size: int, name: str) -> Tensor:
        layer = Conv2D(
            self.channels,
            kernel_size,
            kernel_initializer=keras.initializers.VarianceScaling(**_INITIALIZER),
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def add_resized(self, x: Tensor, above: Tensor, stage: int) -> Tensor:
        resize = NearestResize(self.data_format, dtype=self.dtype, name=f"fpn_resize{stage}")
        add = keras.layers.Add(dtype=self.dtype, name=f"fpn_add{stage}")
        return add([x, resize([above, x])])

    def halved(self, x: Tensor, name: str) -> Tensor:
        layer = keras.layers.MaxPooling2D(
            1, 2, data_format=self.data_format, dtype=self.dtype, name=name
        )
        return layer(x)
