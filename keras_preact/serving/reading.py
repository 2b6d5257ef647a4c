"""Reading of image files in a TensorFlow graph, in which damaged files stop no others."""

from __future__ import annotations

from dataclasses import dataclass

from keras_preact.images.bitmap import BMP_SIGNATURE, UNSUPPORTED, is_supported_bitmap
from keras_preact.images.decoding import decode_image, is_animated_webp
from keras_preact.images.exif import JPEG_SIGNATURE
from keras_preact.images.gif import GIF_SIGNATURE, gif_canvas
from keras_preact.images.kinds import ANIMATED, UNKNOWN_FORMAT
from keras_preact.images.preprocessing import Preprocessing
from keras_preact.tensor import Tensor

# Errors of images that are not scored; the empty string where nothing is wrong.
NO_ERROR = ""
DAMAGED = "the image is damaged"
TOO_LARGE = "the image has more than {max_pixels} pixels"


@dataclass(frozen=True)
class ImageReader:
    """Reader that decodes and prepares image files. A damaged file does not stop the others.

    Args:
        preprocessing: Preprocessing of the images.
        max_pixels: Height times width above which an image is refused before it is decoded.
    """

    preprocessing: Preprocessing
    max_pixels: int

    def read(self, files: Tensor) -> tuple[Tensor, Tensor]:
        """Read a batch of files, several at a time.

        Args:
            files: Strings `(batch,)`: JPEG, PNG, GIF (first frame), BMP or WebP.

        Returns:
            Images, float32 `(batch, input_size, input_size, channels)`, pixels in 0..255, zero
            where there is an error; and errors, strings `(batch,)`, empty where there is none.
        """
        import tensorflow as tf

        size, channels = self.preprocessing.input_size, self.preprocessing.channels
        count = tf.size(files)
        dataset = tf.data.Dataset.from_tensor_slices((tf.range(count), files))
        dataset = dataset.map(
            lambda place, file: (place, *self._read(file)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        # A graph cannot catch an error, but a dataset leaves out the element that raises it.
        dataset = dataset.ignore_errors().batch(tf.maximum(tf.cast(count, tf.int64), 1))
        none = (
            tf.zeros([0], tf.int32),
            tf.zeros([0, size, size, channels]),
            tf.zeros([0], tf.string),
        )
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(none)).take(1)
        places, images, errors = dataset.get_single_element()
        places = places[:, None]
        images = tf.scatter_nd(places, images, [count, size, size, channels])
        errors = tf.tensor_scatter_nd_update(tf.fill([count], DAMAGED), places, errors)
        return tf.ensure_shape(images, (None, size, size, channels)), errors

    def _read(self, file: Tensor) -> tuple[Tensor, Tensor]:
        """Return a prepared image and an error, one of them empty; raise where decoding does."""
        import tensorflow as tf

        size, channels = self.preprocessing.input_size, self.preprocessing.channels
        pixels = _pixels(file)
        error = tf.constant(NO_ERROR)
        # A file that is too large is told even if it is not supported.
        for wrong, reason in (
            (_is_other_bitmap(file), UNSUPPORTED),
            (is_animated_webp(file), ANIMATED),
            (pixels > self.max_pixels, TOO_LARGE.format(max_pixels=self.max_pixels)),
            (pixels < 0, UNKNOWN_FORMAT),
        ):
            error = tf.where(wrong, reason, error)

        def prepare() -> tf.Tensor:
            return self.preprocessing.resize_and_crop(decode_image(file, channels))

        return tf.cond(error == NO_ERROR, prepare, lambda: tf.zeros([size, size, channels])), error


def _is_other_bitmap(file: Tensor) -> Tensor:
    """Return whether a file is a BMP file of a kind that is not decoded."""
    import tensorflow as tf

    return (tf.strings.substr(file, 0, 2) == BMP_SIGNATURE) & ~is_supported_bitmap(file)


def _pixels(file: Tensor) -> Tensor:
    """Read height times width from the header, int64; -1 for a format that is not read."""
    import tensorflow as tf

    # Zeros follow a file that ends earlier.
    start = tf.strings.join([tf.strings.substr(file, 0, 32), b"\0" * 32])
    header = tf.cast(tf.io.decode_raw(start, tf.uint8), tf.int64)

    def number(place: int, count: int, big_endian: bool = False) -> Tensor:
        powers = [256**power for power in range(count)]
        return tf.reduce_sum(
            header[place : place + count] * (powers[::-1] if big_endian else powers)
        )

    def starts_with(magic: bytes, at: int = 0) -> Tensor:
        return tf.strings.substr(start, at, len(magic)) == magic

    # A bitmap's height below zero says that its rows run from the top.
    bitmap_height = tf.minimum(number(22, 4), 2**32 - number(22, 4))
    lossless_size = number(21, 4)
    webp = starts_with(b"RIFF") & starts_with(b"WEBP", 8)
    formats = [
        (starts_with(b"\x89PNG\r\n\x1a\n"), number(16, 4, True) * number(20, 4, True)),
        (starts_with(GIF_SIGNATURE), tf.reduce_prod(tf.cast(gif_canvas(file), tf.int64))),
        (starts_with(b"BM"), number(18, 4) * bitmap_height),
        (webp & starts_with(b"VP8 ", 12), number(26, 2) % 2**14 * (number(28, 2) % 2**14)),
        (
            webp & starts_with(b"VP8L", 12),
            (lossless_size % 2**14 + 1) * (lossless_size // 2**14 % 2**14 + 1),
        ),
        (webp & starts_with(b"VP8X", 12), (number(24, 3) + 1) * (number(27, 3) + 1)),
    ]
    pixels = tf.constant(-1, tf.int64)
    for is_format, value in formats:
        pixels = tf.where(is_format, value, pixels)

    def jpeg() -> Tensor:
        return tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(file)[:2], tf.int64))

    # Where the header of a JPEG file is all that the condition waits for, the image may be decoded
    # before the canvas of a GIF file is looked for. A decoder that fails cancels that, and the
    # dataset, which leaves out the elements of other errors, ends with the cancellation.
    with tf.control_dependencies([pixels]):
        is_jpeg = starts_with(JPEG_SIGNATURE)
    return tf.cond(is_jpeg, jpeg, lambda: pixels)
