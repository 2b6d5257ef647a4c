"""Grad-CAM and occlusion, against what they must give where it is known."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_preact.analysis import draw_class_activation, grad_cam, occlusion
from tests.nets import X, net, scores
from tests.numerics import NET


def _cam(model: keras.Model, classes: list[int]) -> np.ndarray:
    """Compute class activation mapping (arXiv:1512.04150), which Grad-CAM is for the last maps."""
    maps = scores(keras.Model(model.input, model.get_layer("head_act").output))
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    heat = np.maximum(np.einsum("bhwc,cb->bhw", maps, kernel[:, classes]), 0)
    return heat / heat.max(axis=(1, 2), keepdims=True)


def test_for_the_last_maps_it_is_class_activation_mapping():
    model = net({})
    np.testing.assert_allclose(grad_cam(model, X, [3, 7]), _cam(model, [3, 7]), atol=NET)
    predicted = scores(model).argmax(axis=1)
    np.testing.assert_array_equal(grad_cam(model, X), grad_cam(model, X, predicted))


def test_any_layer_of_any_form():
    x = X.transpose(0, 3, 1, 2)
    stacked = net({"scan_units": True})
    assert grad_cam(stacked, X, layer="stage3_unit2to3").shape == (2, 8, 8)
    assert grad_cam(net({}, data_format="channels_first", input_shape=x.shape[1:]), x).shape == (
        2,
        8,
        8,
    )
    heat = grad_cam(net({}), X, layer="stage2_unit1_add")
    assert heat.shape == (2, 16, 16)
    assert heat.min() >= 0 and heat.max() == 1


def _corner_net() -> keras.Model:
    """Return a net whose first score is the sum of the upper left 4x4 pixels, the second 0."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(x))
    kernel = np.zeros((8, 8, 2), "float32")
    kernel[:4, :4, 0] = 1
    model.layers[-1].set_weights([kernel.reshape(64, 2)])
    return model


def test_occlusion_finds_the_pixels_that_count():
    images = np.full((1, 8, 8, 1), 0.5, "float32")
    lost = occlusion(_corner_net(), images, size=4, stride=2)
    # How many of the 16 pixels each of the 3x3 places covers, times 0.5.
    np.testing.assert_allclose(lost[0], [[8, 4, 0], [4, 2, 0], [0, 0, 0]])
    np.testing.assert_allclose(occlusion(_corner_net(), images, [1], size=4, stride=2), 0)
    np.testing.assert_allclose(
        occlusion(_corner_net(), images, size=4, stride=4, value=1.0)[0], [[-8, 0], [0, 0]]
    )
    np.testing.assert_array_equal(images, 0.5)


def test_what_cannot_be_done_is_said():
    model = net({})
    with pytest.raises(ValueError, match="number from 0 to 9 for each of the 2"):
        grad_cam(model, X, [1, 10])
    with pytest.raises(ValueError, match="`layer` must give maps.*head_pool"):
        grad_cam(model, X, layer="head_pool")
    with pytest.raises(ValueError, match="must end in a dense layer.*Activation"):
        grad_cam(net({}, include_top=False), X)
    with pytest.raises(ValueError, match="from 1 to 16.*size=17"):
        occlusion(model, X, size=17)


def test_picture(tmp_path):
    photographs = [np.zeros((20, 30, 3), "uint8"), np.zeros((40, 30, 3), "uint8")]
    draw_class_activation(tmp_path / "cam.svg", photographs, grad_cam(net({}), X), ["cat", "dog"])
    drawn = (tmp_path / "cam.svg").read_text()
    assert "cat" in drawn and "dog" in drawn
