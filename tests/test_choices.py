"""The choices between two ways to compute the same thing, and how they are switched off."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact.layers import BatchNormalization, Conv2D, ScaleShift
from keras_preact.ops import choices
from keras_preact.ops.choices import CHOICES, SWITCHED_HERE, enabled, without
from tests import forked, one_thread
from tests.numerics import error, in_float64, tolerance

ROOT = Path(keras_preact.__file__).parent
X = np.random.default_rng(0).standard_normal((2, 14, 14, 128)).astype("float32")


def kinds(layer: keras.layers.Layer) -> set[str]:
    """Return the kinds of operations in a layer's training step, a convolution's padding too."""
    layer(X)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, *(each.value for each in layer.trainable_variables)])

    operations = step.get_concrete_function(X).graph.get_operations()
    paddings = {each.get_attr("padding").decode() for each in operations if each.type == "Conv2D"}
    return {each.type for each in operations} | paddings


@pytest.mark.parametrize(
    ("name", "make", "chosen"),
    [
        ("winograd", lambda: Conv2D(128, 3), "BatchMatMulV2"),
        ("products", lambda: Conv2D(128, 3, strides=2, use_bias=False), "MatMul"),
        ("products", lambda: Conv2D(256, 1, use_bias=False), "MatMul"),
        ("pointwise", lambda: Conv2D(8, 1, use_bias=False), "-Conv2D"),
        ("padding", lambda: Conv2D(8, 3, strides=2), "EXPLICIT"),
        ("bias", lambda: Conv2D(8, 3, strides=2), "MatMul"),
        ("fused_norm", BatchNormalization, "FusedBatchNormV3"),
        ("fused_norm", ScaleShift, "FusedBatchNormV3"),
    ],
)
def test_each_is_switched_off(name, make, chosen):
    def takes_it() -> bool:
        found = kinds(make())
        return chosen[1:] not in found if chosen.startswith("-") else chosen in found

    with without(*{"bias", "products", "winograd", "pointwise"} - {name}):
        assert takes_it()
        with without(name):
            assert not enabled(name) and not takes_it()
        assert enabled(name) and takes_it()


def test_every_choice_is_asked_for_where_it_is_made():
    sources = [path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")]
    asked = {name for text in sources for name in re.findall(r'enabled\("(\w+)"\)', text)}
    assert asked == {*SWITCHED_HERE}


def test_every_choice_says_how_it_is_measured():
    for choice in CHOICES.values():
        assert choice.chosen.endswith(".") and "python -m" in choice.benchmark
        module = re.search(r"python -m ([\w.]+)", choice.benchmark).group(1)
        assert (ROOT.parent / module.replace(".", "/")).with_suffix(".py").exists()


class Parsed(Exception):
    """End of a command that has read its arguments."""


@pytest.mark.parametrize("name", CHOICES)
def test_every_command_that_measures_a_choice_runs_as_it_stands(name, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *arguments):
        parse(self, *arguments)
        raise Parsed

    words = [word for word in shlex.split(CHOICES[name].benchmark) if word != "KERAS_BACKEND=jax"]
    python, dash_m, module, *_ = words
    assert (python, dash_m) == ("python", "-m")
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", words[2:])
    # Commands set such before they read their arguments.
    for variable in ("TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(variable, "0")
    with pytest.raises(Parsed):
        importlib.import_module(module).main()


def test_the_guide_lists_every_choice():
    guide = (ROOT.parent / "docs" / "guides" / "any_machine.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE) == list(CHOICES)


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="'winograds'. Did you mean `winograd`?"):
        enabled("winograds")
    with pytest.raises(ValueError, match="TF_ENABLE_ONEDNN_OPTS"), without("onednn"):
        pass
    assert enabled("winograd")


@pytest.fixture
def imported_with(monkeypatch):
    """Return a function that imports the module of choices anew, with a value of its variable."""

    def run(value: str) -> ModuleType:
        monkeypatch.setenv(choices.VARIABLE, value)
        spec = importlib.util.spec_from_file_location("choices_anew", choices.__file__)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return run


def test_the_environment_switches_them_off(imported_with):
    module = imported_with("winograd, bias")
    off = [name for name in module.SWITCHED_HERE if not module.enabled(name)]
    assert off == ["winograd", "bias"]
    with pytest.raises(ValueError, match=f"{choices.VARIABLE}.*Did you mean `bias`\\?$"):
        imported_with("bais")


def test_narrow_strided_1x1_convolutions_train_on_one_thread():
    """TensorFlow 2.21's kernel gradient on oneDNN corrupts the heap there."""
    # TensorFlow reads this when it is imported, which a forked process has done.
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        pytest.skip("oneDNN is off: TF_ENABLE_ONEDNN_OPTS=0")
    forked.call(one_thread.train)


@pytest.mark.numerical
@pytest.mark.parametrize("size", [None, 9])
@pytest.mark.parametrize("channels", [1, 15])
def test_narrow_strided_1x1_kernels_have_true_gradients(channels, size):
    x = tf.constant(X[:, :9, :12, :channels])
    layer = Conv2D(8, 1, strides=2, bias_initializer="ones")
    layer(x)

    def gradients(layer, x, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return tape.gradient(y, [x, *(each.value for each in layer.trainable_variables)], y)

    spec = tf.TensorSpec((None, size, None if size is None else 12, channels))
    step = tf.function(lambda x: gradients(layer, x, True), input_signature=[spec])
    assert "Conv2DBackpropFilter" not in {
        each.type for each in step.get_concrete_function().graph.get_operations()
    }
    truth = gradients(in_float64(layer, x.shape), tf.cast(x, "float64"), False)
    for one, other in zip(step(x), truth, strict=True):
        assert error(one, other) <= tolerance(roundings=2, summed=2 * 5 * 6 * channels)
