"""The camera's orientation, read from the EXIF data of an image file: in a graph, and outside.

The standard is JEITA CP-3451 (Exif); PNG keeps the data in its chunk `eXIf`, WebP in `EXIF`. Every
reader must turn an image alike. So all look in these places, in the same parts of a file, and take
data that are damaged for none; an orientation elsewhere, such as in XMP, counts nowhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_preact.images.tracing import call_if, traced_once
from keras_preact.tensor import Tensor

JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RIFF, _EXTENDED_WEBP = b"RIFF", b"WEBPVP8X"
# A WebP file of the extended kind says in a flag whether it has EXIF data.
_FLAGS, _HAS_EXIF = 20, 0x08
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
# A larger directory is damaged. The orientation is among the first entries, of so many bytes each.
_MAX_ENTRIES, _ENTRY = 256, 12

# Returns the number that so many bytes from a place on make, the highest first or the lowest.
Number = Callable[[int, int, bool], Any]


class Part(NamedTuple):
    """Part of a file, as its header tells it: in integers, or in tensors of a graph.

    Attributes:
        is_exif: Whether it holds EXIF data.
        start: Place of these data in the file.
        end: Place behind them.
        following: Place of the next part.
        more: Whether EXIF data may be in one of the next.
    """

    is_exif: Any
    start: Any
    end: Any
    following: Any
    more: Any


def _jpeg_segment(number: Number, place: Any) -> Part:
    marker = number(1, 1, True)
    end = place + 2 + number(2, 2, True)
    is_exif = (marker == 0xE1) & (number(4, 4, True) == _code(b"Exif")) & (number(8, 2, True) == 0)
    # Tables and the image follow the segments of applications and comments.
    more = (number(0, 1, True) == 0xFF) & ((marker // 16 == 0xE) | (marker == 0xFE))
    return Part(is_exif, place + _HEADER, end, end, more)


def _png_chunk(number: Number, place: Any) -> Part:
    start, kind = place + 8, number(4, 4, True)
    end = start + number(0, 4, True)
    # A checksum of four bytes ends a chunk. Data behind the image's own chunks are not looked for.
    return Part(kind == _code(b"eXIf"), start, end, end + 4, kind != _code(b"IDAT"))


def _webp_chunk(number: Number, place: Any) -> Part:
    start, size = place + 8, number(4, 4, False)
    is_exif = number(0, 4, True) == _code(b"EXIF")
    # Chunks begin at even places.
    return Part(is_exif, start, start + size, start + size + size % 2, True)


def _code(name: bytes) -> int:
    return int.from_bytes(name, "big")


def file_orientation(content: bytes) -> int:
    """Read the orientation of the camera from an image file, outside of a graph.

    Args:
        content: The file.

    Returns:
        1 to 8 as EXIF numbers them; 1, upright, for a file without one.
    """
    if content.startswith(JPEG_SIGNATURE):
        block = _exif_block(content, _jpeg_segment, 2)
    elif content.startswith(PNG_SIGNATURE):
        block = _exif_block(content, _png_chunk, len(PNG_SIGNATURE))
    elif content.startswith(_RIFF) and content[8:16] == _EXTENDED_WEBP:
        has_exif = _numbers(content)(_FLAGS, 1, True) & _HAS_EXIF
        block = _exif_block(content, _webp_chunk, 12) if has_exif else b""
    else:
        block = b""
    return _block_orientation(block)


def _exif_block(content: bytes, read: Callable[[Number, int], Part], place: int) -> bytes:
    """Return the EXIF data in a file, empty if there are none; see `_find`."""
    for _ in range(_MAX_PARTS):
        if place > len(content) - _HEADER:
            break
        part = read(_numbers(content[place : place + _HEADER]), place)
        if part.is_exif and part.start != part.end:
            return content[part.start : part.end] if part.end <= len(content) else b""
        if not part.more or part.following <= place:
            break
        place = part.following
    return b""


def _block_orientation(block: bytes) -> int:
    """Return the orientation in a TIFF structure; see `_orientation`."""
    block = block.removeprefix(_MARKER)
    number, big_endian = _numbers(block), block[:1] != b"I"
    directory = number(4, 4, big_endian)
    entries = min(number(directory, 2, big_endian), _MAX_ENTRIES)
    for place in range(directory + 2, directory + 2 + _ENTRY * entries, _ENTRY):
        if number(place, 2, big_endian) == _ORIENTATION_TAG:
            value = number(place + 8, 2, big_endian)
            return value if 1 <= value <= 8 else 1
    return 1


def _numbers(content: bytes) -> Number:
    """Return a function that reads numbers; the bytes beyond the end are zeros."""
    return lambda place, count, big_endian: int.from_bytes(
        content[place : place + count].ljust(count, b"\0"), "big" if big_endian else "little"
    )


@traced_once
def exif_orientation(file: Tensor) -> Tensor:
    """Read the orientation of the camera from an image file, in a TensorFlow graph.

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
    beginning = tf.strings.join([tf.strings.substr(file, 0, _FLAGS + 1), b"\0" * (_FLAGS + 1)])

    def starts_with(magic: bytes, at: int = 0) -> Tensor:
        return tf.strings.substr(beginning, at, len(magic)) == magic

    def walk(read: Callable[[Number, Tensor], Part], first: int) -> Callable[[], tuple]:
        return lambda: _find(file, read, first)

    is_webp = starts_with(_RIFF) & starts_with(_EXTENDED_WEBP, 8)
    flags = tf.io.decode_raw(beginning, tf.uint8)[_FLAGS]
    start, end = tf.case(
        [
            (starts_with(JPEG_SIGNATURE), walk(_jpeg_segment, 2)),
            (starts_with(PNG_SIGNATURE), walk(_png_chunk, len(PNG_SIGNATURE))),
            (is_webp & (flags & _HAS_EXIF > 0), walk(_webp_chunk, 12)),
        ],
        default=lambda: (tf.constant(0, tf.int64), tf.constant(0, tf.int64)),
    )
    whole = (end > start) & (end <= _length(file))
    return tf.cond(
        whole, lambda: _orientation(_bytes(file, start, end - start)), lambda: tf.constant(1)
    )


def _length(file: Tensor) -> Tensor:
    """Return the length of a file in bytes, int64, as are all places in it.

    The largest that four bytes can tell are beyond 32 bits.
    """
    import tensorflow as tf

    return tf.cast(tf.strings.length(file), tf.int64)


def _bytes(file: Tensor, start: Tensor, count: Tensor | int) -> Tensor:
    """Return the bytes of a part of a file, int64."""
    import tensorflow as tf

    part = tf.strings.substr(file, start, tf.cast(count, tf.int64))
    return tf.cast(tf.io.decode_raw(part, tf.uint8), tf.int64)


def _find(
    file: Tensor, read: Callable[[Number, Tensor], Part], first: int
) -> tuple[Tensor, Tensor]:
    """Look through the parts of a file for EXIF data.

    Args:
        file: Scalar string.
        read: Reads a part, from the numbers in its header, and its place.
        first: Place of the first part.

    Returns:
        Start and end of the data, int64; both alike if there are none.
    """
    import tensorflow as tf

    last = _length(file) - _HEADER

    def goes_on(place: Tensor, start: Tensor, end: Tensor, more: Tensor) -> Tensor:
        # A header that is cut short ends the search.
        return more & (start == end) & (place <= last)

    def look(place: Tensor, start: Tensor, end: Tensor, more: Tensor) -> tuple:
        del start, end, more
        header = tf.ensure_shape(_bytes(file, place, _HEADER), [_HEADER])
        part = read(lambda at, count, big: _number(header[at : at + count], big), place)
        end = tf.where(part.is_exif, part.end, part.start)
        return part.following, part.start, end, part.more & (part.following > place)

    none = tf.constant(0, tf.int64)
    state = (tf.constant(first, tf.int64), none, none, tf.constant(True))
    _, start, end, _ = tf.while_loop(goes_on, look, state, maximum_iterations=_MAX_PARTS)
    return start, end


def _number(digits: Tensor, big_endian: bool | Tensor) -> Tensor:
    """Return the number that bytes along the last axis make, int64."""
    import tensorflow as tf

    lowest_first = [256**place for place in range(digits.shape[-1])]
    if isinstance(big_endian, bool):
        powers = lowest_first[::-1] if big_endian else lowest_first
    else:
        powers = tf.where(big_endian, lowest_first[::-1], lowest_first)
    return tf.reduce_sum(digits * tf.cast(powers, tf.int64), axis=-1)


def _orientation(block: Tensor) -> Tensor:
    """Return the orientation in the first directory of a TIFF structure; 1 if there is none."""
    import tensorflow as tf

    # Some writers of WebP keep the marker of JPEG.
    marked = tf.reduce_all(_take(block, tf.range(len(_MARKER))) == [*_MARKER])
    block = block[tf.where(marked, len(_MARKER), 0) :]
    big_endian = _take(block, tf.constant(0)) != ord("I")
    directory = _number(_take(block, 4 + tf.range(4)), big_endian)
    entries = _number(_take(block, directory + tf.range(2, dtype=tf.int64)), big_endian)
    entries = tf.range(tf.minimum(entries, _MAX_ENTRIES))[:, None]
    table = _take(block, directory + 2 + _ENTRY * entries + tf.range(_ENTRY, dtype=tf.int64))
    is_orientation = _number(table[:, :2], big_endian) == _ORIENTATION_TAG
    values = tf.boolean_mask(_number(table[:, 8:10], big_endian), is_orientation)
    value = tf.cast(tf.concat([values, [1]], 0)[0], tf.int32)
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _take(block: Tensor, places: Tensor) -> Tensor:
    """Return the bytes at some places; zeros outside of the block."""
    import tensorflow as tf

    padded = tf.concat([block, [0]], 0)
    size = tf.size(block, places.dtype)
    return tf.gather(padded, tf.where(places < size, places, size))
