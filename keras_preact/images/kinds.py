"""Kinds of image files that every reader reads, and those that every reader refuses.

A net is trained, evaluated and served in TensorFlow graphs. Pillow knows more kinds than these, but
what is read here and refused there could not be compared.
"""

from __future__ import annotations

from keras_preact.images.bitmap import BMP_SIGNATURE, UNSUPPORTED, is_supported_bitmap_file
from keras_preact.images.exif import JPEG_SIGNATURE, PNG_SIGNATURE
from keras_preact.images.gif import GIF_SIGNATURE

UNKNOWN_FORMAT = "not a JPEG, PNG, GIF, BMP or WebP file"
ANIMATED = "not supported: a WebP file of several frames"

_ENDINGS = {
    JPEG_SIGNATURE: ".jpg",
    PNG_SIGNATURE: ".png",
    GIF_SIGNATURE: ".gif",
    BMP_SIGNATURE: ".bmp",
}
_RIFF, _WEBP, _EXTENDED = b"RIFF", b"WEBP", b"WEBPVP8X"
# Flag of an extended WebP file that has several frames.
_FRAMES = 0x02


def refusal(content: bytes) -> str:
    """Say why a file is of a kind that is not read.

    Args:
        content: The file.

    Returns:
        The reason; empty for a file that is read, unless it is damaged.
    """
    if content.startswith(BMP_SIGNATURE):
        return "" if is_supported_bitmap_file(content) else UNSUPPORTED
    if content[8:16] == _EXTENDED and content[20:21] and content[20] & _FRAMES:
        return ANIMATED
    return "" if ending(content) else UNKNOWN_FORMAT


def ending(content: bytes) -> str:
    """Return the ending of a file's name, such as `.png`, by its kind; empty for another kind.

    Args:
        content: The file.
    """
    if content.startswith(_RIFF) and content[8:12] == _WEBP:
        return ".webp"
    return next((_ENDINGS[each] for each in _ENDINGS if content.startswith(each)), "")
