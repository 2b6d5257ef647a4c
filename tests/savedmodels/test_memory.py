"""Memory that a SavedModel takes in TensorFlow's C API, in a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

import keras_preact
from keras_preact.preprocessing import Preprocessing
from keras_preact.serving.export import export_savedmodel
from savedmodels.memory import main, measured_memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """Export a net of few operations and 114 MB of weights."""
    architecture = keras_preact.Architecture(
        unit="basic", units=(2,), channels=(1024,), strides=(1,), stem="cifar", stem_channels=8
    )
    model = keras_preact.PreActResNet(architecture, weights=None, classes=3, input_shape=(4, 4, 3))
    preprocessing = Preprocessing(input_size=4)
    path = tmp_path_factory.mktemp("heavy") / "1"
    return export_savedmodel(model, path, preprocessing=preprocessing)


@linux
def test_weights_are_held_once(heavy):
    card = json.loads((heavy / "assets.extra" / "model.json").read_text())
    weights = card["memory"]["weights_bytes"]
    assert card["memory"]["held"] == "once"
    memory = measured_memory(heavy)
    assert [*memory][0] == "loaded" and set(memory) - {"loaded"} == set(card["signatures"])
    # As constants they take 6 times their size once loaded, and 20 times in the end. Threads,
    # kernels and the reading of image files take 40 MB, and 130 MB in the end.
    assert weights < memory["loaded"] < 1.8 * weights
    assert max(memory.values()) < 2.8 * weights


@linux
def test_the_command(exported, capsys):
    """In this process, whose memory holds much else."""
    assert main([str(exported.parent)]) == 0
    assert [*json.loads(capsys.readouterr().out)][0] == "loaded"


def test_a_model_that_does_not_answer(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert f"no SavedModel in {tmp_path}" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="no SavedModel in"):
        measured_memory(tmp_path)


@linux
def test_a_signal_that_ends_the_measuring_is_named(tmp_path, monkeypatch):
    ended = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    run = subprocess.run

    def killed(command, **options):
        return run([command[0], "-c", ended], **options)

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(RuntimeError, match="signal 9 ended the process .* want of memory"):
        measured_memory(tmp_path)
