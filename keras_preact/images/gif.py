"""Decoding of GIF files in a TensorFlow graph, and the place of a file's first frame.

TensorFlow's own decoder cuts the image off where a frame is smaller than the canvas, or lies beside
its corner. The format is GIF89a (CompuServe, 1990).
"""

from __future__ import annotations

from keras_preact.images.tracing import call_if
from keras_preact.tensor import Tensor

GIF_SIGNATURE = b"GIF8"
NO_COLORS = "a GIF file without colors"
# Larger images are refused, as Pillow refuses them.
MAX_PIXELS = 178_956_970

# Bytes before the first table of colors, and of the descriptor of a frame.
_HEADER, _DESCRIPTOR = 13, 10
_EXTENSION, _FRAME = b"!"[0], b","[0]
# Bits of a byte: that a table of colors follows, and the exponent of its length.
_HAS_TABLE, _TABLE_SIZE = 0x80, 0x07
# Blocks that are passed over on the way to the first frame.
_MAX_BLOCKS = 10_000


def first_frame(content: bytes) -> tuple[int, int, int, int] | None:
    """Find where the first frame of a GIF file lies in its image.

    Args:
        content: The file.

    Returns:
        Left, top, right and bottom in pixels; None if the file has no frame.

    Raises:
        ValueError: If the frame has no table of colors, so that each reader would choose its own.
    """
    place = _HEADER
    if len(content) > _HEADER and content[_HEADER - 3] & _HAS_TABLE:
        place += 3 << (content[_HEADER - 3] & _TABLE_SIZE) + 1
    while content[place : place + 1] == bytes([_EXTENSION]):
        place += 2
        while place < len(content) and content[place]:
            place += content[place] + 1
        place += 1
    frame = content[place : place + _DESCRIPTOR]
    if len(frame) < _DESCRIPTOR or frame[0] != _FRAME:
        return None
    if not (content[_HEADER - 3] | frame[9]) & _HAS_TABLE:
        raise ValueError(NO_COLORS)
    left, top, width, height = (
        int.from_bytes(frame[at : at + 2], "little") for at in range(1, 9, 2)
    )
    return left, top, left + width, top + height


def gif_canvas(file: Tensor) -> Tensor:
    """Return height and width of the image in a GIF file, int32; zeros for any other file.

    Args:
        file: Scalar TensorFlow string, the content of a file.
    """
    return _places(file)[3:]


def decode_gif(file: Tensor) -> Tensor:
    """Decode the first frame of a GIF file on its canvas, which is black where it is not covered.

    Args:
        file: Scalar TensorFlow string, the content of a GIF file.

    Returns:
        A uint8 tensor `(height, width, 3)`. A file that is damaged or not supported is an error of
        TensorFlow's.
    """
    import tensorflow as tf

    place, top, left, height, width = tf.unstack(_places(file))
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    checks = [
        tf.debugging.Assert(place > 0, ["a GIF file without a frame"]),
        tf.debugging.Assert(pixels <= MAX_PIXELS, ["the image is too large"]),
    ]
    with tf.control_dependencies(checks):
        # As if the frame lay in the corner of a canvas of its own size.
        start, rest = tf.strings.substr(file, 0, place + 1), place + 5
        moved = tf.strings.join([start, b"\0" * 4, tf.strings.substr(file, rest, 2**31 - 1)])
    frame = tf.io.decode_image(moved, channels=3, expand_animations=False)
    below, beside = height - top - tf.shape(frame)[0], width - left - tf.shape(frame)[1]
    return tf.pad(frame, [[top, below], [left, beside], [0, 0]])


def _places(file: Tensor) -> Tensor:
    """Return the place of the first frame's descriptor, its top and left, height and width, int32.

    Height and width are of the canvas. All are zero for a file without a frame.
    """
    import tensorflow as tf

    is_gif = tf.strings.substr(file, 0, len(GIF_SIGNATURE)) == GIF_SIGNATURE
    return call_if(is_gif, _find, lambda file: tf.zeros([5], tf.int32), file, tf.int32, [5])


def _find(file: Tensor) -> Tensor:
    """Look for the first frame of a GIF file; see `_places`."""
    import tensorflow as tf

    # Zeros follow a file that ends earlier. They end the search.
    content = tf.io.decode_raw(tf.strings.join([file, b"\0" * (_HEADER + _DESCRIPTOR)]), tf.uint8)
    last = tf.size(content) - _DESCRIPTOR

    def byte(place: Tensor | int) -> Tensor:
        return tf.cast(content[place], tf.int32)

    def number(place: Tensor | int) -> Tensor:
        return byte(place) + 256 * byte(place + 1)

    def goes_on(place: Tensor, within: Tensor) -> Tensor:
        return (place < last) & (within | (byte(place) == _EXTENSION))

    def step(place: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
        # Blocks, each behind its length, follow the two bytes that begin an extension.
        length = byte(place)
        return place + tf.where(within, length + 1, 2), ~within | (length > 0)

    flags = byte(_HEADER - 3)
    table = 3 * tf.bitwise.left_shift(1, (flags & _TABLE_SIZE) + 1)
    first = _HEADER + tf.where(flags & _HAS_TABLE > 0, table, 0)
    state = tf.minimum(first, last), tf.constant(False)
    place, within = tf.while_loop(goes_on, step, state, maximum_iterations=_MAX_BLOCKS)
    place = tf.minimum(place, last)
    left, top = number(place + 1), number(place + 3)
    width = tf.maximum(number(6), left + number(place + 5))
    height = tf.maximum(number(8), top + number(place + 7))
    found = ~within & (byte(place) == _FRAME)
    return tf.where(found, tf.stack([place, top, left, height, width]), 0)
