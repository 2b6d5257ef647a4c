"""First layers of a net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.tensor import Tensor


@dataclass(frozen=True)
class Stem:
    """One kind of stem.

    Attributes:
        apply: Makes and applies its layers to images.
        stride: Factor by which height and width shrink.
        input_size: Height and width, in pixels, of the images it was designed for.
        inner: Channels between its convolutions as a share of its output channels. None where it
            has one convolution.
    """

    apply: Callable[[Tensor, LayerFactory], Tensor]
    stride: int
    input_size: int
    inner: float | None = None


def stem(x: Tensor, make: LayerFactory) -> Tensor:
    """Apply the stem of the net.

    Args:
        x: Images `(batch, height, width, channels)`, or with the channels first.
        make: Makes the layers.

    Returns:
        Maps with `stem_channels` channels. Whether they are activated depends on the stem and the
        order.
    """
    return STEMS[make.net.stem].apply(x, make)


def _imagenet(x: Tensor, make: LayerFactory) -> Tensor:
    return make.max_pool(_single(x, make, 7, 2), 3, 2, name="stem_pool")


def _imagenet_activated(x: Tensor, make: LayerFactory) -> Tensor:
    channels = make.net.stem_channels
    steps = make.order.between
    x = make.conv(x, channels, 7, 2, normalized="norm" in steps, name="stem_conv")
    x = make.apply(x, steps, "stem")
    return make.max_pool(x, 3, 2, name="stem_pool")


def _cifar(x: Tensor, make: LayerFactory) -> Tensor:
    return _single(x, make, 3, 1)


def _single(x: Tensor, make: LayerFactory, kernel_size: int, stride: int) -> Tensor:
    steps, channels = make.order.stem, make.net.stem_channels
    x = make.conv(x, channels, kernel_size, stride, normalized="norm" in steps, name="stem_conv")
    return make.apply(x, steps, "stem")


def _mobile(x: Tensor, make: LayerFactory) -> Tensor:
    return _single(x, make, 3, 2)


def _deep(x: Tensor, make: LayerFactory) -> Tensor:
    return make.max_pool(_three(x, make, make.order.stem), 3, 2, name="stem_pool")


def _deep_unpooled(x: Tensor, make: LayerFactory) -> Tensor:
    steps, channels = make.order.stem, make.net.stem_channels
    x = _three(x, make, make.order.between)
    x = make.conv(x, channels, 3, 2, normalized="norm" in steps, name="stem_conv4")
    return make.apply(x, steps, "stem", 4)


def _three(x: Tensor, make: LayerFactory, steps: tuple[str, ...]) -> Tensor:
    channels, between = make.net.stem_channels, make.order.between
    normalized = "norm" in between
    x = make.conv(x, channels // 2, 3, 2, normalized=normalized, name="stem_conv1")
    x = make.apply(x, between, "stem", 1)
    x = make.conv(x, channels // 2, 3, normalized=normalized, name="stem_conv2")
    x = make.apply(x, between, "stem", 2)
    x = make.conv(x, channels, 3, normalized="norm" in steps, name="stem_conv3")
    return make.apply(x, steps, "stem", 3)


STEMS = {
    "imagenet": Stem(_imagenet, stride=4, input_size=224),
    "imagenet_activated": Stem(_imagenet_activated, stride=4, input_size=224),
    "deep": Stem(_deep, stride=4, input_size=224, inner=0.5),
    "mobile": Stem(_mobile, stride=2, input_size=224),
    "deep_unpooled": Stem(_deep_unpooled, stride=4, input_size=224, inner=0.5),
    "cifar": Stem(_cifar, stride=1, input_size=32),
}
