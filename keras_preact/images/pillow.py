"""Conversion of files, arrays and tensors to Pillow images."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_preact.images.exif import file_orientation
from keras_preact.images.gif import first_frame
from keras_preact.images.kinds import refusal
from keras_preact.images.levels import is_numeric, to_levels

if TYPE_CHECKING:
    from PIL import Image

Encoded = (str, os.PathLike, bytes, bytearray)


def to_pillow(image: Any, channels: int) -> Image.Image:
    """Read, decode or wrap an image.

    Args:
        image: Path of an image file, content of one, `PIL.Image.Image`, or array or tensor
            `(height, width, channels)` with pixels in 0..255.
        channels: 1 for gray, 3 for RGB.

    Returns:
        The image in mode `"L"` or `"RGB"`. Files are turned upright by their EXIF orientation;
        colors become gray by their luma (ITU-R BT.601), an alpha channel is left out.

    Raises:
        ImportError: If Pillow is not installed.
        FileNotFoundError: If there is no such file.
        TypeError: If `image` is none of these.
        ValueError: If it cannot be read, or its shape or range is another.
    """
    pillow = _import_pillow()
    if isinstance(image, Encoded):
        return _to_channels(_decode(image), channels)
    if isinstance(image, pillow.Image):
        return _to_channels(image, channels)
    pixels = to_levels(to_array(image), channels)
    return pillow.fromarray(pixels[..., 0] if channels == 1 else pixels)


def to_array(image: Any) -> np.ndarray:
    """Convert an array or eager tensor, of whatever library, to an array of numbers.

    Raises:
        TypeError: If it is neither, or holds something else.
    """
    if ops.is_tensor(image):
        image = ops.convert_to_numpy(image)
    elif is_tensorflow(image):
        image = image.numpy()
    elif hasattr(image, "__array__") and not keras.backend.is_keras_tensor(image):
        image = np.asarray(image)
    if not isinstance(image, np.ndarray) or not is_numeric(image.dtype):
        received = type(image).__name__
        if hasattr(image, "dtype"):
            received = f"{received} of dtype {image.dtype}"
        raise TypeError(
            "An image must be the path of a file, the bytes of one, a PIL.Image.Image, or an array "
            f"or tensor of numbers. Received: {received}"
        )
    return image


def is_tensorflow(x: Any) -> bool:
    """Return whether `x` is a tensor of TensorFlow, on any backend, without importing it."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and tensorflow.is_tensor(x)


def is_symbolic(x: Any) -> bool:
    """Return whether `x` is a tensor of a TensorFlow graph, which has no value yet."""
    return is_tensorflow(x) and sys.modules["tensorflow"].is_symbolic_tensor(x)


def _import_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Images are read and resized by Pillow: `pip install pillow`, or `keras_preact[images]`"
        ) from error
    return Image


def _decode(source: str | os.PathLike | bytes | bytearray) -> Image.Image:
    from PIL import Image, ImageChops

    in_memory = isinstance(source, (bytes, bytearray))
    try:
        content = bytes(source) if in_memory else Path(source).read_bytes()
        if reason := refusal(content):
            raise ValueError(f"{reason}; Pillow may open it, and the image be given")
        with Image.open(io.BytesIO(content)) as image:
            if image.format == "GIF":
                return _on_black(image, first_frame(content))
            image.load()
            if image.mode == "CMYK" and "adobe" not in image.info:
                # Pillow takes the inks of every JPEG for negatives, as only Adobe writes them.
                image = ImageChops.invert(image)
            # Pillow's own search looks in more places, and fails where the data are damaged.
            return _upright(image, file_orientation(content))
    except FileNotFoundError:
        raise
    # Decoders of damaged files raise whatever they meet.
    except Exception as error:
        name = f"{len(source)} bytes" if in_memory else repr(os.fspath(source))
        raise ValueError(f"Not a readable image: {name} ({error})") from error


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image, whose file is closed afterwards, as EXIF numbers its orientation."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation > 1 else image.copy()


def _on_black(image: Image.Image, frame: tuple[int, int, int, int] | None) -> Image.Image:
    """Read the first frame of a GIF image, black where it is transparent or nothing is drawn.

    A palette may have any color for that, and a writer seldom chooses it.
    """
    if frame is None:
        raise ValueError("no frame")
    pixels = np.asarray(image.convert("RGBA"))
    left, top, right, bottom = frame
    drawn = np.zeros_like(pixels[..., 3:], bool)
    drawn[top:bottom, left:right] = pixels[top:bottom, left:right, 3:] > 0
    return _import_pillow().fromarray(pixels[..., :3] * drawn)


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I;16"):
        levels = (np.asarray(image) >> 8).astype(np.uint8)
        image = _import_pillow().fromarray(levels)
    elif image.mode in ("I", "F"):
        raise ValueError(
            "The range of an image of 32-bit pixels is not known: convert it to 8 bits. "
            f"Received: mode {image.mode!r}"
        )
    rgb = image if image.mode in ("L", "RGB") else image.convert("RGB")
    return rgb.convert("L" if channels == 1 else "RGB")
