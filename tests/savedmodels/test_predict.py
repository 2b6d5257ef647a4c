"""`python -m savedmodels.predict`: the best classes of each file, and what cannot be read."""

import io
import json
import shutil
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from keras_preact.preprocessing import decode_image
from keras_preact.serving.export import export_savedmodel
from savedmodels.predict import main
from tests.savedmodels.files import CLASS_NAMES, PREPROCESSING


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """Return a served model whose highest version is 10, beside an empty version 9."""
    folder = tmp_path_factory.mktemp("served") / "net"
    (folder / "9").mkdir(parents=True)
    shutil.copytree(exported, folder / "10")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a photograph as JPEG and a gray PNG."""
    folder = tmp_path_factory.mktemp("images")
    photo = (resources.files("sklearn.datasets.images") / "china.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(photo)
    Image.open(io.BytesIO(photo)).convert("L").save(folder / "gray.png")
    return [folder / "photo.jpg", folder / "gray.png"]


def best(model, image, count):
    """Return indices and probabilities of the classes that the Keras model finds most probable."""
    pixels = PREPROCESSING.resize_and_crop(decode_image(image.read_bytes(), PREPROCESSING.channels))
    scores = model.predict(PREPROCESSING.normalize(pixels)[None], verbose=0)[0]
    order = np.argsort(scores)[::-1][:count]
    return order.tolist(), scores[order]


def test_json_holds_the_five_best_classes_of_the_keras_model(net, served, images, capsys):
    assert main([str(served), *map(str, images), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["image"] for result in results] == [str(image) for image in images]
    for image, result in zip(images, results, strict=True):
        indices, scores = best(net, image, 5)
        predictions = result["predictions"]
        assert [row["index"] for row in predictions] == indices
        assert [row["class"] for row in predictions] == [CLASS_NAMES[index] for index in indices]
        np.testing.assert_allclose([row["probability"] for row in predictions], scores, atol=1e-5)


def test_table_has_a_line_a_class(net, served, images, capsys):
    assert main([str(served / "10"), str(images[0]), str(images[1])]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    title, *rows = first.splitlines()
    assert title == str(images[0])
    (index, *_), (score, *_) = best(net, images[0], 5)
    assert rows[0].split() == ["1", *CLASS_NAMES[index].split(), f"{score:.2%}"]
    assert len(rows) == 5
    assert second.startswith(str(images[1]))


def test_fewer_classes_than_five(small_net, tmp_path, images, capsys):
    export_savedmodel(small_net(classes=3), tmp_path / "1", preprocessing=PREPROCESSING)
    assert main([str(tmp_path), str(images[0]), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert sorted(row["class"] for row in result["predictions"]) == ["0", "1", "2"]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_unreadable_images_are_named_and_the_others_predicted(
    served, images, tmp_path, capsys, options
):
    broken = {
        tmp_path / "missing.jpg": "No such file",
        tmp_path: "Is a directory",
        tmp_path / "empty.png": "not a JPEG, PNG",
        tmp_path / "cut.jpg": "the image is damaged",
    }
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes(images[0].read_bytes()[:2000])
    assert main([str(served), *map(str, [images[0], *broken, images[1]]), *options]) == 1
    output = capsys.readouterr()
    for path, reason in broken.items():
        assert f"{path}: {reason}" in output.err
    if options:
        results = json.loads(output.out)
        assert ["error" in result for result in results] == [False, *[True] * len(broken), False]
    else:
        assert str(images[0]) in output.out and str(images[1]) in output.out


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_missing_model_is_named(tmp_path, images, capsys, name):
    assert main([str(tmp_path / name), str(images[0])]) == 2
    assert f"no SavedModel in {tmp_path / name}" in capsys.readouterr().err


def test_damaged_weights_are_told_in_one_line(exported, images, tmp_path, capsys):
    copy = shutil.copytree(exported, tmp_path / "1")
    (weights,) = (copy / "variables").glob("*.data-*")
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert main([str(tmp_path), str(images[0])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"savedmodels.predict: {copy} is damaged: ")


def test_keras_is_not_needed(without_keras):
    assert without_keras.predicted.startswith(str(without_keras.folder / "0.image"))
