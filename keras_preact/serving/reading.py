"""Reading of image files in a TensorFlow graph, in which damaged files stop no others."""

from __future__ import annotations

from dataclasses import dataclass

from keras_preact.images.decoding import decode_image
from keras_preact.images.preprocessing import Preprocessing
from keras_preact.tensor import Tensor

# Errors of images that are not scored; the empty string where nothing is wrong.
NO_ERROR = ""
DAMAGED = "the image is damaged"
UNKNOWN_FORMAT = "not a JPEG, PNG, GIF, BMP or WebP file"
TOO_LARGE = "the image has more than {max_pixels} pixels"

_JPEG = b"\xff\xd8\xff"
# EXIF lies within the first segments of a JPEG file, which hold 64 KiB each.
_HEADER_BYTES = 4 * 65536
_ORIENTATION_TAG = 0x0112
# Orientations as EXIF numbers them, after transposing those from 5 on.
_MIRRORED, _UPSIDE_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)


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
        error = tf.where(
            pixels < 0,
            UNKNOWN_FORMAT,
            tf.where(
                pixels > self.max_pixels, TOO_LARGE.format(max_pixels=self.max_pixels), NO_ERROR
            ),
        )

        def prepare() -> tf.Tensor:
            image = oriented(decode_image(file, channels), exif_orientation(file))
            return self.preprocessing.resize_and_crop(image)

        return tf.cond(error == NO_ERROR, prepare, lambda: tf.zeros([size, size, channels])), error


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
        (starts_with(b"GIF8"), number(6, 2) * number(8, 2)),
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

    return tf.cond(starts_with(_JPEG), jpeg, lambda: pixels)


def exif_orientation(file: Tensor) -> Tensor:
    """Read the orientation of the camera from the EXIF block of a JPEG file.

    Args:
        file: Scalar TensorFlow string, the content of an image file.

    Returns:
        int32 in 1..8 as EXIF numbers them; 1, upright, for a file without one.
    """
    import tensorflow as tf

    def read() -> tf.Tensor:
        header = tf.io.decode_raw(tf.strings.substr(file, 0, _HEADER_BYTES), tf.uint8)
        block = _exif_block(tf.cast(header, tf.int32))
        return tf.cond(tf.size(block) > 0, lambda: _orientation(block), lambda: tf.constant(1))

    return tf.cond(tf.strings.substr(file, 0, 3) == _JPEG, read, lambda: tf.constant(1))


def _bytes(block: Tensor, start: Tensor, count: int) -> Tensor:
    """Return some bytes of a block; outside of it, its first or last byte."""
    import tensorflow as tf

    return tf.gather(block, tf.clip_by_value(start + tf.range(count), 0, tf.size(block) - 1))


def _exif_block(header: Tensor) -> Tensor:
    """Return the TIFF structure in a JPEG's EXIF segment; empty if there is none."""
    import tensorflow as tf

    def not_found(place: Tensor, start: Tensor) -> Tensor:
        segment = _bytes(header, place, 2)
        # FF DA: the image itself follows.
        is_segment = (segment[0] == 0xFF) & (segment[1] != 0xDA)
        return (start == place) & is_segment & (place + 10 < tf.size(header))

    def next_segment(place: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        segment = _bytes(header, place, 10)
        is_exif = tf.reduce_all(segment[4:] == [*b"Exif\0\0"]) & (segment[1] == 0xE1)
        end = place + 2 + segment[2] * 256 + segment[3]
        return end, tf.where(is_exif, place + 10, end)

    # After the two bytes that every JPEG file starts with.
    end, start = tf.while_loop(not_found, next_segment, (tf.constant(2), tf.constant(2)))
    return header[start:end]


def _orientation(block: Tensor) -> Tensor:
    """Return the orientation in the first directory of a TIFF structure; 1 if there is none."""
    import tensorflow as tf

    little_endian = _bytes(block, 0, 1)[0] == ord("I")

    def number(digits: Tensor) -> Tensor:
        """Return the number that bytes along the last axis make."""
        count = digits.shape[-1]
        powers = tf.constant([256**power for power in range(count)])
        powers = tf.where(little_endian, powers, tf.reverse(powers, [0]))
        return tf.reduce_sum(digits * powers, axis=-1)

    directory = number(_bytes(block, 4, 4))
    # A larger directory is damaged. The orientation is among the first entries.
    entries = tf.minimum(number(_bytes(block, directory, 2)), 256)
    places = directory + 2 + 12 * tf.range(entries)[:, None] + tf.range(12)
    table = tf.gather(block, tf.clip_by_value(places, 0, tf.size(block) - 1))
    values = tf.boolean_mask(number(table[:, 8:10]), number(table[:, :2]) == _ORIENTATION_TAG)
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def oriented(image: Tensor, orientation: Tensor) -> Tensor:
    """Turn an image upright.

    Args:
        image: TensorFlow tensor `(height, width, channels)`.
        orientation: int32 in 1..8, as EXIF numbers them.

    Returns:
        The image as it was seen, `(width, height, channels)` for orientations from 5 on.
    """
    import tensorflow as tf

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        for axis, orientations in ((1, _MIRRORED), (0, _UPSIDE_DOWN)):
            flips = tf.reduce_any(orientation == tf.constant(orientations))
            turned = tf.cond(
                flips, lambda x=turned, axis=axis: tf.reverse(x, [axis]), lambda x=turned: x
            )
        return turned

    turned = tf.cond(orientation > 1, turn, lambda: image)
    return tf.ensure_shape(turned, (None, None, image.shape[-1]))
