"""`Preprocessor` in a TensorFlow graph against its form for arrays: equal, or refused alike."""

import re

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from keras_preact.preprocessing import Preprocessing, Preprocessor, preprocess_input  # noqa: E402

COLOR = Preprocessor(Preprocessing(input_size=16, crop_fraction=0.9), data_format="channels_last")
GRAY = Preprocessor(
    Preprocessing(input_size=16, mean=(0.5,), std=(0.2,)), data_format="channels_last"
)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 28, 3)).astype(np.uint8)


def in_graph(preprocessor, image, spec):
    """Map the preprocessor over a tensor of which the graph knows only the spec."""
    function = tf.function(preprocessor.__call__, input_signature=[spec])
    return function(tf.constant(image)).numpy()


def specs(image):
    """Return what a graph may know of an image."""
    return [
        tf.TensorSpec(shape, image.dtype)
        for shape in (image.shape, (None,) * image.ndim, (None, None, image.shape[-1]), None)
        if shape is None or len(shape) == image.ndim
    ]


@pytest.mark.parametrize(
    "dtype", ["uint8", "int32", "uint16", "int64", "bfloat16", "float16", "float64"]
)
@pytest.mark.parametrize("preprocessor", [COLOR, GRAY], ids=["color", "gray"])
def test_images_are_those_of_arrays(preprocessor, dtype):
    image = PIXELS[..., : preprocessor.preprocessing.channels].astype(dtype)
    if "float" in dtype:
        image = np.clip(image + 0.3, 0, 255).astype(dtype)
    for spec in specs(image):
        np.testing.assert_array_equal(in_graph(preprocessor, image, spec), preprocessor(image))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_batches_are_those_of_arrays(data_format):
    preprocessor = Preprocessor(COLOR.preprocessing, data_format=data_format)
    images = np.stack([PIXELS, PIXELS[::-1], PIXELS[:, ::-1]])
    batches = tf.data.Dataset.from_tensor_slices(images).batch(2).map(preprocessor)
    result = np.concatenate(list(batches.as_numpy_iterator()))
    np.testing.assert_array_equal(result, preprocessor(images))
    assert batches.element_spec.shape.as_list() == [None, *result.shape[1:]]


WRONG = {
    "scaled to 0..1": PIXELS.astype("float32") / 255,
    "scaled to 0..1, of half precision": PIXELS.astype("float16") / 255,
    "below 0": PIXELS.astype("int32") - 128,
    "above 255": PIXELS.astype("uint16") * 2,
    "not a number": np.where(PIXELS == 7, np.nan, PIXELS),
    "another number of channels": PIXELS[..., :2],
    "empty": PIXELS[:0],
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_pixels_are_refused_as_arrays_are(kind):
    image = WRONG[kind]
    with pytest.raises(ValueError) as of_array:
        COLOR(image)
    sentence = str(of_array.value).partition("Received:")[0]
    for spec in specs(image):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as of_graph:
            in_graph(COLOR, image, spec)
        assert sentence in str(of_graph.value), spec


@pytest.mark.parametrize("place", [0, 2])
def test_one_wrong_image_of_a_batch_is_refused(place):
    images = np.stack([PIXELS.astype("float32")] * 3)
    images[place] /= 255
    pipeline = tf.data.Dataset.from_tensors(images).map(COLOR)
    with pytest.raises(tf.errors.InvalidArgumentError, match="look scaled to 0..1 already"):
        next(iter(pipeline))


def test_gray_pixels_in_0_to_1_are_refused_and_black_ones_are_not():
    gray = PIXELS[..., :1].astype("float32")
    pipeline = tf.data.Dataset.from_tensors(gray / 255).map(GRAY)
    with pytest.raises(tf.errors.InvalidArgumentError, match="look scaled to 0..1 already"):
        next(iter(pipeline))
    black = next(iter(tf.data.Dataset.from_tensors(0 * gray).map(GRAY)))
    np.testing.assert_array_equal(black, GRAY(0 * gray))


def test_content_of_files_is_refused_with_what_decodes_it():
    files = tf.data.Dataset.from_tensors(b"content")
    with pytest.raises(TypeError, match=re.escape("keras_preact.preprocessing.decode_image")):
        files.map(COLOR)


def test_what_decode_image_of_tensorflow_gives():
    """Its rank is unknown before the graph runs."""
    file = tf.io.encode_png(PIXELS).numpy()
    files = tf.data.Dataset.from_tensors(file)
    result = next(iter(files.map(lambda content: COLOR(tf.io.decode_image(content)))))
    np.testing.assert_array_equal(result, COLOR(PIXELS))
    with pytest.raises(ValueError, match="tf.ensure_shape"):
        files.map(lambda content: preprocess_input(tf.io.decode_image(content)))
