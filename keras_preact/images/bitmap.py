"""Decoding of BMP files in a TensorFlow graph.

TensorFlow's own decoder takes the places in a palette for gray levels, and knows no files of 1 or 4
bits per pixel. The format is that of Microsoft's BITMAPINFOHEADER and its successors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_preact.tensor import Tensor

BMP_SIGNATURE = b"BM"
UNSUPPORTED = "not supported: a BMP file that is compressed, of 16 bits per pixel or of OS/2"

# Bytes before the palette: the file's header, and the least of the image's.
_FILE_HEADER, _IMAGE_HEADER = 14, 40
_PLAIN, _MASKED = 0, 3
# Bytes that tell the kind of a file.
_KIND_BYTES = 66
# Where a pixel of 32 bits has red, green and blue, if the file says so: as in a plain one.
_MASKS = (0x00FF0000, 0x0000FF00, 0x000000FF)


def is_supported_bitmap(file: Tensor) -> Tensor:
    """Return whether a BMP file can be decoded, unless it is damaged.

    Args:
        file: Scalar TensorFlow string, the content of a BMP file.

    Returns:
        Scalar bool.
    """
    header = _bytes(file, 0, _KIND_BYTES)
    return _is_supported(lambda place, count: _number(header, place, count))


def is_supported_bitmap_file(content: bytes) -> bool:
    """Return the same of a file outside of a graph."""
    header = content[:_KIND_BYTES].ljust(_KIND_BYTES, b"\0")
    return _is_supported(
        lambda place, count: int.from_bytes(header[place : place + count], "little")
    )


def _is_supported(number: Callable[[int, int], Any]) -> Any:
    """Tell the kind of a BMP file from its header.

    Args:
        number: Returns the number that so many bytes from a place on make: a tensor, or an `int`.

    Returns:
        A tensor, or a `bool`.
    """
    bits, compression = number(28, 2), number(30, 4)
    in_palette = (bits == 1) | (bits == 4) | (bits == 8)
    plain = (compression == _PLAIN) & (in_palette | (bits == 24) | (bits == 32))
    masked = (compression == _MASKED) & (bits == 32)
    for place, mask in enumerate(_MASKS):
        masked &= number(54 + 4 * place, 4) == mask
    return (number(14, 4) >= _IMAGE_HEADER) & (plain | masked)


def decode_bitmap(file: Tensor) -> Tensor:
    """Decode a BMP file in a TensorFlow graph.

    Args:
        file: Scalar TensorFlow string, the content of a BMP file.

    Returns:
        A uint8 tensor `(height, width, 3)`. A file that is damaged or not supported is an error of
        TensorFlow's.
    """
    import tensorflow as tf

    supported = tf.debugging.Assert(is_supported_bitmap(file), [UNSUPPORTED])
    with tf.control_dependencies([supported]):
        bits = _number(_bytes(file, 0, _FILE_HEADER + _IMAGE_HEADER), 28, 2)
    return tf.cond(
        bits <= 8,
        lambda: _decode_palette(file, bits),
        lambda: tf.io.decode_bmp(file)[..., :3],
    )


def _decode_palette(file: Tensor, bits: Tensor) -> Tensor:
    """Decode a file whose pixels are places in a palette, the first in the highest bits."""
    import tensorflow as tf

    header = _bytes(file, 0, _FILE_HEADER + _IMAGE_HEADER)
    width, colors = _number(header, 18, 4), _number(header, 46, 4)
    # A height below zero says that the rows run from the top.
    height = _number(header, 22, 4)
    from_top = height >= 2**31
    height = tf.where(from_top, 2**32 - height, height)

    start = _FILE_HEADER + _number(header, 14, 4)
    colors = tf.where(colors == 0, tf.bitwise.left_shift(tf.ones_like(bits), bits), colors)
    palette = tf.reshape(_bytes(file, start, 4 * colors), [colors, 4])[:, 2::-1]

    # Rows end at whole numbers of four bytes.
    row = (width * bits + 31) // 32 * 4
    pixels = _bytes(file, _number(header, 10, 4), height * row)
    whole = tf.debugging.Assert(tf.size(pixels, tf.int64) == height * row, ["the file ends early"])
    with tf.control_dependencies([whole]):
        rows = tf.reshape(pixels, [height, row, 1])
    shifts = tf.range(8 - bits, -1, -bits)
    places = tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(tf.cast(rows, tf.int64), shifts),
        tf.bitwise.left_shift(tf.ones_like(bits), bits) - 1,
    )
    places = tf.reshape(places, [height, row * (8 // bits)])[:, :width]
    image = tf.gather(palette, tf.where(from_top, places, places[::-1]))
    return tf.ensure_shape(image, (None, None, 3))


def _bytes(file: Tensor, start: Tensor | int, count: Tensor | int) -> Tensor:
    """Return bytes of a file, uint8; zeros beyond the end of a header, fewer of anything else."""
    import tensorflow as tf

    # TensorFlow's error of a place beyond the end would quote the file.
    start = tf.minimum(tf.cast(start, tf.int64), tf.cast(tf.strings.length(file), tf.int64))
    part = tf.strings.substr(file, start, tf.cast(count, tf.int64))
    if isinstance(count, int):
        part = tf.strings.substr(tf.strings.join([part, b"\0" * count]), 0, count)
    return tf.io.decode_raw(part, tf.uint8)


def _number(header: Tensor, place: int, count: int) -> Tensor:
    """Return the number that bytes of a header make, the lowest first, int64."""
    import tensorflow as tf

    powers = [256**power for power in range(count)]
    return tf.reduce_sum(tf.cast(header[place : place + count], tf.int64) * powers)
