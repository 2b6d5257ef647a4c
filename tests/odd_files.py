"""Odd image files: those that every reader reads alike, and those that are refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageOps

from tests.savedmodels.files import encoded, exif

# Another color in each corner, so that each of the eight orientations looks different.
ROWS, COLUMNS = np.mgrid[:48, :64].astype(float)
PIXELS = np.stack([4 * COLUMNS, 5 * ROWS, 2 * (ROWS + COLUMNS)], axis=-1).astype(np.uint8)
PICTURE = Image.fromarray(PIXELS)
GRAY = PICTURE.convert("L")
ALPHA = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]]))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _png_of_16_bits() -> bytes:
    """Return an RGB image of 16 bits, which Pillow reads but does not write."""
    rows = (PIXELS.astype(">u2") * 250).reshape(48, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*part) for part in parts)


def bitmap(
    bits: int, *, colors: int | None = None, top_first: bool = False, compression: int = 0
) -> bytes:
    """Return a BMP file of random places in a random palette.

    Args:
        bits: Bits per pixel: 1, 4 or 8; the pixels of other numbers make no sense.
        colors: Colors of the palette; as many as the bits allow by default.
        top_first: Whether the rows run from the top.
        compression: Number of the compression in the header; the pixels have none.

    Returns:
        The file, 61 pixels wide and 48 high.
    """
    height, width = 48, 61
    rng = np.random.default_rng(bits)
    palette = rng.integers(0, 256, (colors or 2 ** min(bits, 8), 4), np.uint8)
    # Rows end at whole numbers of four bytes, the first pixel in the highest bits of a byte.
    row = (width * bits + 31) // 32 * 32
    each = min(bits, 8)
    places = rng.integers(0, len(palette), (height, row // each), np.uint8)
    digits = np.unpackbits(places[..., None], axis=-1)[..., 8 - each :]
    pixels = np.packbits(digits.reshape(height, row), axis=-1).tobytes()
    start = 54 + palette.size
    file = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    height = -height if top_first else height
    file += struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colors or 0, 0
    )
    return file + palette.tobytes() + pixels


def _animated(kind: str, first: Image.Image, **options: Any) -> bytes:
    second = Image.new(first.mode, first.size)
    return encoded(first, kind, save_all=True, append_images=[second], **options)


def gif(
    file: bytes,
    canvas: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
    comment: bytes = b"",
) -> bytes:
    """Return a GIF file whose first frame lies elsewhere.

    Args:
        file: The file, whose frame is as large as its canvas.
        canvas: Width and height to write; those of the file by default.
        corner: Left and top of the frame.
        comment: A comment to put before the frame.
    """
    # Pillow writes neither a table of colors nor an extension in which this could stand.
    start = file.index(b",\0\0\0\0" + file[6:10])
    blocks = [comment[place : place + 255] for place in range(0, len(comment), 255)]
    extension = b"".join(bytes([len(block)]) + block for block in blocks)
    written = struct.pack("<HH", *canvas) if canvas else file[6:10]
    return b"".join(
        [
            *(file[:6], written, file[10:start]),
            *((b"!\xfe", extension, b"\0") if comment else ()),
            *(b",", struct.pack("<HH", *corner), file[start + 5 :]),
        ]
    )


def _gif_without_colors() -> bytes:
    """Return a GIF file that has no table of colors."""
    file = encoded(PICTURE, "GIF")
    table = 3 << (file[10] & 7) + 1
    return file[:10] + bytes([file[10] & 0x7F]) + file[11:13] + file[13 + table :]


def _without_adobe(file: bytes) -> bytes:
    """Return a JPEG file without the marker by which a reader knows that its inks are negatives."""
    start = file.index(b"\xff\xee\0\x0eAdobe")
    return file[:start] + file[start + 16 :]


def _files() -> dict[str, bytes]:
    turned = {
        f"{kind.lower()} {orientation}": encoded(PICTURE, kind, exif=exif(orientation), **options)
        for kind, options in (
            ("JPEG", {"quality": 95}),
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
        )
        for orientation in range(1, 9)
    }
    # The marker belongs to JPEG; some writers leave it before the data of others.
    block = exif(6)
    assert block in turned["jpeg 6"] and block not in turned["png 6"]
    return {
        **turned,
        "gray jpeg": encoded(GRAY, "JPEG", exif=exif(8), quality=95),
        "cmyk jpeg": encoded(PICTURE.convert("CMYK"), "JPEG", exif=exif(5), quality=95),
        "cmyk jpeg without a marker of Adobe": _without_adobe(
            encoded(ImageChops.invert(PICTURE.convert("CMYK")), "JPEG", exif=exif(5), quality=95)
        ),
        "progressive jpeg": encoded(PICTURE, "JPEG", progressive=True, exif=exif(6, "<")),
        "plain jpeg": encoded(PICTURE, "JPEG"),
        "gray png": encoded(GRAY, "PNG"),
        "gray png with alpha": encoded(ALPHA.convert("LA"), "PNG"),
        "png with alpha": encoded(ALPHA, "PNG", exif=exif(3)),
        "palette png": encoded(PICTURE.quantize(64), "PNG"),
        "palette png with a transparent color": encoded(
            PICTURE.quantize(64), "PNG", transparency=3
        ),
        "1-bit png": encoded(PICTURE.convert("1"), "PNG"),
        "gray png of 16 bits": encoded(
            Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 250), "PNG"
        ),
        "png of 16 bits": _png_of_16_bits(),
        "animated png": _animated("PNG", PICTURE),
        "gif": encoded(PICTURE, "GIF"),
        "gif with a transparent color": encoded(PICTURE.quantize(64), "GIF", transparency=3),
        "gray gif with a transparent color": encoded(GRAY, "GIF", transparency=100),
        "animated gif": _animated("GIF", PICTURE),
        "interlaced gif": encoded(PICTURE, "GIF", interlace=1),
        "gif of a larger canvas": gif(encoded(PICTURE, "GIF"), (100, 80), (10, 7)),
        "gif of a smaller canvas": gif(encoded(PICTURE, "GIF"), (30, 20), (10, 7)),
        "gif of no canvas": gif(encoded(PICTURE, "GIF"), (0, 0)),
        "gif with a transparent color of a larger canvas": gif(
            encoded(PICTURE.quantize(64), "GIF", transparency=3), (70, 90), (6, 0)
        ),
        "animated gif of a larger canvas": gif(_animated("GIF", PICTURE), (80, 48), (0, 0)),
        "gif with a long comment": gif(encoded(PICTURE, "GIF"), (64, 60), (0, 12), b",;!\0" * 1000),
        "bmp": encoded(PICTURE, "BMP"),
        "bmp with alpha": encoded(ALPHA, "BMP"),
        "gray bmp": encoded(GRAY, "BMP"),
        "palette bmp": encoded(PICTURE.quantize(64), "BMP"),
        "1-bit bmp": encoded(PICTURE.convert("1"), "BMP"),
        "1-bit bmp of colors": bitmap(1),
        "4-bit bmp": bitmap(4),
        "bmp from the top": bitmap(8, top_first=True),
        "bmp of few colors": bitmap(8, colors=5),
        "webp": encoded(PICTURE, "WEBP", lossless=True),
        "lossy webp": encoded(PICTURE, "WEBP", quality=80),
        "webp with alpha": encoded(ALPHA, "WEBP", lossless=True, exif=exif(6)),
        "lossy webp with alpha": encoded(ALPHA, "WEBP", quality=80),
    }


def _unturned() -> dict[str, bytes]:
    """Return files that no reader turns, though Pillow turns some, and fails at others."""
    jpeg, png = encoded(PICTURE, "JPEG", quality=95), encoded(PICTURE, "PNG")
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp
    block = exif(6).removeprefix(b"Exif\0\0")
    # Without the byte order.
    damaged = block[2:] + b"\0\0"
    after_header, end = png.index(b"IDAT") - 4, png.index(b"IEND") - 4
    webp = encoded(PICTURE, "WEBP", lossless=True, exif=b"Exif\0\0" + block)
    return {
        "jpeg with an orientation in xmp": b"".join(
            [jpeg[:2], b"\xff\xe1", struct.pack(">H", 2 + len(segment)), segment, jpeg[2:]]
        ),
        "png with an orientation in xmp": png[:after_header]
        + _png_chunk(b"iTXt", text)
        + png[after_header:],
        "png with exif data behind the image": png[:end] + _png_chunk(b"eXIf", block) + png[end:],
        "png with damaged exif data": png[:after_header]
        + _png_chunk(b"eXIf", damaged)
        + png[after_header:],
        "webp with damaged exif data": webp.replace(block, damaged),
    }


UNTURNED = _unturned()
FILES = {**_files(), **UNTURNED}

# Files that no reader reads, though Pillow itself reads the second part.
DAMAGED = {
    "empty": b"",
    "text": b"no image at all",
    "two bytes": b"BM",
    "cut jpeg": FILES["plain jpeg"][:600],
    "cut png": FILES["png 1"][:150],
    "cut gif": FILES["gif"][:900],
    "cut webp": FILES["webp"][:60],
    "cut bmp": FILES["bmp"][:2000],
    "cut palette bmp": FILES["palette bmp"][:1200],
    "bmp cut in its palette": FILES["palette bmp"][:100],
    "gif cut in its comment": FILES["gif with a long comment"][:2000],
    "gif cut in its table of colors": FILES["gif"][:100],
    "gif without a frame": FILES["gif"][: FILES["gif"].index(b",\0\0\0\0")] + b";",
    "gif without colors": _gif_without_colors(),
    "gif of a huge canvas": gif(FILES["gif"], (65535, 65535)),
}
UNSUPPORTED = {
    "animated webp": _animated("WEBP", PICTURE, lossless=True),
    "animated webp with alpha": _animated("WEBP", ALPHA, lossless=True),
    "compressed bmp": bitmap(8, compression=1),
    "bmp of 16 bits": bitmap(16),
    "bmp of OS 2": encoded(PICTURE, "BMP")[:14] + b"\x0c" + encoded(PICTURE, "BMP")[15:],
    "tiff": encoded(PICTURE, "TIFF"),
    "compressed tiff": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "tiff of two pages": _animated("TIFF", PICTURE),
    "pixmap": encoded(PICTURE, "PPM"),
}


def upright(file: bytes, channels: int = 3) -> np.ndarray:
    """Return the pixels of a file as Pillow reads them."""
    image = Image.open(io.BytesIO(file))
    if file not in UNTURNED.values():
        image = ImageOps.exif_transpose(image)
    if image.mode == "CMYK" and b"Adobe" not in file:
        # Pillow takes the inks of every JPEG for negatives.
        image = ImageChops.invert(image)
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if file.startswith(b"GIF"):
        # Nothing is drawn where a GIF is transparent, nor beside its first frame.
        with Image.open(io.BytesIO(file)) as unread:
            left, top, right, bottom = unread.tile[0].extents
        pixels = np.asarray(image.convert("RGBA"))
        drawn = np.zeros(pixels.shape[:2], bool)
        drawn[top:bottom, left:right] = pixels[top:bottom, left:right, 3] > 0
        image = Image.fromarray(pixels[..., :3] * drawn[..., None])
    image = image.convert("RGB").convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(*image.size[::-1], channels)


def tolerance(name: str) -> int:
    """Return the largest difference of a pixel between two readers of one of `FILES`."""
    # Pillow and TensorFlow each bring the colors of CMYK to RGB in their own whole numbers.
    return 1 if name.startswith("cmyk jpeg") else 0
