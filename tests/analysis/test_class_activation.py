"""Grad-CAM and occlusion, against what they must give where it is known."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from PIL import Image

from keras_preact.analysis import draw_class_activation, grad_cam, occlusion
from tests.nets import X, net, scores
from tests.numerics import NET


def _cam(model: keras.Model, classes: list[int]) -> np.ndarray:
    """Compute class activation mapping (arXiv:1512.04150), which Grad-CAM is for the last maps."""
    maps = scores(keras.Model(model.input, model.get_layer("head_act").output))
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    heat = np.maximum(np.einsum("bhwc,cb->bhw", maps, kernel[:, classes]), 0)
    return heat / heat.max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("quantized", [False, True])
def test_for_the_last_maps_it_is_class_activation_mapping(quantized):
    model = net({})
    if quantized:
        model.get_layer("predictions").quantize("int8")
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


def test_the_format_is_that_of_the_maps_and_of_the_images():
    """A model may rearrange the axes between its input and the net."""
    first = X.transpose(0, 3, 1, 2)
    inner = net({}, data_format="channels_first", input_shape=first.shape[1:])
    permute = keras.layers.Permute((3, 1, 2))
    heat, lost = grad_cam(inner, first), occlusion(inner, first, size=8, stride=8)
    assert lost.shape == (2, 2, 2)
    for before in ([keras.layers.ZeroPadding2D(0)], []):
        model = keras.Sequential([keras.Input(X.shape[1:]), *before, permute, inner])
        np.testing.assert_allclose(grad_cam(model, X), heat, atol=NET)
        np.testing.assert_allclose(occlusion(model, X, size=8, stride=8), lost, atol=NET)
    # Maps in either order, before the net and in it.
    path = f"{inner.name}/stage2_unit1_act1"
    shapes = [grad_cam(model, X, layer=each).shape for each in (permute.name, path)]
    assert shapes == [(2, 16, 16), (2, 16, 16)]


def test_a_model_whose_layers_have_no_format_has_that_of_keras():
    layers = [keras.layers.Reshape((16,)), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((2, 8, 1)), *layers])
    assert occlusion(model, np.ones((1, 2, 8, 1)), size=2, stride=2).shape == (1, 1, 4)


def _corner_net(corner: slice = slice(4)) -> keras.Model:
    """Return a net whose first score is the sum of the pixels of a corner, the second 0.

    Args:
        corner: Rows and columns of the corner; by default the upper left 4x4 pixels.
    """
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(x))
    kernel = np.zeros((8, 8, 2), "float32")
    kernel[corner, corner, 0] = 1
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


def test_occlusion_is_in_inference():
    """Keras's augmentation trains unless it is told not to."""
    noise = keras.layers.RandomBrightness(1.0, value_range=(0, 1))
    model = keras.Sequential([keras.Input((8, 8, 1)), noise, _corner_net()])
    images = np.full((1, 8, 8, 1), 0.5, "float32")
    lost = occlusion(model, images, [0], size=4, stride=4)
    np.testing.assert_allclose(lost[0], [[8, 0], [0, 0]])


def test_occlusion_covers_the_image_to_its_end():
    images = np.ones((1, 8, 8, 1), "float32")
    lost = occlusion(_corner_net(slice(-1, None)), images, size=3, stride=3)
    # Squares from 0, 2 and 5.
    np.testing.assert_allclose(lost[0], [[0, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_what_cannot_be_done_is_said(tmp_path):
    model = net({})
    with pytest.raises(ValueError, match="`layer` must give maps.*predictions"):
        grad_cam(model, X, layer="predictions")
    assert not [each.name for each in model.layers if "call" in vars(each)]
    for square in ((32, 32), (0.2,), 0.3):
        with pytest.raises(ValueError, match="two shares.*Received: " + re.escape(str(square))):
            draw_class_activation(tmp_path / "cam.png", [], [], [], square=square)
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
    labels = ["cat", "$5_to_$10"]
    draw_class_activation(tmp_path / "cam.svg", photographs, grad_cam(net({}), X), labels)
    drawn = (tmp_path / "cam.svg").read_text()
    assert all(label in drawn for label in labels)


def test_occlusion_is_drawn_where_its_squares_were(tmp_path):
    """Centers of three squares of half the height are at 1/4, 1/2 and 3/4 of it."""
    photograph = np.full((60, 120, 3), 200, "uint8")
    heat = np.arange(6).reshape(3, 2)
    path = tmp_path / "drawn.png"

    def ends(**options):
        """Return where the values begin and end, as shares of the photograph."""
        draw_class_activation(path, [photograph], [heat], [""], **options)
        gray = np.asarray(Image.open(path).convert("L"))
        gray = gray[:, gray.shape[1] // 2 :]
        found = []
        for pixels in (gray < 250, gray < 190):
            for axis in (1, 0):
                places = np.flatnonzero(pixels.any(axis=axis))
                found.append((places[0], places[-1]))
        whole, drawn = np.array(found[:2]), np.array(found[2:])
        sizes = whole[:, 1] - whole[:, 0]
        return (drawn - whole[:, :1]) / sizes[:, None]

    # A pixel of the picture, of at least 100.
    np.testing.assert_allclose(ends(), [[0, 1], [0, 1]], atol=0.02)
    # Rows are 1/4 of the height apart, columns 3/4 of the width.
    expected = [[1 / 8, 7 / 8], [0, 1]]
    np.testing.assert_allclose(ends(square=(1 / 2, 1 / 4)), expected, atol=0.02)
