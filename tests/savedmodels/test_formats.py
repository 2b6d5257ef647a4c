"""Every format predicts what the Keras model predicts, on photographs."""

import dataclasses
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_preact
from keras_preact.named_weights import named_weights, set_named_weights
from keras_preact.preprocessing import Preprocessing, decode_image
from keras_preact.serving.export import export_savedmodel
from savedmodels.c_api import ServedModel
from savedmodels.export import main
from savedmodels.formats import check_scores, export_format
from savedmodels.quantize import main as quantize_main
from savedmodels.runtimes import FORMATS
from tests import nets
from tests.nets import TINY
from tests.savedmodels.files import CLASS_NAMES, PREPROCESSING
from tests.savedmodels.files import pixels as pixels_of

BARE = ["--input-size", "32", "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"]


@pytest.fixture(scope="module")
def photographs(photo):
    """Return parts of a photograph, as files."""
    picture = Image.open(io.BytesIO(photo))
    files = []
    # From only the sky to the whole, so that they differ.
    for side in range(20, 420, 20):
        file = io.BytesIO()
        picture.crop((0, side // 2, side, side // 2 + side)).save(file, "PNG")
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def pixels(photographs):
    return pixels_of(photographs)


@pytest.fixture(scope="module")
def expected(net, pixels):
    probabilities = net.predict(PREPROCESSING.normalize(pixels), verbose=0)
    # A net that says the same of every photograph would show nothing.
    assert np.ptp(probabilities, axis=0).max() > 0.02
    return probabilities


def assert_same(received, expected):
    np.testing.assert_array_equal(received.argmax(1), expected.argmax(1))
    # The unit roundoff of float32, 6e-8, times the root of 3x3x16 products in each layer, and the
    # norms folded into them.
    np.testing.assert_allclose(received, expected, atol=1e-4)


@pytest.mark.numerical
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_other_formats(net, pixels, expected, tmp_path, name):
    file = export_format(
        net, tmp_path / "1", name, preprocessing=PREPROCESSING, class_names=CLASS_NAMES
    )
    predict = FORMATS[name].load(file)
    assert_same(predict(pixels), expected)
    assert_same(predict(pixels[:1]), expected[:1])
    assert_same(predict(pixels[1:2]), expected[1:2])
    assert (tmp_path / "1" / "labels.txt").read_text().splitlines() == CLASS_NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.numerical
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_nets_trained_in_sixteen_bits_are_written_in_float32(policy, tmp_path):
    options = {"architecture": TINY, "input_shape": (32, 32, 3), "classes": len(CLASS_NAMES)}
    trained, same = nets.net(**options, dtype=policy), nets.net(**options)
    set_named_weights(same, named_weights(trained))
    images = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")
    expected = same.predict(PREPROCESSING.normalize(images), verbose=0)
    own = trained.predict(PREPROCESSING.normalize(images), verbose=0)
    # Eight bits of bfloat16, in each of a few layers.
    np.testing.assert_allclose(own.astype("float32"), expected, atol=0.03)
    for name, each in FORMATS.items():
        file = export_format(trained, tmp_path / name, name, preprocessing=PREPROCESSING)
        assert_same(each.load(file)(images), expected)


@pytest.mark.parametrize(
    ("received", "message"),
    [
        (OSError("no such layer"), "does not run: no such layer"),
        (np.zeros((2, 7), "float32"), r"shape \(2, 7\) for an image. Expected: \(1, 7\)"),
        (np.full((1, 7), np.nan, "float32"), "one differs by nan. Expected: 0.001 at most"),
        (np.full((1, 7), 0.002, "float32"), "one differs by 0.002. Expected: 0.001 at most"),
    ],
)
def test_a_runtime_that_gives_other_scores_is_told(received, message):
    def load():
        if isinstance(received, Exception):
            raise received
        return lambda image: received

    with pytest.raises(RuntimeError, match="The onnx file .*" + message):
        check_scores("onnx", load, np.zeros((1, 9)), np.zeros((1, 7)))


def test_a_file_that_its_runtime_cannot_read_is_not_left(net, tmp_path, monkeypatch):
    def load(file):
        assert file.exists()
        raise RuntimeError("invalid graph")

    monkeypatch.setitem(FORMATS, "onnx", dataclasses.replace(FORMATS["onnx"], load=load))
    with pytest.raises(RuntimeError, match="The onnx file does not run: invalid graph"):
        export_format(net, tmp_path / "net" / "1", "onnx", preprocessing=PREPROCESSING)
    assert not (tmp_path / "net").exists()


def test_savedmodel(exported, photographs, pixels, expected):
    model = ServedModel(exported)
    assert_same(model.run({"images": pixels})["probabilities"], expected)
    answer = model.run({"image_bytes": photographs}, "classify")
    assert not any(answer["errors"])
    assert [row[0].decode() for row in answer["classes"]] == [
        CLASS_NAMES[index] for index in expected.argmax(1)
    ]
    model.close()


def _by_tf2onnx(folder, monkeypatch):
    import onnxruntime
    from tf2onnx import convert

    file = str(folder.with_suffix(".onnx"))
    options = ["--saved-model", str(folder), "--signature_def", "single_pass", "--output", file]
    monkeypatch.setattr(sys, "argv", ["tf2onnx", *options])
    convert.main()
    session = onnxruntime.InferenceSession(file)
    return lambda batch: session.run(["probabilities"], {"images": batch})[0]


def _by_tensorflow_lite(folder, monkeypatch):
    from ai_edge_litert.interpreter import Interpreter

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=["single_pass"]
    )
    run = Interpreter(model_content=converter.convert()).get_signature_runner("single_pass")
    return lambda batch: run(images=batch)["probabilities"]


def _by_openvino(folder, monkeypatch):
    import openvino

    loaded = tf.saved_model.load(str(folder))
    model = openvino.convert_model(loaded.signatures["single_pass"])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: compiled(batch)["probabilities"]


@pytest.mark.parametrize("convert", [_by_tf2onnx, _by_tensorflow_lite, _by_openvino])
def test_others_convert_the_savedmodel(convert, exported, pixels, expected, tmp_path, monkeypatch):
    served = ServedModel(exported)
    predict = convert(Path(shutil.copytree(exported, tmp_path / "net")), monkeypatch)
    # A number of images that no loop over parts of a batch divides, and none.
    for count in (1, 5, 0):
        received = predict(pixels[:count])
        assert received.shape == (count, len(CLASS_NAMES))
        if count:
            assert_same(received, expected[:count])
        own = served.run({"images": pixels[:count]}, "single_pass")["probabilities"]
        np.testing.assert_allclose(received, own, atol=1e-5)
    served.close()


@pytest.mark.slow
def test_fifty_layers_in_every_format(photographs, tmp_path):
    """At 224x224, where sums are longer, with statistics that a new net does not have."""
    keras.utils.set_random_seed(0)
    model = keras_preact.PreActResNet50(weights=None)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.normal(0.0, 0.1, variable.shape))
    preprocessing = Preprocessing()

    def batches():
        for start in range(0, len(photographs), 20):
            files = photographs[start : start + 20]
            yield np.stack([preprocessing.resize_and_crop(decode_image(file, 3)) for file in files])

    # Scores near the middle of the softmax, as those of a trained net, tell images apart.
    top = model.get_layer("predictions")
    embed = keras.Model(model.input, model.get_layer("head_pool").output)
    vectors = np.concatenate(
        [embed.predict(preprocessing.normalize(batch), verbose=0) for batch in batches()]
    )
    mean, deviation = vectors.mean(0), vectors.std(0) + 1e-6
    kernel = rng.normal(0, 1, top.kernel.shape) / np.sqrt(len(mean)) / deviation[:, None]
    top.set_weights([kernel, -mean @ kernel])
    expected = np.concatenate(
        [model.predict(preprocessing.normalize(batch), verbose=0) for batch in batches()]
    )
    assert len({*expected.argmax(1)}) > len(expected) // 2
    exported = export_savedmodel(model, tmp_path / "net" / "1", preprocessing=preprocessing)
    served = ServedModel(exported)
    predictors = {"savedmodel": lambda batch: served.run({"images": batch})["probabilities"]}
    for name in FORMATS:
        file = export_format(model, tmp_path / name, name, preprocessing=preprocessing)
        predictors[name] = FORMATS[name].load(file)
    for predict in predictors.values():
        received = np.concatenate([predict(batch) for batch in batches()])
        np.testing.assert_array_equal(received.argmax(1), expected.argmax(1))
        np.testing.assert_allclose(received, expected, atol=1e-3)
    served.close()


def test_a_format_from_the_command_line(net, tmp_path):
    file = tmp_path / "net.keras"
    net.save(file)
    arguments = ["--model", str(file), "--output", str(tmp_path), "--name", "net", *BARE]
    assert main([*arguments, "--format", "onnx"]) == 0
    predict = FORMATS["onnx"].load(tmp_path / "net-onnx" / "1" / "model.onnx")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    half = Preprocessing(input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    np.testing.assert_allclose(
        predict(pixels), net.predict(half.normalize(pixels), verbose=0), atol=1e-4
    )
    assert not (tmp_path / "net").exists()


def test_options_of_another_format(net, tmp_path, capsys):
    arguments = ["--model", "net.keras", "--output", str(tmp_path), "--format", "onnx"]
    assert main([*arguments, "--xla", "--top-k", "3"]) == 2
    assert "--format onnx does not go with --top-k, --xla" in capsys.readouterr().err


def test_a_file_keeps_the_channels_last_whatever_the_setting(tmp_path):
    images = keras.Input((8, 8, 3))
    scores = keras.layers.GlobalAveragePooling2D(data_format="channels_last")(images)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    preprocessing = Preprocessing(input_size=8)
    keras.config.set_image_data_format("channels_first")
    try:
        model = keras.Model(images, scores)
        file = export_format(model, tmp_path / "1", "onnx", preprocessing=preprocessing)
    finally:
        keras.config.set_image_data_format("channels_last")
    wanted = preprocessing.normalize(pixels).numpy().mean(axis=(1, 2))
    np.testing.assert_allclose(FORMATS["onnx"].load(file)(pixels), wanted, atol=1e-5)


def test_gelu_is_written(tmp_path):
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.Activation("gelu")(images))
    preprocessing = Preprocessing(input_size=8)
    file = export_format(model, tmp_path / "1", "onnx", preprocessing=preprocessing)
    pixels = np.linspace(0, 255, 8 * 8 * 3, dtype="float32").reshape(1, 8, 8, 3)
    x = preprocessing.normalize(pixels).numpy()
    # Its definition (arXiv:1606.08415), in float64; float32 rounds numbers below 4 by 2e-7.
    wanted = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    np.testing.assert_allclose(FORMATS["onnx"].load(file)(pixels), wanted, atol=1e-6)


def test_the_one_output_may_be_in_a_dictionary(tmp_path):
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, {"mean": keras.layers.GlobalAveragePooling2D()(images)})
    file = export_format(model, tmp_path / "1", "onnx", preprocessing=Preprocessing(input_size=8))
    assert FORMATS["onnx"].load(file)(np.zeros((1, 8, 8, 3), "float32")).shape == (1, 3)


def test_what_cannot_be_exported(net, tmp_path):
    with pytest.raises(ValueError, match="one of .*'onnx'.*Received: 'coreml'"):
        export_format(net, tmp_path / "1", "coreml", preprocessing=PREPROCESSING)
    with pytest.raises(ValueError, match="7 classes. Received: 1 names"):
        export_format(net, tmp_path / "1", "onnx", preprocessing=PREPROCESSING, class_names=["one"])
    with pytest.raises(FileExistsError, match="must not exist yet"):
        export_format(net, tmp_path, "onnx", preprocessing=PREPROCESSING)
    first = nets.net(
        architecture=TINY, input_shape=(3, 32, 32), data_format="channels_first", randomize=False
    )
    larger = dataclasses.replace(PREPROCESSING, input_size=64)
    for model, preprocessing in ((first, PREPROCESSING), (net, larger)):
        with pytest.raises(ValueError, match="one input, of the shape that `preprocessing` gives"):
            export_format(model, tmp_path / "1", "onnx", preprocessing=preprocessing)


def test_int8(net, photographs, tmp_path, capsys):
    """Most photographs keep their best class, and labeled ones tell the accuracy."""
    export_format(net, tmp_path / "1", "onnx", preprocessing=PREPROCESSING, class_names=CLASS_NAMES)
    folder = tmp_path / CLASS_NAMES[0]
    folder.mkdir()
    files = []
    for index, content in enumerate(photographs):
        files.append(str(folder / f"{index}.image"))
        Path(files[-1]).write_bytes(content)
    (folder / "notes.txt").write_text("no image")
    odd = [str(folder / "notes.txt"), str(folder / "absent.png")]
    assert quantize_main([str(tmp_path / "1"), *odd, *files, "--check", *files, *odd]) == 0
    output, errors = capsys.readouterr()
    size, check = output.splitlines()[-2:]
    assert size.startswith(f"int8: {tmp_path / '1' / 'model.int8.onnx'}, ")
    reasons = ("no image, or a damaged one", "No such file or directory")
    told = [f"{file} is left out: {reason}" for file, reason in zip(odd, reasons, strict=True)]
    assert errors.splitlines()[-4:] == [f"savedmodels.quantize: {each}" for each in told] * 2
    assert quantize_main([str(tmp_path / "1"), *odd]) == 2
    assert "none of the 2 images can be read" in capsys.readouterr().err
    assert (tmp_path / "1" / "model.int8.onnx").exists()
    assert {path.name for path in (tmp_path / "1").iterdir()} == {
        "model.onnx",
        "model.int8.onnx",
        "labels.txt",
        "model.json",
    }
    assert check.startswith(f"{len(files)} images: the same best class in ")
    agreement, float_accuracy, int8_accuracy = (
        float(each) for each in re.findall(r"([\d.]+)%", check)
    )
    assert agreement > 90
    assert abs(float_accuracy - int8_accuracy) <= 100 - agreement + 0.01


def test_int8_of_nothing(tmp_path, capsys, photo):
    assert quantize_main([str(tmp_path), "image.png"]) == 2
    assert "model.json" in capsys.readouterr().err
    card = {"preprocessing": PREPROCESSING.get_config(), "outputs": {"logits": {"kind": "logits"}}}
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "photo.jpg").write_bytes(photo)
    # An older file is kept.
    (tmp_path / "model.int8.onnx").write_bytes(b"older")
    for damaged in (b"damaged", b""):
        (tmp_path / "model.onnx").write_bytes(damaged)
        assert quantize_main([str(tmp_path), str(tmp_path / "photo.jpg")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"ONNX Runtime cannot quantize {tmp_path / 'model.onnx'}: " in line
    assert (tmp_path / "model.int8.onnx").read_bytes() == b"older"
    assert len([*tmp_path.iterdir()]) == 4
