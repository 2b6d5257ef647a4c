"""DropBlock: dropout of squares."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_preact.layers import DropBlock
from keras_preact.transforms import fold
from tests.nets import SMALL, X, net, scores
from tests.numerics import NET
from tests.variants import check_forms, check_training_and_saving

CHANGES = {"drop_block": 0.2, "drop_block_size": 3}


def test_trains_saves_and_loads(tmp_path):
    check_training_and_saving(CHANGES, tmp_path)


def test_every_form_gives_the_same_scores():
    check_forms(CHANGES)


def _dropped(shape: tuple[int, ...], rate: float, size: int, **options) -> np.ndarray:
    """Where ones become zero; what is left must be as much larger as the mean asks."""
    layer = DropBlock(rate, size, seed=1, **{"data_format": "channels_last", **options})
    y = keras.ops.convert_to_numpy(layer(np.ones(shape, "float32"), training=True))
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], dropped.size / (~dropped).sum(), rtol=1e-5)
    return dropped


def _covering(length: int, size: int) -> np.ndarray:
    """By pixel of an axis, how many of the squares that fit cover it."""
    size = min(size, length)
    starts = np.arange(length - size + 1)
    pixels = np.arange(length)[:, None]
    return ((pixels >= starts) & (pixels < starts + size)).sum(1)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(11, 14, 7), (12, 9, 4), (9, 9, 1), (5, 12, 7), (4, 3, 7), (6, 4, 8)],
)
def test_share_dropped_is_that_of_the_formula(height, width, size):
    rate = 0.15
    dropped = _dropped((200, height, width, 10), rate, size)
    high, wide = min(size, height), min(size, width)
    # Equation 1 of the paper, for each side by itself.
    gamma = rate * height * width / (high * wide * (height - high + 1) * (width - wide + 1))
    # A pixel stays where none of the squares that cover it is drawn.
    squares = np.outer(_covering(height, size), _covering(width, size))
    expected = 1 - (1 - gamma) ** squares
    by_pixel = dropped.mean((0, 3))
    deviation = np.sqrt(expected * (1 - expected) / 2000)
    assert (np.abs(by_pixel - expected) < 5 * deviation).all()
    assert 0.8 * rate < expected.mean() <= rate + 1e-9


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_what_drops_is_whole_squares(size, data_format):
    shape = (20, 10, 13, 4) if data_format == "channels_last" else (20, 4, 10, 13)
    dropped = _dropped(shape, 0.1, size, data_format=data_format)
    if data_format == "channels_first":
        dropped = dropped.transpose(0, 2, 3, 1)
    inside = np.zeros_like(dropped)
    for top in range(10 - size + 1):
        for left in range(13 - size + 1):
            square = (slice(None), slice(top, top + size), slice(left, left + size))
            inside[square] |= dropped[square].all((1, 2), keepdims=True)
    np.testing.assert_array_equal(inside, dropped)
    # Channels and examples have squares of their own.
    assert (dropped[..., 0] != dropped[..., 1]).any()
    assert (dropped[0] != dropped[1]).any()


def test_inference_changes_nothing():
    x = np.ones((2, 8, 8, 3), "float32")
    np.testing.assert_array_equal(DropBlock(0.5)(x), x)


def test_a_map_that_drops_whole_is_zero():
    layer = DropBlock(0.999, 9, seed=2)
    y = keras.ops.convert_to_numpy(layer(np.ones((1, 5, 5, 1), "float32"), training=True))
    np.testing.assert_array_equal(y, np.zeros_like(y))


def test_the_last_two_stages_drop_after_every_convolution():
    model = net({**CHANGES, "units": (1, 1, 2), "channels": (16, 32, 64), "strides": (1, 2, 2)})
    layers = {each.name: each for each in model.layers if isinstance(each, DropBlock)}
    rates = {name: layer.rate for name, layer in layers.items()}
    quarter = {f"stage3_unit1_drop_block{i}": pytest.approx(0.05) for i in (1, 2, 3)}
    full = {f"stage4_unit{u}_drop_block{i}": pytest.approx(0.2) for u in (1, 2) for i in (1, 2, 3)}
    assert rates == quarter | full
    assert layers["stage4_unit1_drop_block1"].input is model.get_layer("stage4_unit1_act2").output
    assert layers["stage4_unit1_drop_block3"].input is model.get_layer("stage4_unit1_conv3").output
    assert {layer.size for layer in layers.values()} == {3}


def test_folding_leaves_it_out():
    model = net({**CHANGES, "scan_units": True}, classifier_activation=None)
    folded, expected = fold(model), scores(model)
    assert not any(isinstance(layer, DropBlock) for layer in folded.layers)
    np.testing.assert_allclose(scores(folded), expected, atol=NET * np.abs(expected).max())
    first, second = (keras.ops.convert_to_numpy(model(X, training=True)) for _ in range(2))
    assert not np.allclose(first, second)


def test_config_round_trip():
    layer = DropBlock(0.25, 5, data_format="channels_first", seed=7)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert (copy.rate, copy.size, copy.data_format, copy.seed) == (0.25, 5, "channels_first", 7)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="`rate` must be in .* Received: 1"):
        DropBlock(1)
    with pytest.raises(ValueError, match="`size` must be .* Received: 0"):
        DropBlock(0.1, 0)
    with pytest.raises(ValueError, match="`drop_block` must be a number in"):
        SMALL.replace(drop_block=1.0)
    with pytest.raises(ValueError, match="`drop_block_size` must be a positive integer"):
        SMALL.replace(drop_block_size=2.5)
