import numpy as np
import pytest
import tensorflow as tf

from training.augmentation import colors

SEED = tf.constant([3, 4], tf.int64)


def photographs(batch=6, height=10, width=12, channels=3):
    shape = (batch, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def change(function, images, seed=SEED, **options):
    images = tf.constant(images)
    return function(images, seed, **options).apply(images).numpy()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_equals_the_three_blends_in_any_order(order, channels):
    images = photographs(channels=channels)
    jittered = change(colors.color_jitter, images, strength=0.4)
    factors = tf.random.stateless_uniform([3, 6, 1, 1], SEED, 0.6, 1.4).numpy()
    assert np.ptp(factors) > 0.3
    weights = [0.299, 0.587, 0.114] if channels == 3 else [1.0]
    for image, (brightness, contrast, saturation), result in zip(
        images, factors[..., 0, 0].T, jittered, strict=True
    ):
        for step in order:
            luma = (image @ weights)[..., np.newaxis]
            opposite = (np.zeros(1), luma.mean(), luma)[step]
            factor = (brightness, contrast, saturation)[step]
            image = factor * image + (1 - factor) * opposite
        np.testing.assert_allclose(result, image, rtol=1e-4, atol=1e-2)


def test_lighting_shifts_each_image_along_the_components():
    images = photographs(2000, 1, 1)
    shifts = (change(colors.lighting, images, deviation=0.1) - images)[:, 0, 0]
    components = np.array(colors.PCA_COMPONENTS)
    np.testing.assert_allclose(components.T @ components, np.eye(3), atol=1e-3)
    deviations = (shifts @ components).std(axis=0)
    expected = 0.1 * 255 * np.array(colors.PCA_DEVIATIONS)
    np.testing.assert_allclose(deviations, expected, rtol=0.05)
    larger = change(colors.lighting, photographs(), deviation=0.1) - photographs()
    assert np.ptp(larger, axis=(1, 2)).max() < 1e-3


def test_lighting_needs_colors():
    with pytest.raises(ValueError, match=r"`lighting` needs RGB images. Received: 1 channel"):
        colors.lighting(tf.constant(photographs(channels=1)), SEED, deviation=0.1)


@pytest.mark.parametrize("size", [(10, 12), (5, 7), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_is_applied_to_every_pixel(size, channels):
    """Pixels are taken by the four where their number allows it."""
    random = np.random.default_rng(1)
    images = photographs(2, *size, channels)
    matrix = random.normal(size=(2, channels, channels)).astype(np.float32)
    offset = random.normal(size=(2, channels)).astype(np.float32)
    changed = colors.ColorMap(matrix, offset).apply(tf.constant(images))
    for image, each, shift, result in zip(images, matrix, offset, changed, strict=True):
        np.testing.assert_allclose(result, image @ each + shift, rtol=1e-5, atol=1e-3)


def test_maps_one_after_the_other_are_one_map():
    images = tf.constant(photographs())
    jitter = colors.color_jitter(images, SEED, strength=0.4)
    light = colors.lighting(images, SEED, deviation=0.1)
    common = colors.ColorMap(2 * tf.eye(3)[tf.newaxis], tf.constant([[1.0, 2.0, 3.0]]))
    expected = common.apply(light.apply(jitter.apply(images)))
    result = jitter.then(light).then(common).apply(images)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("function", "options"),
    [(colors.color_jitter, {"strength": 0.4}), (colors.lighting, {"deviation": 0.1})],
)
def test_the_seed_decides(function, options):
    images = photographs(16)
    first = change(function, images, **options)
    np.testing.assert_array_equal(first, change(function, images, **options))
    assert np.any(first != change(function, images, SEED + 1, **options))
