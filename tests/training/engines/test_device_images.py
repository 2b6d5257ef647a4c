"""Images on the device against plain NumPy, and the draws of an epoch."""

import keras
import numpy as np
import pytest

from keras_preact.preprocessing import Preprocessing
from training.engines.device_images import DeviceImages, draw_views, plain_views
from training.recipe import Recipe

SIDE = 6
IMAGES = np.random.default_rng(0).integers(256, size=(5, SIDE, SIDE, 3)).astype("uint8")
PREPROCESSING = Preprocessing(input_size=SIDE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
MEAN, STD = np.array(PREPROCESSING.mean), np.array(PREPROCESSING.std)


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


def recipe(**values):
    return Recipe(input_size=SIDE, crop="pad", **values)


def shown(views, cutout=0):
    layer = DeviceImages(IMAGES, PREPROCESSING, cutout=cutout)
    return np.asarray(layer(np.array(views, "int32")))


def normalized(image):
    return (image / 255 - MEAN) / STD


def test_plain_views_show_the_images_as_they_are():
    np.testing.assert_allclose(shown(plain_views(range(5)), 4), normalized(IMAGES), atol=1e-5)


def test_channels_are_last_whatever_keras_s_setting(channels_first):
    """As every net that is trained has them."""
    layer = DeviceImages(IMAGES, PREPROCESSING)
    views = keras.Input((DeviceImages.VIEW,), dtype="int32")
    assert layer(views).shape == (None, SIDE, SIDE, 3)
    np.testing.assert_allclose(shown(plain_views([1])), normalized(IMAGES[[1]]), atol=1e-5)


@pytest.mark.parametrize("down", [-2, 0, 1])
@pytest.mark.parametrize("right", [-1, 0, 3])
@pytest.mark.parametrize("mirrored", [0, 1])
def test_a_view_is_padded_cropped_mirrored_and_cut_out(down, right, mirrored):
    padded = np.pad(normalized(IMAGES[2]), ((4, 4), (4, 4), (0, 0)))
    expected = padded[4 - down : 4 - down + SIDE, 4 - right : 4 - right + SIDE]
    expected = (expected[:, ::-1] if mirrored else expected).copy()
    # A square of 4 around row 1 and column 5 is cut by the border.
    expected[0:3, 3:6] = 0
    actual = shown([[2, down, right, mirrored, 1, 5]], cutout=4)[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_images_that_are_not_pixels_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \(images, height, width, channels\).*float64"):
        DeviceImages(IMAGES / 255, PREPROCESSING)


def test_an_epoch_has_every_image_once_in_an_order_of_its_own():
    views = [draw_views(range(2, 12), 10, recipe(), epoch) for epoch in (0, 0, 1)]
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0][:, 0], views[2][:, 0])
    for each in views:
        assert sorted(each[:, 0]) == list(range(2, 12))


def test_an_epoch_of_more_than_a_pass_takes_every_image_again():
    numbers = draw_views(range(10), 25, recipe(), 0)[:, 0]
    assert sorted(numbers[:10]) == sorted(numbers[10:20]) == list(range(10))
    assert len(set(numbers[20:])) == 5


def test_the_draws_reach_every_place_and_no_further():
    views = draw_views(range(10), 2000, recipe(pad=2, flip=True, cutout=3), 0)
    assert set(views[:, 1]) == set(views[:, 2]) == {-2, -1, 0, 1, 2}
    assert 0.4 < views[:, 3].mean() < 0.6
    assert set(views[:, 4]) == set(views[:, 5]) == set(range(SIDE))


def test_switching_one_change_off_leaves_the_others():
    every = draw_views(range(10), 50, recipe(pad=2, flip=True, cutout=3), 0)
    some = draw_views(range(10), 50, recipe(pad=2, flip=False), 0)
    np.testing.assert_array_equal(every[:, :3], some[:, :3])
    assert not some[:, 3].any()
    assert (some[:, 4:] < -SIDE).all()
