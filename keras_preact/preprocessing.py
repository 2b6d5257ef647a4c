"""What happens to an image between the file and the net."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How the images of a net are resized, cropped and normalised for evaluation.

    The shorter side is resized to `input_size / crop_fraction` (anti-aliased), the centre
    `input_size` x `input_size` pixels are cropped, and each channel becomes
    `(pixel / 255 - mean) / std`.

    Args:
        input_size: Height and width the net sees, in pixels.
        mean: Mean of each channel, for pixels in 0..1. Its length is the number of channels.
        std: Standard deviation of each channel, likewise.
        crop_fraction: Share of the resized image's shorter side that the crop keeps, in (0, 1].
        interpolation: `"bilinear"` or `"bicubic"`.

    Raises:
        ValueError: If a value is out of its range.
    """

    input_size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.input_size < 1:
            raise ValueError(f"`input_size` must be 1 or more pixels. Received: {self.input_size}")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                "`mean` and `std` must have one value for each of 1 or 3 channels. "
                f"Received: mean={self.mean}, std={self.std}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"Every value of `std` must be above 0. Received: {self.std}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"`crop_fraction` must be in (0, 1]. Received: {self.crop_fraction}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {INTERPOLATIONS}. Received: {self.interpolation!r}"
            )

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return len(self.mean)

    @property
    def resize_size(self) -> int:
        """Length of the shorter side before the crop, in pixels."""
        return int(self.input_size / self.crop_fraction)

    def get_config(self) -> dict[str, Any]:
        """The fields as plain JSON values; `Preprocessing(**config)` is its inverse."""
        return dataclasses.asdict(self)

    def normalize(self, images: Any, dtype: str | None = None) -> Any:
        """Scale pixels in 0..255 to the range the net was trained on.

        Args:
            images: Tensor of any shape whose last axis holds the channels; any dtype.
            dtype: Dtype of the result; `keras.config.floatx()` by default.

        Returns:
            A tensor of the same shape.
        """
        dtype = dtype or keras.config.floatx()
        scale = ops.convert_to_tensor([1 / (255 * std) for std in self.std], dtype="float32")
        shift = ops.convert_to_tensor(
            [-mean / std for mean, std in zip(self.mean, self.std, strict=True)], dtype="float32"
        )
        return ops.cast(ops.cast(images, "float32") * scale + shift, dtype)

    def resize_and_crop(self, image: Any) -> Any:
        """Resize the shorter side and crop the centre, in a TensorFlow graph.

        Args:
            image: TensorFlow tensor `(height, width, channels)` of any numeric dtype, pixels in
                0..255, of any size.

        Returns:
            A float32 tensor `(input_size, input_size, channels)`, pixels in 0..255.
        """
        import tensorflow as tf

        size = tf.shape(image)[:2]
        shorter = tf.reduce_min(size)
        target = tf.maximum(size * self.resize_size // shorter, self.resize_size)
        image = tf.image.resize(image, target, method=self.interpolation, antialias=True)
        top, left = tf.unstack((target - self.input_size) // 2)
        image = image[top : top + self.input_size, left : left + self.input_size]
        image = tf.ensure_shape(image, (self.input_size, self.input_size, self.channels))
        # Bicubic interpolation overshoots.
        return tf.clip_by_value(image, 0.0, 255.0)


def decode_image(encoded: Any, channels: int) -> Any:
    """Decode an image file, in a TensorFlow graph.

    Args:
        encoded: Scalar TensorFlow string, the content of a JPEG, PNG, GIF (its first frame), BMP
            or WebP file.
        channels: 1 for gray, 3 for RGB.

    Returns:
        A uint8 tensor `(height, width, channels)`. Gray becomes RGB by repetition, CMYK is
        converted, an alpha channel is left out.
    """
    import tensorflow as tf

    # Not every decoder can make gray of colours, but all of them make RGB of anything.
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    return rgb_to_channels(image, channels)


def rgb_to_channels(image: Any, channels: int) -> Any:
    """An RGB image, or its luma (ITU-R BT.601) if one channel is wanted.

    Args:
        image: uint8 TensorFlow tensor `(height, width, 3)`.
        channels: 1 or 3.

    Returns:
        A uint8 tensor `(height, width, channels)`.
    """
    if channels == 3:
        return image
    import tensorflow as tf

    # Whole numbers keep an image that was gray already exactly as it was.
    weighted = tf.cast(image, tf.int32) * tf.constant([299, 587, 114])
    luma = (tf.reduce_sum(weighted, axis=-1, keepdims=True) + 500) // 1000
    return tf.cast(luma, tf.uint8)
