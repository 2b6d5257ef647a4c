"""Image files as clients send them, sound and faulty."""

import io
import struct
import zlib

import numpy as np

from keras_preact.preprocessing import Preprocessing, decode_image

PREPROCESSING = Preprocessing(input_size=32)
CLASS_NAMES = [f"class {letter}" for letter in "abcdefg"]


def pixels(files):
    """Image files as the net takes them, before they are normalized."""
    return np.stack([PREPROCESSING.resize_and_crop(decode_image(file, 3)) for file in files])


def encoded(image, file_format, **options):
    """Return a PIL image as the content of a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def claiming(file, width, height):
    """Return an image file whose header claims another size."""
    file = bytearray(file)
    if file.startswith(b"\xff\xd8"):
        start = file.index(b"\xff\xc0")
        file[start + 5 : start + 9] = struct.pack(">HH", height, width)
    elif file.startswith(b"\x89PNG"):
        file[16:24] = struct.pack(">II", width, height)
        file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    elif file.startswith(b"GIF"):
        file[6:10] = struct.pack("<HH", width, height)
    elif file.startswith(b"BM"):
        file[18:26] = struct.pack("<ii", width, -height)
    elif file[12:16] == b"VP8 ":
        # 14 bits hold no more than 16383.
        file[26:30] = struct.pack("<HH", min(width, 16383), min(height, 16383))
    elif file[12:16] == b"VP8L":
        file[21:25] = struct.pack("<I", (width - 1) % 2**14 | (height - 1) % 2**14 << 14)
    return bytes(file)


def exif(orientation, byte_order=">", directory=8):
    """Return an EXIF block of two entries, the orientation second."""
    header = (b"II" if byte_order == "<" else b"MM") + struct.pack(byte_order + "HI", 42, directory)
    entries = struct.pack(byte_order + "HHIHH", 0x0100, 3, 1, 640, 0)
    entries += struct.pack(byte_order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + header + struct.pack(byte_order + "H", 2) + entries + bytes(4)
