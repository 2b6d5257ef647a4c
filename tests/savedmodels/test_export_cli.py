"""`python -m savedmodels.export`: what is read, where it is written, and what stops it."""

import contextlib
import io
import json
import sys
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact.preprocessing import Preprocessing
from keras_preact.serving.export import export_savedmodel
from savedmodels import export
from savedmodels.export import main
from savedmodels.memory import memory_by_stage
from savedmodels.predict import main as predict
from savedmodels.versions import version_folder, versions
from tests import forked
from tests.full_disk import full_disk
from training.trained import Trained

PREPROCESSING = Preprocessing(input_size=16, mean=(0.3,), std=(0.4,), crop_fraction=1.0)
CLASS_NAMES = ["zero", "one", "two"]
HISTORY = [{"epoch": 1, "val_top1": 0.75}, {"epoch": 2, "val_top1": 0.5}]
NET = {"input_shape": (16, 16, 1), "classes": len(CLASS_NAMES), "name": "small"}
OPTIONS = ["--input-size", "16", "--mean", "0.3", "--std", "0.4"]


@pytest.fixture(scope="module")
def run(small_net, tmp_path_factory):
    """Return the parts of a training run's folder that an export reads."""
    folder = tmp_path_factory.mktemp("run")
    small_net(1, **NET).save(folder / "model.keras")
    small_net(2, **NET).save(folder / "best.keras")
    record = {
        "status": "finished",
        "class_names": CLASS_NAMES,
        "preprocessing": PREPROCESSING.get_config(),
        "history": HISTORY,
        "best": HISTORY[0],
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def bare(run, tmp_path_factory):
    """Return a model file that lies in no run."""
    path = tmp_path_factory.mktemp("bare") / "net.keras"
    path.write_bytes((run / "model.keras").read_bytes())
    return path


@pytest.fixture(scope="module")
def exports(run, tmp_path_factory):
    """Four exports for all tests: folders, and the lines printed, by the file that was named.

    `named` holds those of `best.keras` and `model.keras`, which find other folders there.
    """
    root = tmp_path_factory.mktemp("exports")
    for name in ("9", "10", "latest", ".12.left-over"):
        (root / "named" / "digits" / name).mkdir(parents=True)
    named = ["--output", str(root / "named"), "--name", "digits", "--warm-up"]
    commands = {
        "": ["--model", str(run), "--output", str(root)],
        "best.keras": ["--model", str(run / "best.keras"), *named],
        "model.keras": [
            *("--model", str(run / "model.keras"), *named),
            *("--version", "20", "--crop-fraction", "0.8"),
        ],
    }
    folders = {
        "": root / "small" / "1",
        "best.keras": root / "named" / "digits" / "11",
        "model.keras": root / "named" / "digits" / "20",
    }
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        # `test_memory.py` measures in a process that is started.
        patch.setattr(export, "measured_memory", partial(forked.call, memory_by_stage))
        for name, command in commands.items():
            with contextlib.redirect_stdout(io.StringIO()) as output:
                assert main(command) == 0
            printed[name] = output.getvalue()
    return folders, printed


def card(folder):
    return json.loads((folder / "assets.extra" / "model.json").read_text())


def labels(folder):
    return (folder / "assets" / "labels.txt").read_text().splitlines()


def refused(capsys, *arguments):
    """Return the message of a command that is to fail."""
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_a_run_brings_its_preprocessing_and_class_names(exports):
    folders, printed = exports
    folder = folders[""]
    assert str(folder) in printed[""]
    assert Preprocessing(**card(folder)["preprocessing"]) == PREPROCESSING
    assert labels(folder) == CLASS_NAMES


def test_the_card_has_the_metrics_of_the_epoch_whose_weights_are_served(exports):
    """Where options override the preprocessing, as of `model.keras` here, none are known."""
    wanted = {"": HISTORY[-1], "best.keras": HISTORY[0], "model.keras": None}
    assert {name: card(exports[0][name])["metrics"] for name in wanted} == wanted


@pytest.mark.parametrize(("file", "known"), [("model.keras", False), ("best.keras", True)])
def test_only_the_best_epoch_of_an_unfinished_run_is_known(run, file, known):
    record = json.loads((run / "run.json").read_text()) | {"status": "running"}
    trained = Trained(run / file, keras.Model(), PREPROCESSING, record)
    assert trained.metrics == (HISTORY[0] if known else None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_card_tells_the_memory_of_every_stage(exports):
    folders, _ = exports
    memory = card(folders[""])["memory"]
    assert [*memory["resident_bytes"]] == ["loaded", *card(folders[""])["signatures"]]
    assert 0 < memory["weights_bytes"] < memory["resident_bytes"]["loaded"]
    text = (folders[""] / "assets.extra" / "README.md").read_text()
    assert f"loaded {memory['resident_bytes']['loaded'] / 1e6:.0f} MB, serving_default" in text
    assert "not measured" in (folders["best.keras"] / "assets.extra" / "README.md").read_text()
    files = card(folders[""])["files_sha256"]
    assert not {"assets.extra/model.json", "assets.extra/README.md"} & files.keys()


@pytest.mark.parametrize(("file", "seed"), [("", 1), ("model.keras", 1), ("best.keras", 2)])
def test_the_model_named_is_the_one_exported(exports, small_net, file, seed):
    loaded = tf.saved_model.load(str(exports[0][file]))
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 1)).astype("float32")
    served = loaded.signatures["serving_default"](images=tf.constant(images))["probabilities"]
    wanted = small_net(seed, **NET).predict(PREPROCESSING.normalize(images), verbose=0)
    np.testing.assert_allclose(served, wanted, atol=1e-5)


def test_versions_count_up_from_the_highest(exports):
    folders, _ = exports
    assert (folders["best.keras"] / "saved_model.pb").exists()
    assert (folders["model.keras"] / "saved_model.pb").exists()


def test_an_existing_version_is_kept(run, tmp_path, capsys):
    (tmp_path / "small" / "3").mkdir(parents=True)
    message = refused(capsys, "--model", run, "--output", tmp_path, "--version", 3)
    assert "must not exist yet" in message
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["3"]


@pytest.mark.parametrize("version", ["0", "-1", "one"])
def test_a_version_is_a_positive_number(run, tmp_path, capsys, version):
    with pytest.raises(SystemExit):
        main(["--model", str(run), "--output", str(tmp_path), "--version", version])
    assert f"'{version}'" in capsys.readouterr().err


def test_a_bare_file_takes_its_preprocessing_from_options(tmp_path):
    """Of images of any size too, which `serving_default` crops: their scores are others."""
    bare, images = tmp_path / "net.keras", keras.Input(NET["input_shape"])
    kernel = keras.initializers.RandomNormal(stddev=0.1, seed=1)
    scores = keras.layers.Dense(len(CLASS_NAMES), "softmax", kernel_initializer=kernel)
    keras.Model(images, scores(keras.layers.Flatten()(images)), name="small").save(bare)
    names = tmp_path / "names.txt"
    # As Notepad and Excel write it.
    names.write_text("a\nb\nc\n", encoding="utf-8-sig")
    options = [*OPTIONS, "--crop-fraction", "0.5", "--interpolation", "bilinear"]
    options += ["--any-size", "--uint8", "--warm-up"]
    arguments = ["--model", str(bare), "--output", str(tmp_path), "--labels", str(names)]
    assert main([*arguments, *options]) == 0
    folder = tmp_path / "small" / "1"
    assert Preprocessing(**card(folder)["preprocessing"]) == Preprocessing(
        input_size=16, mean=(0.3,), std=(0.4,), crop_fraction=0.5, interpolation="bilinear"
    )
    assert labels(folder) == ["a", "b", "c"]
    (images,) = card(folder)["signatures"]["serving_default"]["inputs"].values()
    assert images == {"dtype": "uint8", "shape": [None, None, None, 1]}


def test_options_override_the_run(exports):
    stored = card(exports[0]["model.keras"])["preprocessing"]
    assert Preprocessing(**stored) == Preprocessing(
        **{**PREPROCESSING.get_config(), "crop_fraction": 0.8}
    )


def test_a_bare_file_without_preprocessing_is_refused(bare, tmp_path, capsys):
    message = refused(capsys, "--model", bare, "--output", tmp_path, "--mean", 0.3)
    assert "needs --input-size, --std:" in message


def test_labels_that_do_not_fit_are_refused(bare, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    message = refused(
        capsys, "--model", bare, "--output", tmp_path / "out", *OPTIONS, "--labels", names
    )
    assert "3 classes. Received: 2 names" in message
    assert not (tmp_path / "out").exists()


def test_labels_that_are_not_utf_8_are_named_before_the_model_is_read(tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("café\n", encoding="latin-1")
    arguments = ["--model", tmp_path / "none", "--output", tmp_path / "out", "--labels", names]
    assert f"{names} is damaged, or not encoded as UTF-8" in refused(capsys, *arguments)


def test_names_of_versions_may_begin_with_zeros(tmp_path):
    for name in ("9", "0010", "notes"):
        (tmp_path / name).mkdir()
    assert version_folder(tmp_path) == tmp_path / "0010"
    assert versions(tmp_path) == [9, 10]


@pytest.mark.parametrize("name", ["", "missing", "missing.keras"])
def test_a_missing_model_is_named(tmp_path, capsys, name):
    message = refused(capsys, "--model", tmp_path / name, "--output", tmp_path / "out", *OPTIONS)
    assert f"there is no {tmp_path / name}" in message


def test_a_file_that_is_no_model_is_named(tmp_path, capsys):
    file = tmp_path / "net.keras"
    file.write_text("not a model")
    message = refused(capsys, "--model", file, "--output", tmp_path / "out", *OPTIONS)
    assert f"{file} is not a .keras file" in message


def test_a_broken_record_of_the_run_is_named(bare, tmp_path, capsys):
    (tmp_path / "model.keras").write_bytes(bare.read_bytes())
    (tmp_path / "run.json").write_text("{")
    message = refused(capsys, "--model", tmp_path, "--output", tmp_path / "out")
    assert "run.json is not the record of a run" in message


def test_names_are_not_patterns(run, tmp_path, capsys):
    """Those of the graph, of the files beside it, and of the weights where it has variables."""
    root = tmp_path / "runs [v1] *é?"
    command = ["--model", str(run), "--output", str(root), "--name", "net [2] ü", "--warm-up"]
    assert main([*command, "--no-freeze"]) == 0
    image = tmp_path / "photo [1].png"
    image.write_bytes(tf.io.encode_png(np.full((16, 16, 1), 99, np.uint8)).numpy())
    assert predict([str(root / "net [2] ü"), str(image)]) == 0
    assert "  1  " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["savedmodel", "onnx"])
def test_a_full_disk_is_told_and_nothing_is_left(run, tmp_path, capsys, kind):
    with full_disk(20_000):
        arguments = ["--model", str(run), "--output", str(tmp_path), "--name", "n"]
        assert main([*arguments, "--format", kind]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("savedmodels.export: ") and "File too large" in line
    assert [*tmp_path.iterdir()] == []


def test_a_name_that_is_too_long_is_told(run, tmp_path, capsys):
    error = refused(capsys, "--model", run, "--output", tmp_path, "--name", "n" * 300)
    assert "File name too long" in error


def test_a_savedmodel_that_does_not_answer_as_the_net_is_not_left(
    run, tmp_path, capsys, monkeypatch
):
    def other(model, folder, **options):
        images = keras.Input(NET["input_shape"])
        scores = keras.layers.Dense(len(CLASS_NAMES), "softmax", name="predictions")
        other = keras.Model(images, scores(keras.layers.Flatten()(images)))
        scores.bias.assign([0.0, 9.0, 0.0])
        return export_savedmodel(other, folder, **options)

    monkeypatch.setattr(export, "export_savedmodel", other)
    error = refused(capsys, "--model", run, "--output", tmp_path, "--name", "net")
    assert "The SavedModel file gives other scores than the net" in error
    assert not (tmp_path / "net").exists()
