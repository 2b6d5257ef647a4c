"""Image files in a graph: turned as EXIF says, and measured before they are decoded."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_preact.preprocessing import Preprocessing
from keras_preact.serving.reading import ImageReader, _pixels
from tests.savedmodels.files import encoded, exif

# Dark at the top left, red to the right, green to the bottom.
SIDE = np.linspace(0, 255, 32).astype("uint8")
PICTURE = Image.fromarray(
    np.stack([np.tile(SIDE, (24, 1)), np.tile(SIDE[:24, None], (1, 32)), np.zeros((24, 32))], -1)
    .astype("uint8")
    .copy()
)


@pytest.fixture(scope="module")
def read():
    reader = ImageReader(Preprocessing(input_size=24, crop_fraction=1.0), max_pixels=10**6)
    function = tf.function(reader.read, input_signature=[tf.TensorSpec((None,), tf.string)])

    def images(files):
        result, errors = function(tf.constant(files))
        assert not any(errors.numpy())
        return result.numpy()

    return images


@pytest.mark.parametrize("byte_order", "<>")
def test_pictures_are_turned_upright(read, byte_order):
    for orientation in range(1, 9):
        file = encoded(PICTURE, "JPEG", exif=exif(orientation, byte_order), quality=95)
        plain = Image.open(io.BytesIO(file))
        upright = ImageOps.exif_transpose(plain)
        assert upright.size == ((32, 24) if orientation < 5 else (24, 32))
        said, wanted, unturned = read(
            [file, encoded(upright, "PNG"), encoded(plain.convert("RGB"), "PNG")]
        )
        # Decoders of JPEG differ by a few gray levels.
        assert np.abs(said - wanted).max() < 24
        assert orientation == 1 or np.abs(said - unturned).max() > 100


@pytest.mark.parametrize(
    "block",
    [
        exif(0),
        exif(9),
        exif(6, directory=2**31),
        exif(6)[:20],
        exif(6)[:-12],
        b"Exif\0\0",
        b"http://ns.adobe.com/xap/1.0/\0" + bytes(range(256)),
    ],
    ids=["0", "9", "far", "cut", "cut in the entry", "nothing", "XMP"],
)
def test_odd_exif_turns_nothing(read, block):
    with_block, without = read([encoded(PICTURE, "JPEG", exif=block), encoded(PICTURE, "JPEG")])
    np.testing.assert_array_equal(with_block, without)


def test_exif_after_other_segments(read):
    file = encoded(PICTURE, "JPEG", exif=exif(3), quality=95)
    comment = b"\xff\xfe\x80\x02" + bytes(2**15)
    said, wanted = read([file[:2] + comment + file[2:], file])
    np.testing.assert_array_equal(said, wanted)


def test_nothing_is_left_to_begin_when_an_image_is_decoded():
    """What begins beside a decoder that fails ends the request, not only its image."""
    file = tf.TensorSpec([], tf.string)
    graph = tf.function(_pixels, autograph=False).get_concrete_function(file).graph
    canvas, by_header = (each for each in graph.get_operations() if each.type == "StatelessIf")
    before, waiting = set(), [by_header.inputs[0].op]
    while waiting:
        operation = waiting.pop()
        before.add(operation.name)
        waiting += [each.op for each in operation.inputs] + list(operation.control_inputs)
    assert canvas.name in before
