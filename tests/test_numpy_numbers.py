"""Numbers of NumPy wherever a number is expected, kept as Python's own."""

import fractions
import json

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import Architecture, PreActResNet20, transforms
from keras_preact.architecture import RULES
from keras_preact.dense import dense_channels
from keras_preact.preprocessing import Preprocessing
from keras_preact.spec.rules import COUNT, POSITIVE_INTEGER, RATE, plain

TINY = {"units": (1, 1, 1), "channels": (4, 4, 8), "stem_channels": 4}


def is_plain(value):
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def as_numpy(value):
    """Return the same value as a user of NumPy has it."""
    if isinstance(value, tuple):
        return np.array(value)
    kinds = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
    return kinds.get(type(value), lambda value: value)(value)


@pytest.mark.parametrize("name", ["PreActResNet20", "PreActDenseNet121", "ResNet50V2"])
def test_every_field_takes_numpy_s_numbers(name):
    builder = getattr(keras_preact, name)
    expected = builder.architecture
    fields = {name: as_numpy(value) for name, value in expected.get_config().items()}
    net = Architecture(**fields)
    assert net == expected
    assert all(is_plain(getattr(net, name)) for name in RULES)
    assert json.loads(json.dumps(net.get_config())) == json.loads(json.dumps(expected.get_config()))


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.uint16, np.int64])
def test_a_net_of_numpy_s_numbers(kind, tmp_path):
    labels = np.array([0, 1, 2], kind)
    net = PreActResNet20(
        weights=None,
        classes=labels.max() + 1,
        input_shape=tuple(np.array([16, 16, 3], kind)),
        drop_path=np.float32(0.1),
        blur_pool=np.bool_(True),
        norm_momentum=np.float64(0.9),
        units=np.ones(3, kind),
        channels=np.array([4, 4, 8], kind),
        stem_channels=kind(4),
    )
    assert net.output_shape == (None, 3)
    assert net.input_shape == (None, 16, 16, 3)
    other = transforms.replace_head(net, labels.max() + 3)
    assert other.output_shape == (None, 5)
    assert transforms.freeze(net, kind(2)) == transforms.freeze(net, 2) > 0
    assert transforms.adapt_input_channels(net, kind(1)).input_shape == (None, 16, 16, 1)
    features = keras_preact.feature_extractor(net, np.array([2, 3], kind))
    assert sorted(features.output) == ["stage2", "stage3"]
    other.save(tmp_path / "net.keras")
    assert keras.models.load_model(tmp_path / "net.keras").output_shape == (None, 5)


def test_channels_of_a_dense_net_of_numpy_s_numbers():
    expected = dense_channels((6, 12), 32, 64, 0.5)
    channels = dense_channels(np.array([6, 12]), np.int64(32), np.int8(64), np.float32(0.5))
    assert channels == expected
    assert is_plain(channels)
    assert dense_channels([6, 12], np.array([32, 32]), 64) == expected


def test_a_preprocessing_of_numpy_s_numbers():
    preprocessing = Preprocessing(input_size=np.int64(32), crop_fraction=np.float32(0.5))
    assert preprocessing == Preprocessing(input_size=32, crop_fraction=0.5)
    json.dumps(preprocessing.get_config())


@pytest.mark.parametrize("value", [True, np.True_, 1.0, np.float32(1), "1", None, -1, np.int8(-1)])
def test_what_is_no_integer_stays_refused(value):
    for rule in (POSITIVE_INTEGER, COUNT):
        with pytest.raises(ValueError, match="`classes` must be"):
            rule.check("classes", value)
    with pytest.raises(ValueError, match="`classes` must be"):
        PreActResNet20(weights=None, classes=value, **TINY)


def test_replace_head_and_freeze_refuse_booleans():
    net = PreActResNet20(weights=None, **TINY)
    for value in (True, np.True_, np.float64(1)):
        with pytest.raises(ValueError, match="`classes` must be"):
            transforms.replace_head(net, value)
        with pytest.raises(ValueError, match="`up_to_stage` must be"):
            transforms.freeze(net, value)


def test_any_real_number_becomes_python_s():
    assert plain(fractions.Fraction(1, 4)) == 0.25
    assert RATE.check("rate", np.float16(0.5)) == 0.5
    assert type(RATE.check("rate", np.float16(0.5))) is float
    assert type(plain(np.array(3))) is int
    assert plain((np.int8(1), [np.float32(2)], "a", None)) == (1, [2.0], "a", None)
    assert type(plain(np.str_("a"))) is str
    with pytest.raises(ValueError, match="`rate` must be"):
        RATE.check("rate", np.float32("nan"))
