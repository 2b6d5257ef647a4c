"""`python -m savedmodels.predict`: the best classes of each file, and what cannot be read."""

import io
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_preact.preprocessing import Preprocessing, decode_image
from keras_preact.serving.export import export_savedmodel
from savedmodels.predict import main

PREPROCESSING = Preprocessing(input_size=32)


@pytest.fixture(scope="module")
def model(small_net):
    return small_net(classes=10)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """A served model of 10 classes whose highest version is 10, beside an empty version 9."""
    folder = tmp_path_factory.mktemp("served") / "net"
    (folder / "9").mkdir(parents=True)
    names = [f"class {letter}" for letter in "abcdefghij"]
    export_savedmodel(model, folder / "10", preprocessing=PREPROCESSING, class_names=names)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A photograph as JPEG and a gray PNG."""
    folder = tmp_path_factory.mktemp("images")
    photo = (resources.files("sklearn.datasets.images") / "china.jpg").read_bytes()
    (folder / "photo.jpg").write_bytes(photo)
    Image.open(io.BytesIO(photo)).convert("L").save(folder / "gray.png")
    return [folder / "photo.jpg", folder / "gray.png"]


def best(model, image, count):
    """Indices and probabilities of the classes that the Keras model finds most probable."""
    pixels = PREPROCESSING.resize_and_crop(decode_image(image.read_bytes(), PREPROCESSING.channels))
    scores = model.predict(PREPROCESSING.normalize(pixels)[None], verbose=0)[0]
    order = np.argsort(scores)[::-1][:count]
    return order.tolist(), scores[order]


def test_json_holds_the_five_best_classes_of_the_keras_model(model, served, images, capsys):
    assert main([str(served), *map(str, images), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["image"] for result in results] == [str(image) for image in images]
    for image, result in zip(images, results, strict=True):
        indices, scores = best(model, image, 5)
        predictions = result["predictions"]
        assert [row["index"] for row in predictions] == indices
        assert [row["class"] for row in predictions] == [
            f"class {'abcdefghij'[index]}" for index in indices
        ]
        np.testing.assert_allclose([row["probability"] for row in predictions], scores, atol=1e-5)


def test_table_has_a_line_a_class(model, served, images, capsys):
    assert main([str(served / "10"), str(images[0]), str(images[1])]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    title, *rows = first.splitlines()
    assert title == str(images[0])
    (index, *_), (score, *_) = best(model, images[0], 5)
    assert rows[0].split() == ["1", "class", "abcdefghij"[index], f"{score:.2%}"]
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


def test_keras_is_not_needed(served, images):
    program = (
        "import sys; sys.modules['keras'] = None; sys.modules['keras_preact'] = None\n"
        "from savedmodels.predict import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(served), str(images[0])],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(images[0]))
