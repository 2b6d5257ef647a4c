"""The first layers of a net, as functions on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_preact.parts import Parts


def stem(x: Any, parts: Parts) -> Any:
    """Apply the stem that the architecture names.

    Args:
        x: Images `(batch, height, width, channels)`, or with the channels first.
        parts: Makes the layers.

    Returns:
        Maps of `stem_channels` channels, not yet activated.
    """
    return STEMS[parts.architecture.stem](x, parts)


def _imagenet(x: Any, parts: Parts) -> Any:
    x = parts.conv(x, parts.architecture.stem_channels, 7, 2, name="stem_conv")
    return parts.max_pool(x, 3, 2, name="stem_pool")


def _deep(x: Any, parts: Parts) -> Any:
    channels = parts.architecture.stem_channels
    x = parts.conv(x, channels // 2, 3, 2, normalized=True, name="stem_conv1")
    x = parts.norm_act(x, "stem", 1)
    x = parts.conv(x, channels // 2, 3, normalized=True, name="stem_conv2")
    x = parts.norm_act(x, "stem", 2)
    x = parts.conv(x, channels, 3, name="stem_conv3")
    return parts.max_pool(x, 3, 2, name="stem_pool")


def _cifar(x: Any, parts: Parts) -> Any:
    return parts.conv(x, parts.architecture.stem_channels, 3, name="stem_conv")


STEMS: dict[str, Callable[[Any, Parts], Any]] = {
    "imagenet": _imagenet,
    "deep": _deep,
    "cifar": _cifar,
}
