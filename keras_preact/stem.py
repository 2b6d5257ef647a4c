"""The first layers of a net, as functions on tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_preact.parts import Parts


@dataclass(frozen=True)
class Stem:
    """One kind of stem.

    Attributes:
        apply: Makes its layers, from images and `Parts`.
        stride: Factor by which it shrinks height and width.
        input_size: Height and width, in pixels, of the images it was designed for.
        inner: Channels between its convolutions as a share of those that come out; None where it
            has one.
    """

    apply: Callable[[Any, Parts], Any]
    stride: int
    input_size: int
    inner: float | None = None


def stem(x: Any, parts: Parts) -> Any:
    """Apply the stem that the architecture names.

    Args:
        x: Images `(batch, height, width, channels)`, or with the channels first.
        parts: Makes the layers.

    Returns:
        Maps of `stem_channels` channels, activated where the stem or the order says so.
    """
    return STEMS[parts.architecture.stem].apply(x, parts)


def _imagenet(x: Any, parts: Parts) -> Any:
    return parts.max_pool(_single(x, parts, 7, 2), 3, 2, name="stem_pool")


def _imagenet_activated(x: Any, parts: Parts) -> Any:
    channels = parts.architecture.stem_channels
    steps = parts.order.between
    x = parts.conv(x, channels, 7, 2, normalized="norm" in steps, name="stem_conv")
    x = parts.apply(x, steps, "stem")
    return parts.max_pool(x, 3, 2, name="stem_pool")


def _cifar(x: Any, parts: Parts) -> Any:
    return _single(x, parts, 3, 1)


def _single(x: Any, parts: Parts, kernel_size: int, stride: int) -> Any:
    steps, channels = parts.order.stem, parts.architecture.stem_channels
    x = parts.conv(x, channels, kernel_size, stride, normalized="norm" in steps, name="stem_conv")
    return parts.apply(x, steps, "stem")


def _mobile(x: Any, parts: Parts) -> Any:
    return _single(x, parts, 3, 2)


def _deep(x: Any, parts: Parts) -> Any:
    return parts.max_pool(_three(x, parts, parts.order.stem), 3, 2, name="stem_pool")


def _deep_unpooled(x: Any, parts: Parts) -> Any:
    steps, channels = parts.order.stem, parts.architecture.stem_channels
    x = _three(x, parts, parts.order.between)
    x = parts.conv(x, channels, 3, 2, normalized="norm" in steps, name="stem_conv4")
    return parts.apply(x, steps, "stem", 4)


def _three(x: Any, parts: Parts, steps: tuple[str, ...]) -> Any:
    channels, between = parts.architecture.stem_channels, parts.order.between
    normalized = "norm" in between
    x = parts.conv(x, channels // 2, 3, 2, normalized=normalized, name="stem_conv1")
    x = parts.apply(x, between, "stem", 1)
    x = parts.conv(x, channels // 2, 3, normalized=normalized, name="stem_conv2")
    x = parts.apply(x, between, "stem", 2)
    x = parts.conv(x, channels, 3, normalized="norm" in steps, name="stem_conv3")
    return parts.apply(x, steps, "stem", 3)


STEMS = {
    "imagenet": Stem(_imagenet, stride=4, input_size=224),
    "imagenet_activated": Stem(_imagenet_activated, stride=4, input_size=224),
    "deep": Stem(_deep, stride=4, input_size=224, inner=0.5),
    "mobile": Stem(_mobile, stride=2, input_size=224),
    "deep_unpooled": Stem(_deep_unpooled, stride=4, input_size=224, inner=0.5),
    "cifar": Stem(_cifar, stride=1, input_size=32),
}
