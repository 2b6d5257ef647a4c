import io
import json
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from keras import ops
from PIL import Image

import keras_preact
from keras_preact.preprocessing import (
    INTERPOLATIONS,
    Preprocessing,
    Preprocessor,
    decode_image,
    decode_predictions,
    preprocess_input,
)
from keras_preact.weights import catalogue

with warnings.catch_warnings():
    # torchvision says that it runs without its compiled part, as the Makefile installs it.
    warnings.simplefilter("ignore")
    from timm.data import create_transform

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "imagenet-samples.tar"
CROP_FRACTIONS = (0.875, 0.9, 0.95, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# In pixels of 0..1: what rounding in the normalization leaves, far below 1/255.
EXACT = 1e-6
SMALL = Preprocessing(input_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
GRAY = Preprocessing(input_size=16, mean=(0.3,), std=(0.4,), crop_fraction=1.0)


@pytest.fixture(scope="module")
def photographs():
    """Return the encoded photographs, by name."""
    if not PHOTOGRAPHS.exists():
        pytest.skip(f"needs {PHOTOGRAPHS}")
    with tarfile.open(PHOTOGRAPHS) as archive:
        members = [member for member in archive if member.isfile()]
        return {Path(each.name).name: archive.extractfile(each).read() for each in members}


def picture(height=40, width=60, channels=3, seed=0):
    """Return blocks of random colors: edges for bicubic interpolation to overshoot at."""
    shape = (-(-height // 5), -(-width // 5), channels)
    blocks = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return blocks.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def evaluated_by_timm(image, preprocessing):
    """Return a Pillow image as timm evaluates it, channels last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = create_transform(
            input_size=(3, preprocessing.input_size, preprocessing.input_size),
            mean=preprocessing.mean,
            std=preprocessing.std,
            crop_pct=preprocessing.crop_fraction,
            interpolation=preprocessing.interpolation,
            is_training=False,
        )
        return transform(image).permute(1, 2, 0).numpy()


def assert_same_pixels(images, expected, preprocessing):
    """Normalized images, compared in pixels of 0..1."""
    error = np.abs(np.asarray(images, np.float64) - expected) * np.array(preprocessing.std)
    assert error.max() < EXACT


def assert_photographs_are_those_of_timm(contents, preprocessing):
    """By Pillow, and in a graph, from the pixels that Pillow decodes."""
    preprocessor = Preprocessor(preprocessing)
    for content in contents:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        expected = evaluated_by_timm(image, preprocessing)
        assert_same_pixels(preprocessor(content), expected, preprocessing)
        cropped = preprocessing.resize_and_crop(np.asarray(image))
        assert_same_pixels(preprocessing.normalize(cropped), expected, preprocessing)


EVALUATIONS = [
    Preprocessing(
        input_size=size, mean=MEAN, std=STD, crop_fraction=crop, interpolation=interpolation
    )
    for size in (224, 288, 448)
    for crop in CROP_FRACTIONS
    for interpolation in INTERPOLATIONS
]


def test_photographs_are_those_of_timm(photographs):
    """Every photograph once, every kind of evaluation on a few photographs."""
    contents = list(photographs.values())
    for number, preprocessing in enumerate(EVALUATIONS):
        few = contents[number :: len(EVALUATIONS)]
        assert_photographs_are_those_of_timm(few, preprocessing)


@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", EVALUATIONS, ids=str)
def test_all_photographs_are_those_of_timm(photographs, preprocessing):
    assert_photographs_are_those_of_timm(photographs.values(), preprocessing)


def test_images_are_decoded_to_gray_or_colors():
    for channels in (0, 2, 4):
        with pytest.raises(ValueError, match=f"1, for gray, or 3, for RGB. Received: {channels}"):
            decode_image(encoded(picture()), channels)
        with pytest.raises(ValueError, match=f"Received: {channels}"):
            tf.data.Dataset.from_tensors(encoded(picture())).map(
                lambda file, channels=channels: decode_image(file, channels)
            )


def test_photographs_are_decoded_as_pillow_does(photographs):
    for content in photographs.values():
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(decode_image(content, 3), expected)


# Heights and widths: a tall one is resized in another order.
SHAPES = [(1, 1), (1, 90), (33, 32), (31, 37), (64, 64), (200, 71), (1000, 33), (97, 1500)]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop_fraction", [0.9, 1.0])
def test_any_size_is_resized_as_by_timm(crop_fraction, interpolation):
    preprocessing = Preprocessing(
        input_size=33, crop_fraction=crop_fraction, interpolation=interpolation
    )
    for shape in SHAPES:
        pixels = picture(*shape)
        expected = evaluated_by_timm(Image.fromarray(pixels), preprocessing)
        assert_same_pixels(Preprocessor(preprocessing)(pixels), expected, preprocessing)
        in_graph = preprocessing.resize_and_crop(pixels)
        assert_same_pixels(preprocessing.normalize(in_graph), expected, preprocessing)


def test_a_pipeline_gives_what_a_list_gives():
    preprocessor = Preprocessor(SMALL)
    pixels = [picture(seed=seed) for seed in range(3)]
    pipeline = tf.data.Dataset.from_tensor_slices(np.stack(pixels)).map(preprocessor).batch(3)
    np.testing.assert_array_equal(next(iter(pipeline)), preprocessor(pixels))


def test_every_kind_of_image_gives_the_same(tmp_path):
    pixels = picture()
    preprocessor = Preprocessor(SMALL)
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(pixels))
    kinds = [
        path,
        str(path),
        path.read_bytes(),
        Image.fromarray(pixels),
        pixels,
        np.minimum(pixels.astype("float32") + 0.4, 255),
        pixels.astype("int64"),
        pixels.astype("bfloat16"),
        tf.cast(pixels, "bfloat16"),
        tf.constant(pixels),
        ops.convert_to_tensor(pixels),
        torch.tensor(pixels),
    ]
    expected = preprocessor(pixels)
    assert expected.shape == (16, 16, 3)
    assert expected.dtype == np.float32
    for image in kinds:
        np.testing.assert_array_equal(preprocessor(image), expected)
    batch = preprocessor(kinds)
    assert isinstance(batch, np.ndarray)
    np.testing.assert_array_equal(batch, np.stack([expected] * len(kinds)))
    np.testing.assert_array_equal(preprocessor(np.stack([pixels, pixels])), batch[:2])
    np.testing.assert_array_equal(
        preprocessor(torch.tensor(pixels).expand(2, -1, -1, -1)), batch[:2]
    )


def test_images_of_different_sizes_in_one_list():
    pixels = [picture(20, 30), picture(50, 17), picture(16, 16)]
    batch = Preprocessor(SMALL)(pixels)
    for image, each in zip(pixels, batch, strict=True):
        np.testing.assert_array_equal(each, Preprocessor(SMALL)(image))


def test_channels_first():
    pixels = picture()
    expected = np.moveaxis(Preprocessor(SMALL)(pixels), -1, 0)
    preprocessor = Preprocessor(SMALL, data_format="channels_first")
    np.testing.assert_allclose(preprocessor(pixels), expected, atol=1e-6)
    np.testing.assert_allclose(preprocessor([pixels, pixels])[1], expected, atol=1e-6)
    np.testing.assert_allclose(tf.function(preprocessor)(pixels), expected, atol=1e-6)


SAVED = {
    "gray": (Image.fromarray(picture(channels=1)[..., 0]), "PNG"),
    "gray with alpha": (Image.fromarray(picture()).convert("LA"), "PNG"),
    "alpha": (Image.fromarray(picture(channels=4), "RGBA"), "PNG"),
    "palette": (Image.fromarray(picture()).convert("P"), "PNG"),
    "16 bits": (Image.fromarray(picture(channels=1)[..., 0].astype(np.uint16) * 257), "PNG"),
    "1 bit": (Image.fromarray(picture(channels=1)[..., 0]).convert("1"), "PNG"),
    "gif": (Image.fromarray(picture()).convert("P"), "GIF"),
    "bmp": (Image.fromarray(picture()), "BMP"),
    "jpeg": (Image.fromarray(picture()), "JPEG"),
    "progressive jpeg": (Image.fromarray(picture()), "JPEG"),
    "gray jpeg": (Image.fromarray(picture(channels=1)[..., 0]), "JPEG"),
}


@pytest.mark.parametrize("preprocessing", [SMALL, GRAY], ids=["color", "gray"])
@pytest.mark.parametrize("kind", SAVED)
def test_files_give_the_same_in_a_graph(kind, preprocessing):
    image, suffix = SAVED[kind]
    content = encoded(image, suffix, **({"progressive": True} if "progr" in kind else {}))
    in_graph = preprocessing.resize_and_crop(decode_image(content, preprocessing.channels))
    np.testing.assert_array_equal(
        Preprocessor(preprocessing)(content), preprocessing.normalize(in_graph)
    )


def test_files_are_turned_upright():
    image, exif = Image.fromarray(picture()), Image.Exif()
    exif[0x0112] = 6  # The camera was held with its right side up.
    np.testing.assert_array_equal(
        Preprocessor(SMALL)(encoded(image, exif=exif)),
        Preprocessor(SMALL)(image.transpose(Image.Transpose.ROTATE_270)),
    )


def test_config_holds_everything():
    preprocessor = Preprocessor(GRAY, data_format="channels_first")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(preprocessor)))
    other = keras.saving.deserialize_keras_object(config)
    assert other.preprocessing == GRAY
    assert other.data_format == "channels_first"


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (picture(channels=1), ValueError, r"shape \(height, width, 3\).*\(40, 60, 1\)"),
        (picture()[0], ValueError, r"\(60, 3\)"),
        (picture()[:0], ValueError, r"\(0, 60, 3\)"),
        (picture() / 255, ValueError, "scaled to 0..1 already.*float64"),
        ((picture() / 255).astype("bfloat16"), ValueError, "scaled to 0..1 already.*bfloat16"),
        (picture() * 1j, TypeError, "Received: ndarray of dtype complex128"),
        (picture().astype("int32") - 128, ValueError, "in 0..255. Received: -1"),
        (np.full((8, 8, 3), np.nan), ValueError, "in 0..255. Received: nan"),
        (np.full((8, 8, 3), "a"), TypeError, "Received: ndarray of dtype <U1"),
        (3, TypeError, "Received: int"),
        (keras.Input((8, 3), 8), TypeError, "Received: KerasTensor"),
        (b"", ValueError, "Not a readable image: 0 bytes"),
        (b"text", ValueError, "Not a readable image: 4 bytes"),
        (
            encoded(picture(), "JPEG")[:600],
            ValueError,
            "Not a readable image: 600 bytes.*[Tt]runcated",
        ),
        ("missing.jpg", FileNotFoundError, "missing.jpg"),
        (Image.fromarray(picture()[..., 0].astype("float32")), ValueError, "mode 'F'"),
        ([], ValueError, "one image or more"),
        ([picture(), b"text"], ValueError, "Image 1 of 2: Not a readable image"),
    ],
)
def test_what_is_no_image_is_refused(image, error, message):
    with pytest.raises(error, match=message):
        Preprocessor(SMALL)(image)


def test_preprocessor_needs_an_entry():
    with pytest.raises(ValueError, match="name the entry.*'imagenet'"):
        Preprocessor("imagenet")
    with pytest.raises(TypeError, match="Received: 224"):
        Preprocessor(224)
    with pytest.raises(ValueError, match="Received: 'NHWC'"):
        Preprocessor(SMALL, data_format="NHWC")


def test_entries_bring_their_preprocessing():
    for entry in catalogue.list_weights():
        assert Preprocessor(entry.name).preprocessing == entry.preprocessing
        images = preprocess_input(picture(), weights=entry.name)
        np.testing.assert_array_equal(images, entry.preprocessing.normalize(picture()))
    with pytest.raises(ValueError, match="resnetv2_7"):
        preprocess_input(picture(), weights="resnetv2_7")


def test_a_data_set_means_what_the_builders_load():
    np.testing.assert_array_equal(
        preprocess_input(picture()), preprocess_input(picture(), weights="imagenet")
    )
    for dataset in catalogue.DATASETS:
        entries = [catalogue.best_weights(name, dataset) for name in keras_preact.BUILDERS]
        assert any(entries)
        for entry in filter(None, entries):
            np.testing.assert_array_equal(
                preprocess_input(picture(), weights=entry.name),
                preprocess_input(picture(), weights=dataset),
            )


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("batch", [False, True])
def test_preprocess_input_is_that_of_keras(dtype, batch):
    pixels = picture().astype(dtype)
    pixels = pixels[np.newaxis] if batch else pixels
    given = pixels.copy()
    # The net of this name takes pixels scaled to -1..1.
    expected = keras.applications.resnet_v2.preprocess_input(pixels.astype("float32"))
    images = preprocess_input(pixels)
    assert isinstance(images, np.ndarray)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected, atol=1e-6)
    np.testing.assert_array_equal(pixels, given)
    tensor = preprocess_input(ops.convert_to_tensor(pixels))
    assert ops.is_tensor(tensor)
    np.testing.assert_allclose(tensor, expected, atol=1e-6)
    assert keras_preact.preprocess_input is preprocess_input


def test_preprocess_input_of_a_preprocessing():
    preprocessing = Preprocessing(mean=MEAN, std=STD)
    images = preprocess_input(picture(), weights=preprocessing)
    expected = (picture() / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    first = preprocess_input(np.moveaxis(picture(), -1, 0), "channels_first", weights=preprocessing)
    np.testing.assert_allclose(first, np.moveaxis(expected, -1, 0), atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("count", [0, 2])
def test_normalization_is_the_same_whatever_a_graph_knows_of_the_shape(dtype, count):
    """Rows of a known width are scaled at once, other images a pixel at a time."""
    normalize = Preprocessing(mean=MEAN, std=STD).normalize
    images = np.stack([picture()] * count or [picture()])[:count].astype(dtype)
    expected = normalize(images)
    np.testing.assert_allclose(expected, (images / 255 - np.array(MEAN)) / STD, atol=1e-5)
    for shape in (None, [None, None, None, 3], [None, None, 60, 3], [None, 40, 60, 3]):
        graph = tf.function(normalize).get_concrete_function(tf.TensorSpec(shape, dtype))
        assert graph.outputs[0].shape.is_compatible_with(tf.TensorShape(shape))
        np.testing.assert_array_equal(graph(tf.constant(images)), expected)


def test_a_channel_is_normalized_by_every_mean_where_there_are_more():
    images = picture(channels=1)[np.newaxis, :6]
    expected = (images / 255 - np.array(MEAN)) / STD
    normalized = Preprocessing(mean=MEAN, std=STD).normalize(images)
    np.testing.assert_allclose(normalized, expected, atol=1e-5)


def test_preprocess_input_inside_a_model_and_a_pipeline():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, preprocess_input(inputs))
    expected = preprocess_input(picture()[np.newaxis])
    np.testing.assert_array_equal(model(picture()[np.newaxis]), expected)
    pipeline = tf.data.Dataset.from_tensors(picture()).map(preprocess_input)
    np.testing.assert_array_equal(next(iter(pipeline)), expected[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((picture()[0],), ValueError, r"one image or a batch.*\(60, 3\)"),
        ((picture(channels=1),), ValueError, r"3 channel\(s\) in 'channels_last'.*\(40, 60, 1\)"),
        ((picture(), "channels_first"), ValueError, r"'channels_first'.*\(40, 60, 3\)"),
        ((picture(), "resnetv2_50"), ValueError, "by keyword: .*'resnetv2_50'"),
        ((np.full((4, 4, 3), "a"),), TypeError, "dtype <U1"),
    ],
)
def test_preprocess_input_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        preprocess_input(*arguments)


def test_predictions_are_named_as_the_photographs_are(photographs):
    """The files are named IDENTIFIER_NAME; the classes follow the order of the identifiers."""
    names = [name.removesuffix(".JPEG").split("_", 1) for name in photographs]
    known = [row for (row,) in decode_predictions(np.eye(1000), top=1)]
    assert [row[0] for row in known] == sorted({row[0] for row in known})
    places = [index for index, row in enumerate(known) if [*row[:2]] in names]
    assert len(places) == len(names) == 100


def test_predictions_come_best_first():
    scores = np.zeros((2, 1000), np.float32)
    scores[0, [1, 0, 999]] = 0.5, 0.3, 0.2
    scores[1, 207] = 1
    first, second = decode_predictions(ops.convert_to_tensor(scores), top=3)
    assert [row[:2] for row in first] == [
        ("n01443537", "goldfish"),
        ("n01440764", "tench"),
        ("n15075141", "toilet_tissue"),
    ]
    assert [row[2] for row in first] == [np.float32(each) for each in (0.5, 0.3, 0.2)]
    assert second[0] == ("n02099601", "golden_retriever", 1.0)
    assert [len(row) for row in decode_predictions(scores)] == [5, 5]
    assert keras_preact.decode_predictions is decode_predictions
    (cifar,) = decode_predictions(np.eye(10)[9:], top=2, weights="cifar10")
    assert cifar == [("9", "truck", 1.0), ("0", "airplane", 0.0)]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "float16", "bfloat16", "bool"])
def test_predictions_of_any_dtype_come_best_first(dtype):
    """The least integer has no opposite, and of equals the first comes first."""
    dtype = np.dtype(dtype)
    lowest = -128 if dtype.kind == "i" else 0
    scores = np.array([[lowest, 1, 0, 1, lowest, 127, 0, 1, 1, 1]], "float32").astype(dtype)
    order = [row[0] for row in decode_predictions(scores, top=10, weights="cifar10")[0]]
    assert order == [*map(str, sorted(range(10), key=lambda place: -float(scores[0, place])))]


@pytest.mark.parametrize(
    ("shape", "top", "message"),
    [
        ((1000,), 5, r"\(batch, 1000\).*\(1000,\)"),
        ((2, 10), 5, r"\(2, 10\)"),
        ((2, 1000), 0, "1..1000. Received: 0"),
        ((2, 1000), 1001, "1..1000. Received: 1001"),
    ],
)
def test_decode_predictions_refuses(shape, top, message):
    with pytest.raises(ValueError, match=message):
        decode_predictions(np.zeros(shape), top=top)
    with pytest.raises(ValueError, match="NaN"):
        decode_predictions(np.full((1, 1000), np.nan))
    with pytest.raises(ValueError, match=r"\(batch, 10\).*'cifar10'` knows.*\(1, 1000\)"):
        decode_predictions(np.zeros((1, 1000)), weights="cifar10")
    with pytest.raises(ValueError, match="'imagenet' or 'cifar10'. Received: 'cifar100'"):
        decode_predictions(np.zeros((1, 100)), weights="cifar100")


def test_the_wheel_holds_the_data_files(tmp_path):
    """The build that makes a wheel of the package takes the data files along."""
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
    )
    data = tmp_path / "lib" / "keras_preact" / "data"
    held = {path.name for path in data.iterdir()}
    assert held == {path.name for path in (root / "keras_preact" / "data").iterdir()}
    weights = {f"preactresnet{depth}_cifar10.weights.h5" for depth in (20, 164)}
    assert held >= {"imagenet_classes.tsv", *weights}
