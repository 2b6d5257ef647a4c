"""Decoding of image files in a TensorFlow graph."""

from __future__ import annotations

from keras_preact.images.bitmap import BMP_SIGNATURE, decode_bitmap
from keras_preact.images.exif import PNG_SIGNATURE, exif_orientation
from keras_preact.images.gif import GIF_SIGNATURE, decode_gif
from keras_preact.images.kinds import ANIMATED, UNKNOWN_FORMAT
from keras_preact.images.orientation import oriented
from keras_preact.images.tracing import traced_once
from keras_preact.tensor import Tensor

# Red, green and blue in the luma of ITU-R BT.601, of 2**16 as in Pillow: whole numbers, and their
# sum exact, keep an image that was gray already as it was.
LUMA = (19595, 38470, 7471)
# The transform of Pillow and other decoders; TensorFlow's default is up to 24 gray levels from it.
JPEG_DCT = "INTEGER_ACCURATE"


@traced_once
def decode_image(encoded: Tensor, channels: int) -> Tensor:
    """Decode an image file and turn it upright, in a TensorFlow graph.

    Args:
        encoded: Scalar TensorFlow string, the content of a JPEG, PNG, GIF (its first frame), BMP
            or WebP file, but no WebP file of several frames.
        channels: 1 for gray, 3 for RGB.

    Returns:
        A uint8 tensor `(height, width, channels)`, turned as the file's EXIF orientation says. Gray
        becomes RGB by repetition, CMYK is converted, an alpha channel is left out.

    Raises:
        ValueError: If `channels` is another.
    """
    import tensorflow as tf

    # Not every decoder can make gray of colors.
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=JPEG_DCT),
        lambda: _decode_other(encoded),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    return rgb_to_channels(oriented(image, exif_orientation(encoded)), channels)


def _decode_other(encoded: Tensor) -> Tensor:
    import tensorflow as tf

    # Zeros follow a file that ends earlier.
    beginning = tf.strings.join([tf.strings.substr(encoded, 0, 12), b"\0" * 12])
    is_bitmap = tf.strings.substr(beginning, 0, 2) == BMP_SIGNATURE
    is_webp = tf.strings.substr(beginning, 8, 4) == b"WEBP"
    is_gif = tf.strings.substr(beginning, 0, len(GIF_SIGNATURE)) == GIF_SIGNATURE
    return tf.switch_case(
        tf.where(is_bitmap, 1, tf.where(is_gif, 3, tf.where(is_webp, 2, 0))),
        [
            lambda: _decode_png(encoded),
            lambda: decode_bitmap(encoded),
            lambda: _decode_webp(encoded),
            lambda: decode_gif(encoded),
        ],
        name="decode_by_format",
    )


def _decode_png(encoded: Tensor) -> Tensor:
    import tensorflow as tf

    # The decoder takes other kinds, such as JPEG XL, which not every reader has.
    is_png = tf.strings.substr(encoded, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE
    with tf.control_dependencies([tf.debugging.Assert(is_png, [UNKNOWN_FORMAT])]):
        return tf.io.decode_png(encoded, channels=3)


def is_animated_webp(file: Tensor) -> Tensor:
    """Return whether a file is a WebP file of several frames.

    Args:
        file: Scalar TensorFlow string, the content of a file.

    Returns:
        Scalar bool.
    """
    import tensorflow as tf

    beginning = tf.strings.join([tf.strings.substr(file, 0, 21), b"\0" * 21])
    is_extended = tf.strings.substr(beginning, 8, 8) == b"WEBPVP8X"
    return is_extended & (tf.io.decode_raw(beginning, tf.uint8)[20] & 0x02 > 0)


def _decode_webp(encoded: Tensor) -> Tensor:
    """Decode a WebP file of one frame.

    TensorFlow 2.21 writes beyond its memory where a file of several frames is damaged.
    """
    import tensorflow as tf

    single = tf.debugging.Assert(~is_animated_webp(encoded), [ANIMATED])
    with tf.control_dependencies([single]):
        # The decoder makes no RGB of a file with an alpha channel.
        return tf.io.decode_image(encoded, expand_animations=False)[..., :3]


def rgb_to_channels(image: Tensor, channels: int) -> Tensor:
    """Convert an RGB image to its luma (ITU-R BT.601) if one channel is wanted.

    Args:
        image: uint8 TensorFlow tensor `(..., height, width, 3)`.
        channels: 1 or 3.

    Returns:
        A uint8 tensor `(height, width, channels)`.

    Raises:
        ValueError: If `channels` is another.
    """
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1, for gray, or 3, for RGB. Received: {channels}")
    if channels == 3:
        return image
    import tensorflow as tf

    weighted = tf.cast(image, tf.int32) * tf.constant(LUMA)
    luma = (tf.reduce_sum(weighted, axis=-1, keepdims=True) + 2**15) // 2**16
    return tf.cast(luma, tf.uint8)
