"""Models built at random from small nets: each transform is right, or refused with its reason.

Right is what the model itself gives. Where a call with `training=True` drops at random, the result
must go on to do so.
"""

from __future__ import annotations

import contextlib
import functools
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_preact
from keras_preact import analysis, export_savedmodel, transforms
from keras_preact.preprocessing import Preprocessing
from tests.nets import TINY, X, images, net
from tests.numerics import WIDE_NET

SHAPE = X.shape[1:]
SCANNED = {"units": (1, 3), "scan_units": True}
NETS = (
    {},
    SCANNED,
    {"units": (1, 3)},
    {"units": (2, 1), "rematerialize": True},
    {"order": "original"},
    {"norm": "group"},
    {"attention": "se", "weight_standardization": True},
    {"dropout": 0.5},
    {**SCANNED, "drop_path": 0.4},
)
BEFORE = (
    lambda x: x,
    lambda x: layers.Rescaling(0.5)(x),
    lambda x: keras_preact.preprocess_input(x, weights="cifar10"),
    lambda x: layers.Conv2D(3, 1)(layers.ZeroPadding2D(1)(x)),
)
AFTER = (
    lambda x: x,
    lambda x: layers.Dense(3)(x),
    lambda x: layers.Dense(3, activation="softmax")(layers.Dropout(0.3)(x)),
    lambda x: layers.Dense(3)(layers.ReLU()(layers.BatchNormalization()(x))),
)


@dataclass
class Case:
    """Model with what goes into it.

    Attributes:
        model: The model.
        x: Its inputs.
        net: A net in it.
        changes: Fields of the net.
        calls: Arguments of the net's calls beside their input.
        trains: Whether any call in the model says `training=True`.
    """

    model: keras.Model
    x: Any
    net: keras.Model
    changes: dict[str, Any]
    calls: list[dict[str, Any]] = field(default_factory=list)
    trains: bool = False

    @property
    def is_random(self) -> bool:
        """Whether two calls of the model differ."""
        drops = {"dropout", "drop_path"} & set(self.changes)
        return bool(drops) and any(each.get("training") for each in self.calls)

    @functools.cached_property
    def outputs(self) -> np.ndarray:
        """What the model gives."""
        return _outputs(self.model, self.x)

    @functools.cached_property
    def spread(self) -> float:
        """How far calls of the model are apart."""
        return _spread(self.model, self.x)


class Draw(random.Random):
    """Random choices of one case; `trains` tells whether a call says `training=True`."""

    trains = False

    def net(self, name: str = "body", **options: Any) -> tuple[keras.Model, dict[str, Any]]:
        changes = self.choice(NETS)
        options = {"include_top": False, "pooling": "avg", **options}
        return net(changes, architecture=TINY, name=name, **options), changes

    def call(self) -> dict[str, Any]:
        call = dict(self.choice(({}, {}, {"training": True}, {"training": False})))
        self.trains = self.trains or bool(call.get("training"))
        return call


def alone(draw: Draw) -> Case:
    """Return a net, perhaps on what other layers give."""
    x = keras.Input(SHAPE)
    shape = {"input_shape": None, "input_tensor": draw.choice(BEFORE)(x)}
    model, changes = draw.net(include_top=True, classes=3, **shape)
    return Case(model, X, model, changes)


def nested(draw: Draw) -> Case:
    """Return a model of a net with layers around it."""
    (inner, changes), call = draw.net(), draw.call()
    x = keras.Input(SHAPE)
    before = draw.choice(BEFORE[:3])
    model = keras.Model(x, draw.choice(AFTER)(inner(before(x), **call)), name="nested")
    return Case(model, X, inner, changes, [call])


def twice_nested(draw: Draw) -> Case:
    """Return a model of a model of a net."""
    case, call = nested(draw), draw.call()
    x = keras.Input(SHAPE)
    model = keras.Model(x, layers.Dense(2)(case.model(x, **call)), name="twice_nested")
    # That of the outer call holds.
    calls = [call if "training" in call else each for each in case.calls]
    return Case(model, X, case.net, case.changes, calls)


def sequential(draw: Draw) -> Case:
    """Return a `keras.Sequential` of a net and layers around it."""
    inner, changes = draw.net()
    before = draw.choice(([], [layers.Rescaling(0.5)]))
    after = draw.choice(([layers.Dense(3)], [layers.Dropout(0.3), layers.Dense(3)], []))
    return Case(keras.Sequential([keras.Input(SHAPE), *before, inner, *after]), X, inner, changes)


def two_towers(draw: Draw) -> Case:
    """Return a model of two nets on one image."""
    (first, changes), (second, others) = draw.net("a"), draw.net("b")
    x = keras.Input(SHAPE)
    calls = [draw.call(), draw.call()]
    maps = [first(x, **calls[0]), second(layers.Rescaling(0.5)(x), **calls[1])]
    model = keras.Model(x, draw.choice(AFTER)(layers.Concatenate()(maps)), name="towers")
    drops = {key: each[key] for each in (changes, others) for key in each if "drop" in key}
    # Where either drops, only one that always trains makes the model random.
    dropping = [
        call
        for call, each in zip(calls, (changes, others), strict=True)
        if {"dropout", "drop_path"} & set(each)
    ]
    return Case(model, X, first, {**changes, **drops}, dropping)


def shared(draw: Draw) -> Case:
    """Return a model that applies one net to two images."""
    inner, changes = draw.net()
    x, y = keras.Input(SHAPE), keras.Input(SHAPE)
    calls = [draw.call(), draw.call()]
    distance = layers.Subtract()(
        [inner(x, **calls[0]), inner(layers.Rescaling(2.0)(y), **calls[1])]
    )
    model = keras.Model([x, y], draw.choice(AFTER)(distance), name="shared")
    return Case(model, [X, images(2, *SHAPE, seed=1)], inner, changes, calls)


def two_inputs(draw: Draw) -> Case:
    """Return a model of an image and numbers beside it."""
    (inner, changes), call = draw.net(), draw.call()
    x, numbers = keras.Input(SHAPE, name="x"), keras.Input((5,), name="n")
    both = layers.Concatenate()([inner(x, **call), layers.Dense(4)(numbers)])
    model = keras.Model({"x": x, "n": numbers}, draw.choice(AFTER)(both), name="two_inputs")
    return Case(model, {"x": X, "n": images(2, 5)}, inner, changes, [call])


def cut(draw: Draw) -> Case:
    """Return a net cut somewhere within its stages."""
    model, changes = draw.net(pooling=None)
    places = [each for each in model.layers if "stage" in each.name and "shortcut" not in each.name]
    place = draw.choice(places)
    output = keras.Operation.output.fget(place)
    return Case(keras.Model(model.input, output, name="cut"), X, model, changes)


def time_distributed(draw: Draw) -> Case:
    """Return a model that applies a net to every frame of a film."""
    (inner, changes), call = draw.net(), draw.call()
    x = keras.Input((3, *SHAPE))
    maps = layers.TimeDistributed(inner, name="frames")(x, **call)
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(maps)), name="film")
    return Case(model, images(2, 3, *SHAPE), inner, changes, [call])


KINDS = (
    alone,
    nested,
    twice_nested,
    sequential,
    two_towers,
    shared,
    two_inputs,
    cut,
    time_distributed,
)


def _outputs(model: keras.Model, x: Any) -> np.ndarray:
    """Return what a model gives, and leave its moving statistics as they were."""
    weights = model.get_weights()
    outputs = keras.ops.convert_to_numpy(model(x))
    model.set_weights(weights)
    return outputs


def _assert_same(result: Any, case: Case, atol: float = WIDE_NET) -> None:
    expected, received = case.outputs, _outputs(result, case.x)
    assert received.shape == expected.shape
    # Keras hands a call's `training=True` on to the layers that follow it, so that a dropout behind
    # the net may drop too: the model itself tells whether it is random.
    if case.spread > 0:
        assert _spread(result, case.x) > 0
    else:
        error = np.abs(received - expected).max()
        assert error <= atol * np.abs(expected).max(), (
            f"{error:.2g} of {np.abs(expected).max():.2g}"
        )


def _spread(model: keras.Model, x: Any) -> float:
    """Return how far calls of a model are apart, but for the order of its sums."""
    first, *others = (_outputs(model, x) for _ in range(5))
    spread = max(np.abs(first - each).max() for each in others) / np.abs(first).max()
    return spread if spread > 1e-5 else 0.0


def _fold(case: Case) -> None:
    folded = transforms.fold(case.model)
    _assert_same(folded, case)
    norms = (keras.layers.BatchNormalization, keras_preact.layers.StackedUnits)
    kept = [each for _, each in keras_preact.named_layers(folded) if isinstance(each, norms)]
    assert case.trains or not kept


def _unroll(case: Case) -> None:
    separate = transforms.unroll(case.model)
    _assert_same(separate, case)
    kinds = [type(layer) for _, layer in keras_preact.named_layers(separate)]
    assert keras_preact.layers.StackedUnits not in kinds


def _stack(case: Case) -> None:
    _assert_same(transforms.stack(transforms.unroll(case.model)), case)


def _with_dtype(case: Case) -> None:
    _assert_same(transforms.with_dtype(transforms.unroll(case.model), "float64"), case)


def _freeze(case: Case) -> None:
    model = keras.models.clone_model(case.model)
    every = len(model.trainable_variables)
    transforms.freeze(model, 0, norms=True)
    left = [each.path for each in model.trainable_variables if "norm" in each.path]
    assert not [path for path in left if "stage" in path or "head_" in path]
    transforms.freeze(model, 2)
    assert not [each for each in model.trainable_variables if "stage2" in each.path]
    transforms.freeze(model, 0)
    assert len(model.trainable_variables) == every


def _replace_head(case: Case) -> None:
    pooled = transforms.replace_head(case.model, None)
    assert transforms.replace_head(case.model, 7).output_shape == (None, 7)
    if case.model is case.net:
        maps = keras.Model(case.net.input, case.net.get_layer("head_pool").input)
        expected = np.mean(_outputs(maps, case.x), axis=(1, 2))
        error = np.abs(_outputs(pooled, case.x) - expected).max()
        assert error <= WIDE_NET * np.abs(expected).max()
    elif case.model.name != "cut":
        _assert_same(pooled, case)


def _feature_extractor(case: Case) -> None:
    features = keras_preact.feature_extractor(case.model)
    maps = {name: keras.ops.convert_to_numpy(each) for name, each in features(case.x).items()}
    # The same maps, found by the net's own names, and by what comes into it.
    own = keras_preact.feature_extractor(case.net)
    assert set(maps) <= set(own.output) and features.strides.items() <= own.strides.items()
    if case.is_random:
        return
    if case.model is case.net or case.model.name == "cut":
        expected = own(case.x)
    else:
        with _listening(case.net) as heard:
            case.model(case.x)
        (call,) = case.calls or [{}]
        expected = own(heard[0].inputs, **call)
    for name, each in maps.items():
        expect = keras.ops.convert_to_numpy(expected[name])
        np.testing.assert_allclose(each, expect, atol=WIDE_NET * np.abs(expect).max())


@dataclass
class Heard:
    """One call of a layer."""

    inputs: Any
    outputs: Any


@contextlib.contextmanager
def _listening(layer: keras.layers.Layer) -> Iterator[list[Heard]]:
    """Give the calls that are made of a layer."""
    heard, call = [], layer.call

    def listen(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        heard.append(Heard(inputs, call(inputs, *args, **kwargs)))
        return heard[-1].outputs

    layer.call = listen
    try:
        yield heard
    finally:
        del layer.call


def _grad_cam(case: Case) -> None:
    heat = analysis.grad_cam(case.model, case.x)
    assert heat.ndim == 3 and heat.min() >= 0 and heat.max() <= 1
    if any(each.get("training") for each in case.calls):
        return
    # A tape around the model's own call, its score without the last layer's activation.
    classifier, maps = (
        case.model.layers[-1],
        case.net.get_layer("head_pool").input._keras_history[0],
    )
    with _listening(maps) as ends, _listening(classifier) as heads, tf.GradientTape() as tape:
        predicted = case.model(case.x)
        logits = heads[0].inputs @ classifier.kernel.value
        score = tf.reduce_sum(tf.gather(logits, tf.argmax(predicted, -1), batch_dims=1))
    gradient = tape.gradient(score, ends[0].outputs)
    importance = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    expected = tf.nn.relu(tf.reduce_sum(importance * ends[0].outputs, axis=-1)).numpy()
    expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), np.finfo("float32").tiny)
    np.testing.assert_allclose(heat, expected, atol=1e-3)


def _save(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        case.model.save(path)
        _assert_same(keras.saving.load_model(path), case, atol=0.0)


# By name, each check, and whether no model may be refused.
CHECKS: dict[str, tuple[Callable[[Case], None], bool]] = {
    "fold": (_fold, True),
    "unroll": (_unroll, True),
    "stack": (_stack, False),
    "with_dtype": (_with_dtype, True),
    "freeze": (_freeze, True),
    "replace_head": (_replace_head, False),
    "feature_extractor": (_feature_extractor, False),
    "grad_cam": (_grad_cam, False),
    "save": (_save, True),
}


def check(seed: int) -> dict[str, str]:
    """Build the model of a seed, and try everything on it.

    Returns:
        By name of each check, `"right"`, or the message of the refusal.
    """
    kind = KINDS[seed % len(KINDS)]
    draw = Draw(seed)
    case = kind(draw)
    case.trains = draw.trains
    outcomes = {}
    for name, (function, always) in CHECKS.items():
        told = f"seed {seed}, {kind.__name__}, {case.changes}, {case.calls}: {name}"
        try:
            function(case)
            outcomes[name] = "right"
        except ValueError as error:
            file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            # What is left of a net by a cut may be none.
            assert kind is cut or not always, f"{told}: {error}"
            assert "keras_preact" in file.parts, f"{told}: {error}"
            assert "`" in str(error) or "'" in str(error), told
            outcomes[name] = str(error)
        except Exception as error:
            raise AssertionError(f"{told}: {error}") from error
    return outcomes


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_every_transform_of_a_model_is_right_or_refused(seed):
    outcomes = check(seed)
    if KINDS[seed] in (alone, nested):
        assert outcomes["feature_extractor"] == "right", outcomes


# Kinds of one image and one vector, which a SavedModel takes.
SERVED = (alone, nested, twice_nested, sequential, two_towers)
# A range of pixels, so that the served net sees numbers of about the size of `X`.
PIXELS = Preprocessing(input_size=SHAPE[0], mean=(0.5,) * 3, std=(0.25,) * 3, crop_fraction=1.0)


@pytest.mark.parametrize(
    "seed",
    [*(1, 4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 60))],
)
def test_an_export_of_a_model_serves_its_scores(seed, tmp_path):
    kind = KINDS[seed % len(KINDS)]
    if kind not in SERVED:
        pytest.skip(f"a SavedModel takes no model like {kind.__name__}")
    case = kind(Draw(seed))
    scores = layers.Activation("softmax", dtype="float32")(case.model.outputs[0])
    model = keras.Model(case.model.inputs[0], scores, name="served")
    levels = np.random.default_rng(seed).integers(0, 256, (3, *SHAPE)).astype("float32")
    expected = model(PIXELS.normalize(levels), training=False)
    path = export_savedmodel(
        model, tmp_path / "1", preprocessing=PIXELS, winograd=False, warm_up_batch_sizes=()
    )
    signatures = tf.saved_model.load(str(path)).signatures
    for name in ("serving_default", "single_pass"):
        received = signatures[name](images=tf.constant(levels))["probabilities"]
        # Probabilities move at most half as far as scores, of which folding rounds each anew.
        np.testing.assert_allclose(received, expected, atol=WIDE_NET)


@pytest.mark.slow
def test_every_transform_of_many_models_is_right_or_refused():
    for seed in range(len(KINDS), 40 * len(KINDS)):
        check(seed)
