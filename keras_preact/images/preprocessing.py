"""Values by which images are resized, cropped and normalized for a net."""

from __future__ import annotations

import dataclasses
import numbers
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.images import resampling
from keras_preact.images.pillow import is_tensorflow, to_pillow
from keras_preact.tensor import Tensor

INTERPOLATIONS = tuple(resampling.KERNELS)
_DIVIDED = ", of pixels in 0..1: divide that of pixels in 0..255 by 255. Received"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Values by which the images of a net are resized, cropped and normalized for evaluation.

    The shorter side is resized to `input_size / crop_fraction` (as Pillow does, anti-aliased and
    in whole gray levels), the center `input_size` x `input_size` pixels are cropped, and each
    channel becomes `(pixel / 255 - mean) / std`, as in timm's evaluation. `Preprocessor` does all
    of it.

    Args:
        input_size: Height and width the net sees, in pixels.
        mean: Mean of each channel, for pixels in 0..1. Its length is the number of channels.
        std: Standard deviation of each channel, for pixels in 0..1; `1 / 255` leaves pixels in
            0..255, and 1 in 0..1.
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
        if not isinstance(self.input_size, numbers.Integral) or self.input_size < 1:
            raise ValueError(f"`input_size` must be 1 or more pixels. Received: {self.input_size}")
        object.__setattr__(self, "input_size", int(self.input_size))
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                "`mean` and `std` must have one value for each of 1 or 3 channels. "
                f"Received: mean={self.mean}, std={self.std}"
            )
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"Every value of `mean` must be in 0..1{_DIVIDED}: {self.mean}")
        if not all(0 < value <= 1 for value in self.std):
            raise ValueError(f"Every value of `std` must be above 0, up to 1{_DIVIDED}: {self.std}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"`crop_fraction` must be in (0, 1]. Received: {self.crop_fraction}")
        object.__setattr__(self, "crop_fraction", float(self.crop_fraction))
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {INTERPOLATIONS}. Received: {self.interpolation!r}"
            )

    @property
    def channels(self) -> int:
        """Return the number of channels of an image."""
        return len(self.mean)

    @property
    def resize_size(self) -> int:
        """Return the length of the shorter side before the crop, in pixels."""
        return int(self.input_size / self.crop_fraction)

    def get_config(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; `Preprocessing(**config)` is its inverse."""
        return dataclasses.asdict(self)

    def normalize(
        self, images: Tensor, dtype: str | None = None, data_format: str = "channels_last"
    ) -> Tensor:
        """Scale pixels in 0..255 to the range the net was trained on.

        Args:
            images: Tensor `(..., height, width, channels)`, or `(..., channels, height, width)`,
                of any numeric dtype. A TensorFlow tensor does on every backend, so that the
                function may be mapped over a `tf.data.Dataset`.
            dtype: Dtype of the result; `keras.config.floatx()` by default.
            data_format: `"channels_last"` or `"channels_first"`.

        Returns:
            A tensor of the same shape.
        """
        mean, std = (np.asarray(values, "float32") for values in (self.mean, self.std))
        scale, shift = 1 / (255 * std), mean / std
        if data_format == "channels_first":
            scale, shift = (values[:, np.newaxis, np.newaxis] for values in (scale, shift))
        dtype = dtype or keras.config.floatx()
        if not is_tensorflow(images):
            images = ops.cast(images, "float32")
        if is_tensorflow(images):
            import tensorflow as tf

            return tf.cast(_scaled(tf.cast(images, tf.float32), scale, shift), dtype)
        scaled = images * ops.convert_to_tensor(scale) - ops.convert_to_tensor(shift)
        return ops.cast(scaled, dtype)

    def prepared(self, image: Tensor) -> np.ndarray:
        """Resize the shorter side and crop the center, by Pillow.

        Args:
            image: One image, as for `keras_preact.Preprocessor`.

        Returns:
            uint8 `(input_size, input_size, channels)`.

        Raises:
            ImportError: If Pillow is not installed.
            FileNotFoundError: If there is no such file.
            ValueError: If the image cannot be read.
            TypeError: If it is no image.
        """
        image = to_pillow(image, self.channels)
        from PIL.Image import Resampling

        # Pillow gives the width first.
        shorter = min(image.size)
        resized = image.resize(
            [side * self.resize_size // shorter for side in image.size],
            Resampling[self.interpolation.upper()],
        )
        left, top = (round((side - self.input_size) / 2) for side in resized.size)
        pixels = np.asarray(
            resized.crop((left, top, left + self.input_size, top + self.input_size))
        )
        return pixels.reshape(self.input_size, self.input_size, self.channels)

    def resize_and_crop(self, image: Tensor) -> Tensor:
        """Resize the shorter side and crop the center, in a TensorFlow graph.

        The result is that of Pillow and torchvision, to the bit.

        Args:
            image: TensorFlow tensor `(height, width, channels)` of any numeric dtype, pixels in
                0..255, of any size. Fractions of a gray level are rounded.

        Returns:
            A float32 tensor `(input_size, input_size, channels)`, whole gray levels in 0..255.
        """
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        if image.dtype.is_floating:
            image = tf.round(image)
        image = tf.saturate_cast(image, tf.uint8)
        size = tf.shape(image)[:2]
        target = tf.maximum(size * self.resize_size // tf.reduce_min(size), self.resize_size)
        # Halves go to the even side, as in torchvision's CenterCrop.
        corner = tf.cast(tf.round((target - self.input_size) / 2), tf.int32)
        image = resampling.resize_and_crop(
            image, target, corner, self.input_size, self.interpolation
        )
        image = tf.ensure_shape(image, (self.input_size, self.input_size, self.channels))
        return tf.cast(image, tf.float32)


def _scaled(images: Tensor, scale: np.ndarray, shift: np.ndarray) -> Tensor:
    """Return `images * scale - shift`, of a float32 tensor of TensorFlow.

    Where the last axis is one of 3 channels, TensorFlow takes several times as long as where it is
    a row of pixels.
    """
    import tensorflow as tf

    # Images of any size have no width yet.
    width, channels = images.shape[-2:] if (images.shape.rank or 0) > 2 else (None, None)
    if width is None or channels is None or scale.shape != (channels,):
        return images * scale - shift
    rows = tf.reshape(images, [-1, width * channels])
    scaled = rows * np.tile(scale, width) - np.tile(shift, width)
    # In numbers, for TensorFlow Lite, which neither infers a shape nor has EnsureShape.
    shape = [-1 if size is None else size for size in images.shape]
    return tf.reshape(scaled, shape if shape.count(-1) <= 1 else tf.shape(images))


# Preprocessing of every net that a builder loads for `weights="imagenet"`: pixels in -1..1.
IMAGENET = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
# Preprocessing of every net that a builder loads for `weights="cifar10"`: pixels less the mean of
# the training images, divided by their standard deviation.
CIFAR10 = Preprocessing(
    input_size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    crop_fraction=1.0,
)
