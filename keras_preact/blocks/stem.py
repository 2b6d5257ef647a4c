"""First layers of a net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.spec.fields import Fields
from keras_preact.tensor import Tensor


@dataclass(frozen=True)
class Stem:
    """One kind of stem.

    Attributes:
        apply: Makes and applies its layers to images.
        stride: Factor by which height and width shrink.
        input_size: Height and width, in pixels, of the images it was designed for.
        inner: Channels after each convolution but the last, as shares of its output channels.
    """

    apply: Callable[[Tensor, LayerFactory], Tensor]
    stride: int
    input_size: int
    inner: tuple[float, ...] = ()


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
    between = make.order.between
    for index, channels in enumerate(inner_channels(make.net), 1):
        stride = 2 if index == 1 else 1
        x = make.conv(
            x, channels, 3, stride, normalized="norm" in between, name=f"stem_conv{index}"
        )
        x = make.apply(x, between, "stem", index)
    x = make.conv(x, make.net.stem_channels, 3, normalized="norm" in steps, name="stem_conv3")
    return make.apply(x, steps, "stem", 3)


STEMS = {
    "imagenet": Stem(_imagenet, stride=4, input_size=224),
    "imagenet_activated": Stem(_imagenet_activated, stride=4, input_size=224),
    "deep": Stem(_deep, stride=4, input_size=224, inner=(0.5, 0.5)),
    "tiered": Stem(_deep, stride=4, input_size=224, inner=(0.375, 0.5)),
    "mobile": Stem(_mobile, stride=2, input_size=224),
    "deep_unpooled": Stem(_deep_unpooled, stride=4, input_size=224, inner=(0.5, 0.5)),
    "cifar": Stem(_cifar, stride=1, input_size=32),
}


def inner_channels(net: Fields) -> tuple[int, ...]:
    """Return the channels after each convolution of a net's stem but the last."""
    return tuple(int(share * net.stem_channels) for share in STEMS[net.stem].inner)
