"""The camera's orientation, read from an image file's EXIF data in a TensorFlow graph.

The standard is JEITA CP-3451 (Exif); PNG keeps the data in its chunk `eXIf`, WebP in `EXIF`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from keras_preact.images.tracing import call_if, traced_once
from keras_preact.tensor import Tensor

# Orientations as EXIF numbers them, after transposing those from 5 on.
_TRANSPOSED = 5
_MIRRORED, _UPSIDE_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)

JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MARKER = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
# First bytes of files without EXIF data; any byte may be in the place of a None. In a JPEG file,
# the tables or the frame follow the start at once, or after a segment of JFIF of 16 bytes. In a PNG
# file the image follows the header of 13 bytes.
_JFIF = (*b"\xff\xe0\0\x10", *[None] * 14)
_PLAIN = [
    *(
        (*b"\xff\xd8", *jfif, 0xFF, marker)
        for jfif in ((), _JFIF)
        for marker in b"\xdb\xc0\xc2\xc4"
    ),
    (*PNG_SIGNATURE, *b"\0\0\0\x0dIHDR", *[None] * 21, *b"IDAT"),
    *((*b"RIFF", *[None] * 4, *kind) for kind in (b"WEBPVP8 ", b"WEBPVP8L")),
    (*b"GIF8",),
    (*b"BM",),
]
_PLAIN_TABLE = list(itertools.zip_longest(*_PLAIN))
_PLAIN_BYTES = np.array([[byte or 0 for byte in row] for row in _PLAIN_TABLE], np.uint8).T
_PLAIN_ANY = np.array([[byte is None for byte in row] for row in _PLAIN_TABLE]).T
# Parts of a file that are looked through. Writers put EXIF data among the first.
_MAX_PARTS = 64
# Bytes that tell a part's kind and length: those of a JPEG's segment, with EXIF's marker.
_HEADER = 10


@traced_once
def exif_orientation(file: Tensor) -> Tensor:
    """Read the orientation of the camera from an image file.

    Args:
        file: Scalar TensorFlow string, the content of an image file.

    Returns:
        int32 in 1..8 as EXIF numbers them; 1, upright, for a file without one.
    """
    import tensorflow as tf

    def upright(file: Tensor) -> Tensor:
        del file
        return tf.constant(1)

    return call_if(_may_have_exif(file), _find_orientation, upright, file, tf.int32, [])


def _may_have_exif(file: Tensor) -> Tensor:
    """Tell from the first bytes of a file whether it is worth to look through its parts.

    Args:
        file: Scalar string.

    Returns:
        Scalar bool. False only for a file in which `_find_orientation` would find none.
    """
    import tensorflow as tf

    beginning = tf.io.decode_raw(file, tf.uint8, fixed_length=_PLAIN_BYTES.shape[1])
    return ~tf.reduce_any(tf.reduce_all((beginning == _PLAIN_BYTES) | _PLAIN_ANY, axis=1))


def _find_orientation(file: Tensor) -> Tensor:
    """Look through a file for its orientation; see `exif_orientation`."""
    import tensorflow as tf

    # Zeros follow a file that ends earlier.
    beginning = tf.strings.join([tf.strings.substr(file, 0, 21), b"\0" * 21])

    def starts_with(magic: bytes, at: int = 0) -> Tensor:
        return tf.strings.substr(beginning, at, len(magic)) == magic

    def walk(step: Callable[[Tensor, Tensor], tuple], first: int) -> Callable[[], Tensor]:
        return lambda: _find(file, step, first)

    # A WebP file of the extended kind says in a flag whether it has EXIF data.
    is_webp = starts_with(b"RIFF") & starts_with(b"WEBPVP8X", 8)
    flags = tf.io.decode_raw(beginning, tf.uint8)[20]
    start, end = tf.case(
        [
            (starts_with(JPEG_SIGNATURE), walk(_jpeg_segment, 2)),
            (starts_with(PNG_SIGNATURE), walk(_png_chunk, len(PNG_SIGNATURE))),
            (is_webp & (flags & 0x08 > 0), walk(_webp_chunk, 12)),
        ],
        default=lambda: (tf.constant(0), tf.constant(0)),
    )
    return tf.cond(
        end > start, lambda: _orientation(_bytes(file, start, end - start)), lambda: tf.constant(1)
    )


def _bytes(file: Tensor, start: Tensor, count: Tensor) -> Tensor:
    """Return the bytes of a part of a file, int32; none beyond its end."""
    import tensorflow as tf

    start = tf.clip_by_value(start, 0, tf.strings.length(file))
    part = tf.io.decode_raw(tf.strings.substr(file, start, count), tf.uint8)
    return tf.cast(part, tf.int32)


def _find(
    file: Tensor, step: Callable[[Tensor, Tensor], tuple], first: int
) -> tuple[Tensor, Tensor]:
    """Look through the parts of a file for EXIF data.

    Args:
        file: Scalar string.
        step: Maps the header and the place of a part to the start of its EXIF data, its end, the
            place of the next part, and whether to look there. Start and end are 0 in a part
            without EXIF data.
        first: Place of the first part.

    Returns:
        Start and end of the data, int32; both 0 if there is none.
    """
    import tensorflow as tf

    size = tf.strings.length(file)

    def goes_on(place: Tensor, start: Tensor, end: Tensor, more: Tensor) -> Tensor:
        # A header that is cut short, or a length beyond what 32 bits hold, ends the search.
        return more & (start == end) & (place >= first) & (place <= size - _HEADER)

    def look(place: Tensor, start: Tensor, end: Tensor, more: Tensor) -> tuple:
        del start, end, more
        header = tf.ensure_shape(_bytes(file, place, _HEADER), [_HEADER])
        start, end, following, more = step(header, place)
        return following, start, end, more & (following > place)

    state = (tf.constant(first), tf.constant(0), tf.constant(0), tf.constant(True))
    _, start, end, _ = tf.while_loop(goes_on, look, state, maximum_iterations=_MAX_PARTS)
    return start, end


def _where_exif(is_exif: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and end where there is EXIF data, else zeros."""
    import tensorflow as tf

    return tf.where(is_exif, start, 0), tf.where(is_exif, end, 0)


def _jpeg_segment(header: Tensor, place: Tensor) -> tuple:
    """Read the header of a JPEG's segment; see `_find`."""
    import tensorflow as tf

    end = place + 2 + _number(header[2:4], big_endian=True)
    is_exif = (header[1] == 0xE1) & tf.reduce_all(header[4:] == [*_MARKER])
    # Tables and the image follow the segments of applications and comments.
    more = (header[0] == 0xFF) & ((header[1] // 16 == 0xE) | (header[1] == 0xFE))
    return *_where_exif(is_exif, place + _HEADER, end), end, more


def _png_chunk(header: Tensor, place: Tensor) -> tuple:
    """Read the header of a PNG's chunk; see `_find`."""
    import tensorflow as tf

    start = place + 8
    end = start + _number(header[:4], big_endian=True)
    is_exif = tf.reduce_all(header[4:8] == [*b"eXIf"])
    # A checksum of four bytes ends a chunk. The image's own chunks come last.
    is_image = tf.reduce_all(header[4:8] == [*b"IDAT"])
    return *_where_exif(is_exif, start, end), end + 4, ~is_image


def _webp_chunk(header: Tensor, place: Tensor) -> tuple:
    """Read the header of a WebP's chunk; see `_find`."""
    import tensorflow as tf

    start, size = place + 8, _number(header[4:8], big_endian=False)
    is_exif = tf.reduce_all(header[:4] == [*b"EXIF"])
    # Chunks begin at even places.
    return *_where_exif(is_exif, start, start + size), start + size + size % 2, tf.constant(True)


def _number(digits: Tensor, big_endian: bool | Tensor) -> Tensor:
    """Return the number that bytes along the last axis make, int32."""
    import tensorflow as tf

    powers = tf.constant([2 ** (8 * place) for place in range(digits.shape[-1])], tf.int32)
    return tf.reduce_sum(digits * tf.where(big_endian, powers[::-1], powers), axis=-1)


def _orientation(block: Tensor) -> Tensor:
    """Return the orientation in the first directory of a TIFF structure; 1 if there is none."""
    import tensorflow as tf

    # Some writers of WebP keep the marker of JPEG.
    marked = tf.reduce_all(_take(block, tf.range(len(_MARKER))) == [*_MARKER])
    block = block[tf.where(marked, len(_MARKER), 0) :]
    big_endian = _take(block, tf.constant(0)) != ord("I")
    directory = _number(_take(block, 4 + tf.range(4)), big_endian)
    # A larger directory is damaged. The orientation is among the first entries.
    entries = tf.minimum(_number(_take(block, directory + tf.range(2)), big_endian), 256)
    table = _take(block, directory + 2 + 12 * tf.range(entries)[:, None] + tf.range(12))
    is_orientation = _number(table[:, :2], big_endian) == _ORIENTATION_TAG
    values = tf.boolean_mask(_number(table[:, 8:10], big_endian), is_orientation)
    value = tf.concat([values, [1]], 0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _take(block: Tensor, places: Tensor) -> Tensor:
    """Return the bytes at some places; zeros outside of the block."""
    import tensorflow as tf

    padded = tf.concat([block, [0]], 0)
    size = tf.size(block)
    return tf.gather(padded, tf.where((places >= 0) & (places < size), places, size))


def upright_shape(shape: Tensor, orientation: Tensor) -> Tensor:
    """Return the shape that a stored image has once it is upright.

    Args:
        shape: Height, width and channels as stored, int32.
        orientation: int32 in 1..8.

    Returns:
        Height, width and channels, int32.
    """
    import tensorflow as tf

    return tf.where(orientation >= _TRANSPOSED, tf.gather(shape, [1, 0, 2]), shape)


def stored_box(box: Tensor, shape: Tensor, orientation: Tensor) -> Tensor:
    """Return where a part of an upright image lies in the stored one.

    Args:
        box: Top, left, height and width in the upright image, int32.
        shape: Height, width and channels of the upright image, int32.
        orientation: int32 in 1..8.

    Returns:
        Top, left, height and width in the stored image, int32.
    """
    import tensorflow as tf

    top, left, height, width = tf.unstack(box)
    top = tf.where(_is_in(orientation, _UPSIDE_DOWN), shape[0] - top - height, top)
    left = tf.where(_is_in(orientation, _MIRRORED), shape[1] - left - width, left)
    stored = tf.stack([top, left, height, width])
    return tf.where(orientation >= _TRANSPOSED, tf.gather(stored, [1, 0, 3, 2]), stored)


def oriented(image: Tensor, orientation: Tensor) -> Tensor:
    """Turn an image upright.

    Args:
        image: TensorFlow tensor `(height, width, channels)`, as stored.
        orientation: int32 in 1..8, as EXIF numbers them.

    Returns:
        The image as it was seen, `(width, height, channels)` for orientations from 5 on.
    """
    import tensorflow as tf

    def turn() -> tf.Tensor:
        turned = tf.cond(
            orientation >= _TRANSPOSED, lambda: tf.transpose(image, (1, 0, 2)), lambda: image
        )
        for axis, orientations in ((1, _MIRRORED), (0, _UPSIDE_DOWN)):
            turned = tf.cond(
                _is_in(orientation, orientations),
                lambda x=turned, axis=axis: tf.reverse(x, [axis]),
                lambda x=turned: x,
            )
        return turned

    turned = tf.cond(orientation > 1, turn, lambda: image)
    return tf.ensure_shape(turned, (None, None, image.shape[-1]))


def _is_in(orientation: Tensor, orientations: tuple[int, ...]) -> Tensor:
    import tensorflow as tf

    return tf.reduce_any(orientation == tf.constant(orientations))
