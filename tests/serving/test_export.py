"""`export_savedmodel`: the SavedModel gives what the Keras model gives, and fails early."""

import hashlib
import io
import json
import sys
import tarfile
from importlib import resources
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_preact
from keras_preact.preprocessing import Preprocessing, decode_image
from keras_preact.serving.export import export_savedmodel
from keras_preact.serving.signatures import constants_pay
from tests.nets import scores
from tests.numerics import NET, net_tolerance

PHOTOS = [
    (resources.files("sklearn.datasets.images") / name).read_bytes()
    for name in ("china.jpg", "flower.jpg")
]
SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "imagenet-samples.tar"
COLOR = Preprocessing(input_size=32)
GRAY = Preprocessing(input_size=32, mean=(0.3,), std=(0.4,), crop_fraction=1.0)
OPTIONS = {"input_shape": (32, 32, 3), "classes": 7}
ABOUT = {"licence": "Apache-2.0", "metrics": {"top1": 0.9, "images": np.int64(50)}}


@pytest.fixture(scope="module")
def model(small_net):
    return small_net(**OPTIONS)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "1"
    names = [f"class {index}" for index in range(7)]
    return export_savedmodel(model, path, preprocessing=COLOR, class_names=names)


@pytest.fixture(scope="module")
def described(model, tmp_path_factory):
    """Return an export without class names, of which something is known, for any size."""
    path = tmp_path_factory.mktemp("described") / "1"
    options = {"image_dtype": "uint8", "any_size": True, "top_k": 9, "about": ABOUT}
    return export_savedmodel(model, path, preprocessing=COLOR, **options)


@pytest.fixture(scope="module")
def signatures(exported):
    loaded = tf.saved_model.load(str(exported))
    # A signature does not keep its model alive.
    yield loaded.signatures
    del loaded


def encoded(image, file_format):
    """Return a PIL image as the content of a file."""
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def pixels(file, channels):
    image = np.asarray(Image.open(io.BytesIO(file)).convert({1: "L", 3: "RGB"}[channels]))
    return image.reshape(*image.shape[:2], channels)


def expected(model, preprocessing, files):
    """Return the Keras model's probabilities of image files."""
    images = [pixels(file, preprocessing.channels) for file in files]
    batch = tf.stack([preprocessing.resize_and_crop(image) for image in images])
    return scores(model, preprocessing.normalize(batch))


def probabilities(signatures, files):
    return signatures["serving_bytes"](image_bytes=tf.constant(files, tf.string))["probabilities"]


@pytest.mark.parametrize("batch", [0, 1, 2, 5, 67])
def test_image_signature_equals_the_model(model, signatures, batch):
    images = np.random.default_rng(0).uniform(0, 255, (batch, 32, 32, 3)).astype("float32")
    served = signatures["serving_default"](images=tf.constant(images))["probabilities"]
    assert served.shape == (batch, 7)
    if batch:
        wanted = scores(model, COLOR.normalize(images))
        np.testing.assert_allclose(served, wanted, atol=NET)


def test_outputs_tell_images_apart(signatures):
    first, second = probabilities(signatures, PHOTOS).numpy()
    assert np.abs(first - second).max() > 1e-3


def test_bytes_signature_equals_the_model_on_photographs(model, signatures):
    files = [encoded(Image.open(io.BytesIO(photo)), "PNG") for photo in PHOTOS] + PHOTOS
    np.testing.assert_allclose(
        probabilities(signatures, files), expected(model, COLOR, files), atol=NET
    )


def test_bytes_signature_equals_the_model_on_imagenet_samples(model, signatures):
    if not SAMPLES.exists():
        pytest.skip(f"needs {SAMPLES.name} in ../shared/data")
    with tarfile.open(SAMPLES) as archive:
        members = [member for member in archive.getmembers() if member.isfile()][:8]
        files = [archive.extractfile(member).read() for member in members]
    np.testing.assert_allclose(
        probabilities(signatures, files), expected(model, COLOR, files), atol=NET
    )


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        ("JPEG", "L"),
        ("JPEG", "RGB"),
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("WEBP", "RGB"),
    ],
)
def test_every_kind_of_file_is_read(model, signatures, file_format, mode):
    image = Image.open(io.BytesIO(PHOTOS[0])).resize((60, 40)).convert(mode)
    file = encoded(image, file_format)
    np.testing.assert_allclose(
        probabilities(signatures, [file]), expected(model, COLOR, [file]), atol=NET
    )


def test_net_of_one_channel_reads_color_and_gray(small_net, tmp_path):
    model = small_net(**{**OPTIONS, "input_shape": (32, 32, 1)})
    path = export_savedmodel(model, tmp_path / "1", preprocessing=GRAY)
    loaded = tf.saved_model.load(str(path))
    photo = Image.open(io.BytesIO(PHOTOS[1])).resize((48, 40))
    digit = Image.fromarray(np.arange(256, dtype="uint8").reshape(16, 16))
    files = [encoded(image, "PNG") for image in (photo, photo.convert("L"), digit)]
    np.testing.assert_allclose(
        probabilities(loaded.signatures, files), expected(model, GRAY, files), atol=NET
    )


def test_gray_levels_survive_decoding():
    levels = np.arange(256, dtype="uint8").reshape(16, 16, 1)
    assert (decode_image(tf.io.encode_png(levels), 1).numpy() == levels).all()


def test_net_without_a_size_takes_images_of_any(small_net, tmp_path):
    model = small_net(**{**OPTIONS, "input_shape": (None, None, 3)})
    path = export_savedmodel(model, tmp_path / "1", preprocessing=COLOR)
    loaded = tf.saved_model.load(str(path))
    images = np.random.default_rng(0).uniform(0, 255, (2, 40, 24, 3)).astype("float32")
    served = loaded.signatures["serving_default"](images=tf.constant(images))["probabilities"]
    wanted = scores(model, COLOR.normalize(images))
    np.testing.assert_allclose(served, wanted, atol=NET)
    np.testing.assert_allclose(
        probabilities(loaded.signatures, PHOTOS), expected(model, COLOR, PHOTOS), atol=NET
    )


@pytest.mark.numerical
def test_mixed_precision_serves_float32(model, small_net, tmp_path):
    half = small_net(**OPTIONS, dtype="mixed_bfloat16")
    path = export_savedmodel(half, tmp_path / "1", preprocessing=COLOR)
    loaded = tf.saved_model.load(str(path))
    served = probabilities(loaded.signatures, PHOTOS)
    assert served.dtype == tf.float32
    # `model` has the same weights in float32. Probabilities move by less than half as far as the
    # scores before the softmax (see `net_tolerance`).
    np.testing.assert_allclose(served, expected(model, COLOR, PHOTOS), atol=0.02)


def test_signatures_say_what_they_take_and_give(signatures):
    shapes = {
        "serving_default": {"probabilities": (None, 7)},
        "single_pass": {"probabilities": (None, 7)},
        "serving_bytes": {"probabilities": (None, 7), "errors": (None,)},
        "classify": {"classes": (None, 5), "scores": (None, 5), "errors": (None,)},
        "features": {
            "stage2": (None, 32, 32, 8),
            "stage3": (None, 16, 16, 16),
            "embedding": (None, 16),
            "errors": (None,),
        },
    }
    assert set(signatures) == set(shapes)
    for name, function in signatures.items():
        assert {key: tuple(each) for key, each in function.output_shapes.items()} == shapes[name]
        _, inputs = function.structured_input_signature
        if name in ("serving_default", "single_pass"):
            assert inputs == {"images": tf.TensorSpec((None, 32, 32, 3), tf.float32, "images")}
        else:
            assert inputs == {"image_bytes": tf.TensorSpec((None,), tf.string, "image_bytes")}


def test_labels_and_preprocessing_are_stored(exported):
    lines = (exported / "assets" / "labels.txt").read_text().splitlines()
    assert lines == [f"class {index}" for index in range(7)]
    card = json.loads((exported / "assets.extra" / "model.json").read_text())
    assert Preprocessing(**card["preprocessing"]) == COLOR


def test_labels_are_indices_by_default(described):
    assert (described / "assets" / "labels.txt").read_text().splitlines() == list("0123456")


def test_a_failing_export_leaves_nothing_behind(model, tmp_path):
    # The labels are the last but one thing written, and half a surrogate pair has no UTF-8 form.
    names = [*"abcdef", "\ud800"]
    with pytest.raises(UnicodeEncodeError):
        export_savedmodel(model, tmp_path / "1", preprocessing=COLOR, class_names=names)
    assert list(tmp_path.iterdir()) == []


def test_an_export_leaves_its_folder_alone(exported):
    assert list(exported.parent.iterdir()) == [exported]


def test_existing_path_is_kept(model, tmp_path):
    with pytest.raises(FileExistsError, match="must not exist yet"):
        export_savedmodel(model, tmp_path, preprocessing=COLOR)


@pytest.mark.parametrize(
    ("options", "preprocessing", "message"),
    [
        ({"include_top": False}, COLOR, "one output .*Received: outputs"),
        ({}, Preprocessing(input_size=64), r"\(None, 64, 64, 3\).*\(None, 32, 32, 3\)"),
        ({}, GRAY, r"\(None, 32, 32, 1\).*\(None, 32, 32, 3\)"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(small_net, tmp_path, options, preprocessing, message):
    model = small_net(**OPTIONS, **options)
    with pytest.raises(ValueError, match=message):
        export_savedmodel(model, tmp_path / "1", preprocessing=preprocessing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "7 classes. Received: 2 names"),
        ([*"abcdef", "two\nlines"], "one line of text. Received: 'two"),
        ([*"abcdef", ""], "one line of text. Received: ''"),
        # As `readlines()` gives them.
        ([f"{name}\n" for name in "abcdefg"], r"one line of text. Received: 'a\\n'"),
        ([*"abcdef", "cat\x85"], r"one line of text. Received: 'cat\\x85'"),
        ([*range(7)], "one line of text. Received: 0"),
        ([b"cat", *"bcdefg"], "one line of text. Received: b'cat'"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(model, tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        export_savedmodel(model, tmp_path / "1", preprocessing=COLOR, class_names=names)


def test_only_keras_models_are_exported(tmp_path):
    with pytest.raises(TypeError, match="keras.Model. Received: Dense"):
        export_savedmodel(keras.layers.Dense(3), tmp_path / "1", preprocessing=COLOR)


def test_a_model_not_built_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"one input.*Received: inputs \[\]"):
        export_savedmodel(model, tmp_path / "1", preprocessing=COLOR)


def test_a_fixed_number_of_images_is_refused(tmp_path):
    images = keras.Input(batch_shape=(1, 32, 32, 3))
    scores = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(images))
    with pytest.raises(ValueError, match=r"fixed batch size.*inputs \[\(1, 32, 32, 3\)\]"):
        export_savedmodel(keras.Model(images, scores), tmp_path / "1", preprocessing=COLOR)


def test_preprocessing_has_its_type(model, tmp_path):
    with pytest.raises(TypeError, match="must be a Preprocessing. Received: dict"):
        export_savedmodel(model, tmp_path / "1", preprocessing=COLOR.get_config())


def test_other_backends_are_told_what_to_do(model, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow.*'jax'"):
        export_savedmodel(model, tmp_path / "1", preprocessing=COLOR)


# Options of an export.


def export(model, tmp_path, **options):
    path = export_savedmodel(model, tmp_path / "1", preprocessing=COLOR, **options)
    return tf.saved_model.load(str(path))


@pytest.mark.parametrize(
    ("options", "freeze", "atol"),
    [
        ({"fold": np.False_, "freeze": np.True_}, True, 1e-5),
        ({"dtype": "bfloat16"}, True, 0.02),
        ({"dtype": "bfloat16", "freeze": False}, False, 0.02),
        ({"jit_compile": True}, False, 1e-4),
    ],
    ids=str,
)
def test_options_do_not_change_the_answers(model, tmp_path, options, freeze, atol):
    loaded = export(model, tmp_path, **options)
    served = probabilities(loaded.signatures, PHOTOS)
    np.testing.assert_allclose(served, expected(model, COLOR, PHOTOS), atol=atol)
    described = json.loads((tmp_path / "1" / "assets.extra" / "model.json").read_text())["export"]
    assert {**options, "freeze": freeze}.items() <= described.items()
    variables = tmp_path / "1" / "variables" / "variables.data-00000-of-00001"
    assert (variables.stat().st_size > weights_in_use(model, options)) == (not freeze)


def weights_in_use(model, options):
    """Return the bytes of the weights that an export needs: rounded, and without statistics."""
    bytes_of_convolutions = 2 if "dtype" in options else 4
    return bytes_of_convolutions * sum(
        layer.count_params()
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    )


def test_images_of_any_size_as_bytes(model, described):
    loaded = tf.saved_model.load(str(described))
    serve = loaded.signatures["serving_default"]
    image = pixels(encoded(Image.open(io.BytesIO(PHOTOS[0])), "PNG"), 3)
    np.testing.assert_allclose(
        serve(images=tf.constant(np.stack([image, image])))["probabilities"],
        np.repeat(expected(model, COLOR, [encoded(Image.fromarray(image), "PNG")]), 2, axis=0),
        atol=NET,
    )
    assert loaded.signatures["classify"].output_shapes["scores"] == (None, 7)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(?s)a height and a width.*\[2 0 5 3"
    ):
        serve(images=tf.zeros((2, 0, 5, 3), "uint8"))
    assert serve(images=tf.zeros((0, 0, 5, 3), "uint8"))["probabilities"].shape == (0, 7)


def test_the_card_tells_what_is_known(model, described):
    card = json.loads((described / "assets.extra" / "model.json").read_text())
    assert card["architecture"]["parameters"] == model.count_params()
    assert card["licence"] == "Apache-2.0" and card["training"] is None
    assert set(card["signatures"]) == {
        *("serving_default", "single_pass", "serving_bytes", "classify", "features")
    }
    for name, digest in card["files_sha256"].items():
        assert hashlib.sha256((described / name).read_bytes()).hexdigest() == digest
    text = (described / "assets.extra" / "README.md").read_text()
    assert "- Licence: Apache-2.0" in text and "- Metrics: top1 0.9, images 50" in text
    assert "- Training: not stated" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_dtype": "int8"}, "`image_dtype` must be one of .*Received: 'int8'"),
        ({"dtype": "int8"}, "`dtype` must be one of"),
        ({"top_k": 0}, r"`top_k` must be 1 or more. Received: \[0\]"),
        ({"warm_up_batch_sizes": (1, 0)}, "`warm_up_batch_sizes` must be 1 or more"),
        ({"about": {"license": "MIT"}}, r"may have the names .*Received: \['license'\]"),
        (
            {"about": {"metrics": {1, 2}}},
            r"`about` must hold .*Received: .*\{1, 2\}",
        ),
    ],
)
def test_options_that_do_not_exist(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_to_be_constants(model, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_preact.serving.signatures._MAX_FROZEN_BYTES", 1000)
    with pytest.raises(ValueError, match="`freeze` must be False .* more than 1,000 bytes"):
        export(model, tmp_path, freeze=True)


def test_weights_of_16_bits_are_constants_where_they_can_be(small_net, monkeypatch):
    half = small_net(**OPTIONS, dtype="mixed_bfloat16")
    assert constants_pay(half)
    monkeypatch.setattr("keras_preact.serving.signatures._MAX_FROZEN_BYTES", 1000)
    assert not constants_pay(half)


def test_folded_weights_of_16_bits_take_16_bits(small_net, tmp_path):
    half = small_net(**OPTIONS, dtype="mixed_bfloat16")
    sizes = {}
    for fold in (False, True):
        path = tmp_path / str(fold)
        export_savedmodel(half, path, preprocessing=COLOR, fold=fold, warm_up_batch_sizes=())
        text = (path / "assets.extra" / "model.json").read_text()
        sizes[fold] = json.loads(text)["memory"]["weights_bytes"]
    assert sizes[True] < 0.6 * sizes[False]


def test_warm_up_needs_the_servers_definitions(tmp_path, monkeypatch):
    model = of_another_kind()
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.prediction_log_pb2", None)
    with pytest.raises(ImportError, match="pip install tensorflow-serving-api"):
        export(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    export_savedmodel(model, tmp_path / "1", preprocessing=COLOR, warm_up_batch_sizes=())
    assert not [*tmp_path.rglob("*warmup*")]


def of_another_kind():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def test_a_net_of_another_kind_has_no_features(tmp_path):
    loaded = export(of_another_kind(), tmp_path)
    assert set(loaded.signatures) == {
        *("serving_default", "single_pass", "serving_bytes", "classify")
    }


def test_a_quantized_net_is_served_from_constants_in_16_bits(tmp_path):
    model = of_another_kind()
    model.layers[-1].quantize("int8")
    loaded = export(model, tmp_path, dtype="bfloat16", warm_up_batch_sizes=())
    np.testing.assert_allclose(
        probabilities(loaded.signatures, PHOTOS), expected(model, COLOR, PHOTOS), atol=0.02
    )


def test_stacked_units_in_another_precision_unfolded(tmp_path):
    architecture = keras_preact.Architecture(
        units=(3,), channels=(8,), strides=(1,), stem="cifar", stem_channels=8, scan_units=True
    )
    model = keras_preact.PreActResNet(architecture, weights=None, classes=3)
    loaded = export(model, tmp_path, fold=False, dtype="float16")
    np.testing.assert_allclose(
        probabilities(loaded.signatures, PHOTOS), expected(model, COLOR, PHOTOS), atol=0.01
    )


def averaged(small_net):
    x = keras.Input((32, 32, 3))
    nets = [small_net(seed, name=name, **OPTIONS) for seed, name in enumerate("ab")]
    return keras.Model(x, keras.layers.Average()([each(x) for each in nets]))


def sequential(small_net):
    body = small_net(include_top=False, pooling="avg", input_shape=(32, 32, 3))
    head = keras.layers.Dense(7, activation="softmax")
    return keras.Sequential([keras.Input((32, 32, 3)), body, head])


def normalizing(small_net):
    inputs = keras_preact.preprocess_input(keras.Input((32, 32, 3)), weights=COLOR)
    return small_net(input_tensor=inputs, classes=7)


@pytest.mark.parametrize("build", [averaged, sequential, normalizing])
def test_what_is_built_from_nets_is_served_in_any_precision(build, small_net, tmp_path):
    model = build(small_net)
    loaded = export(model, tmp_path, dtype="bfloat16", warm_up_batch_sizes=())
    wanted = expected(model, COLOR, PHOTOS)
    np.testing.assert_allclose(
        probabilities(loaded.signatures, PHOTOS), wanted, atol=net_tolerance("bfloat16")
    )
    unfolded = tmp_path / "unfolded"
    export_savedmodel(model, unfolded, preprocessing=COLOR, fold=False, warm_up_batch_sizes=())
    signatures = tf.saved_model.load(str(unfolded)).signatures
    np.testing.assert_allclose(probabilities(signatures, PHOTOS), wanted, atol=NET)
