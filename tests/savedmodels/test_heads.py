"""Commands and clients on exports of several labels, of several outputs, and without classes."""

import json
import re
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact.preprocessing import Preprocessing
from keras_preact.serving.export import export_savedmodel
from savedmodels.check import main as check
from savedmodels.client import RequestFailed, connect
from savedmodels.client import main as client_main
from savedmodels.export import main as export
from savedmodels.formats import export_format
from savedmodels.memory import memory_by_stage
from savedmodels.predict import main as predict
from savedmodels.quantize import main as quantize
from savedmodels.runtimes import FORMATS
from savedmodels.server import LocalServer
from tests import forked

PREPROCESSING = Preprocessing(input_size=16, crop_fraction=1.0)
NAMES = ["odd", "low", "prime"]
SHAPE = (16, 16, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
BARE = ["--input-size", "16", "--mean", *["0.5"] * 3, "--std", *["0.5"] * 3]


def head(model, kernel=6.0):
    """Return a model whose scores differ between images and lie on both sides of zero."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            weights, bias = layer.get_weights()
            layer.set_weights([weights * kernel, np.linspace(-1, 1, len(bias))])
    return model


@pytest.fixture(scope="module")
def nets(small_net):
    body = small_net(input_shape=SHAPE, include_top=False, pooling="avg")
    outputs = {
        "digit": keras.layers.Dense(6, "softmax", name="digit")(body.output),
        "marks": keras.layers.Dense(2, "sigmoid", name="marks")(body.output),
    }
    options = {"input_shape": SHAPE, "classes": len(NAMES)}
    return {
        "labels": head(small_net(**options, classifier_activation="sigmoid")),
        "logits": head(small_net(**options, classifier_activation=None)),
        "outputs": head(keras.Model(body.input, outputs)),
        "embedding": body,
    }


@pytest.fixture(scope="module")
def served(nets, tmp_path_factory):
    """Return the folder of a served model of each kind."""
    root = tmp_path_factory.mktemp("served")
    options = {
        "labels": {"class_names": NAMES, "threshold": 0.4},
        "outputs": {"class_names": {"marks": ["up", "down"]}},
        "embedding": {},
    }
    for name, each in options.items():
        export_savedmodel(nets[name], root / name / "1", preprocessing=PREPROCESSING, **each)
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for place, pixels in enumerate(PIXELS):
        (folder / f"{place}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return [str(folder / f"{place}.png") for place in range(len(PIXELS))]


def scores(net):
    outputs = net(PREPROCESSING.normalize(PIXELS.astype("float32")))
    return keras.tree.map_structure(np.asarray, outputs)


def above(probabilities, names, threshold):
    """Return names and probabilities of the labels above a threshold, the likeliest first."""
    order = [place for place in np.argsort(-probabilities) if probabilities[place] > threshold]
    return [names[place] for place in order], probabilities[order]


@pytest.fixture(scope="module", params=["labels", "outputs", "embedding"])
def server(served, request):
    with LocalServer(served / request.param) as server:
        yield server


def clients(server):
    for target in (f"127.0.0.1:{server.port}", f"http://127.0.0.1:{server.rest_port}"):
        client = connect(target, server.name, timeout_s=60)
        yield client
        client.close()


def test_clients_give_what_the_net_says(server, nets, images, capsys):
    wanted = scores(nets[server.name])
    files = [open(image, "rb").read() for image in images]
    for client in clients(server):
        # REST leaves out the name of a signature's only output.
        given = client.predict({"images": PIXELS.astype("float32")})
        names = {"labels": ["probabilities"], "embedding": ["embedding"]}
        assert sorted(given) == names.get(server.name, ["digit", "marks"])
        if server.name == "embedding":
            np.testing.assert_allclose(given["embedding"], wanted, atol=1e-4)
            with pytest.raises(RequestFailed, match="no signature 'classify'; there are"):
                client.classify(files)
            continue
        *answers, failed = client.classify([*files, b"no image"])
        assert set(failed) == {"error"}
        for place, answer in enumerate(answers):
            if server.name == "labels":
                labels, numbers = above(wanted[place], NAMES, 0.4)
            else:
                labels, numbers = above(wanted["marks"][place], ["up", "down"], 0.5)
                digits = np.argsort(-wanted["digit"][place])[:5]
                assert answer["digit"]["classes"] == [str(digit) for digit in digits]
                answer = answer["marks"]
            assert answer["classes"] == labels
            np.testing.assert_allclose(answer["scores"], numbers, atol=1e-4)
    target = f"127.0.0.1:{server.port}"
    status = client_main([target, server.name, *images])
    printed = capsys.readouterr()
    assert status == (2 if server.name == "embedding" else 0)
    assert ("no signature 'classify'" in printed.err) == (server.name == "embedding")
    assert len(printed.out.splitlines()) == (0 if server.name == "embedding" else 3)


def test_labels_differ_between_images(nets):
    counts = (scores(nets["labels"]) > 0.4).sum(axis=1)
    assert 0 < counts.sum() < 9


def test_warm_up_requests_are_answered(served, capsys):
    for name in ("labels", "outputs"):
        assert check([str(served / name)]) == 0
    printed = capsys.readouterr().out
    assert "classify: image_bytes [1] -> classes [1, 3], errors [1], scores [1, 3]" in printed
    assert "digit [1, 6], marks [1, 2]" in printed


def test_predictions_of_labels(served, nets, images, capsys):
    assert predict([str(served / "labels"), *images, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    for answer, given in zip(answers, scores(nets["labels"]), strict=True):
        labels, numbers = above(given, NAMES, 0.4)
        assert [row["class"] for row in answer["predictions"]] == labels
        found = [row["probability"] for row in answer["predictions"]]
        np.testing.assert_allclose(found, numbers, atol=1e-4)
    assert predict([str(served / "labels"), images[0]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + max(
        1, len(above(scores(nets["labels"])[0], NAMES, 0.4)[0])
    )


def test_predictions_of_several_outputs(served, nets, images, capsys):
    assert predict([str(served / "outputs"), images[0], "--json"]) == 0
    ((answer),) = json.loads(capsys.readouterr().out)
    digits = np.argsort(-scores(nets["outputs"])["digit"][0])[:5]
    assert [row["index"] for row in answer["predictions"]["digit"]] == digits.tolist()
    assert predict([str(served / "outputs"), images[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == " digit" and " marks" in lines
    assert re.fullmatch(rf"  1  {digits[0]}  +\d+\.\d\d%", lines[2])


def test_predictions_of_no_classes(served, images, capsys):
    assert predict([str(served / "embedding"), images[0]]) == 2
    assert "tells no classes apart: its signatures give embedding" in capsys.readouterr().err


def test_logits_from_the_command_line(nets, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("savedmodels.export.measured_memory", partial(forked.call, memory_by_stage))
    nets["logits"].save(tmp_path / "net.keras")
    options = ["--model", str(tmp_path / "net.keras"), "--output", str(tmp_path), "--name", "net"]
    half = Preprocessing(input_size=16, mean=(0.5,) * 3, std=(0.5,) * 3, crop_fraction=1.0)
    assert export([*options, *BARE, "--crop-fraction", "1"]) == 0
    assert predict([str(tmp_path / "net"), images[0], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.partition("\n")[2])[0]["predictions"]
    wanted = np.asarray(nets["logits"](half.normalize(PIXELS.astype("float32"))))[0]
    assert [row["index"] for row in answer] == np.argsort(-wanted).tolist()
    np.testing.assert_allclose([row["logit"] for row in answer], np.sort(wanted)[::-1], atol=1e-4)
    assert predict([str(tmp_path / "net"), images[0]]) == 0
    assert f"{wanted.max():7.3f}" in capsys.readouterr().out
    assert export([*options, *BARE, "--threshold", "0.3"]) == 2
    assert "`threshold` is for several labels" in capsys.readouterr().err
    assert export([*options, *BARE, "--format", "onnx", "--threshold", "0.3"]) == 2
    assert "does not go with --threshold" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_other_formats_keep_every_kind(nets, tmp_path, name):
    for kind in ("labels", "logits", "embedding"):
        file = export_format(nets[kind], tmp_path / kind, name, preprocessing=PREPROCESSING)
        received = FORMATS[name].load(file)(PIXELS.astype("float32"))
        np.testing.assert_allclose(received, scores(nets[kind]), atol=1e-3)
        ((_, output),) = json.loads((file.parent / "model.json").read_text())["outputs"].items()
        assert output["kind"] == ("values" if kind == "embedding" else kind)
        assert (file.parent / "labels.txt").exists() == (kind != "embedding")
    with pytest.raises(ValueError, match=f"A file of {name} has one output.*Received: outputs"):
        export_format(nets["outputs"], tmp_path / "outputs", name, preprocessing=PREPROCESSING)


def test_int8_of_every_kind(nets, images, tmp_path, capsys):
    for kind, said in (
        ("labels", r"3 images: the same labels above 0.5 in [\d.]+%, probabilities within 0\.\d+$"),
        ("logits", r"3 images: the same best class in [\d.]+%, logits within \d+\.\d+$"),
        ("embedding", r"3 images: cosine similarity 0\.\d+ on average, 0\.\d+ at least$"),
    ):
        export_format(nets[kind], tmp_path / kind, "onnx", preprocessing=PREPROCESSING)
        assert quantize([str(tmp_path / kind), *images, "--check", *images]) == 0
        assert re.match(said, capsys.readouterr().out.splitlines()[-1])
