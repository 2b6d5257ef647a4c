"""Facts that hold on every backend of Keras: build, forward pass, one training step, saving.

`make test` runs this file once for each backend. On JAX and torch the numbers are compared with
TensorFlow's, computed in a process of its own, since Keras takes one backend a process.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_preact
from keras_preact import Architecture, layers, transforms, weights
from keras_preact.dense import dense_channels
from keras_preact.preprocessing import Preprocessing, Preprocessor
from tests.odd_files import DAMAGED, FILES, upright

# Together they have every kind of unit: with and without a projection and a stride, and alike.
ARCHITECTURES = {
    "bottleneck": Architecture(
        units=(2, 1),
        channels=(16, 32),
        strides=(1, 2),
        stem_channels=8,
        rematerialize="norms",
    ),
    "stacked": Architecture(
        units=(4, 1),
        channels=(8, 16),
        strides=(1, 2),
        unit="basic",
        stem_channels=8,
        padding="same",
        scan_units=True,
        rematerialize=True,
    ),
    "d": Architecture(
        units=(1, 1),
        channels=(16, 32),
        strides=(1, 2),
        stem="deep",
        stem_channels=16,
        downsample="avg_pool",
        norm="evonorm_s0",
        norm_groups=4,
        activation="linear",
        rematerialize="norms",
    ),
    "slim": Architecture(
        units=(2, 1),
        channels=(16, 32),
        strides=(2, 2),
        stride_unit="last",
        downsample="subsample",
        output_stride=8,
        stem_channels=8,
        zero_pad_pool=True,
        norm="group",
        norm_groups=4,
        weight_standardization=True,
        use_bias="unnormalized",
    ),
    "cbam_res2_blur": Architecture(
        units=(1, 1),
        channels=(16, 32),
        strides=(1, 2),
        stem="cifar",
        stem_channels=16,
        spatial="res2",
        res2_scale=2,
        attention="cbam",
        blur_pool=True,
        dilations=(1, 2),
    ),
    "dense": Architecture(
        unit="dense",
        units=(1, 2),
        channels=dense_channels((1, 2), growth_rate=8, stem_channels=8),
        strides=(1, 2),
        stem_channels=8,
    ),
    "norm_free": Architecture(
        unit="basic",
        units=(4, 1),
        channels=(8, 16),
        strides=(1, 2),
        stem_channels=8,
        norm="none",
        weight_standardization="scaled",
        residual_scaling="norm_free",
        scan_units=True,
    ),
    "attention": Architecture(
        units=(1, 1),
        channels=(32, 64),
        strides=(1, 2),
        stem_channels=8,
        norm="frn",
        activation="linear",
        spatial="self_attention",
        spatial_stages=1,
        encoder_depth=1,
        encoder_width=16,
        encoder_heads=2,
    ),
}

COMPARED_LAYERS = (
    "stem_conv",
    "stage2_unit1_norm2",
    "stage2_unit2to4",
    "stage3_unit1_shortcut",
    "predictions",
)


def _filled(name: str) -> keras.Model:
    """Return a net whose weights depend on nothing but their order."""
    model = keras_preact.PreActResNet(ARCHITECTURES[name], classes=6, input_shape=(31, 36, 3))
    rng = np.random.default_rng(5)
    for variable in model.variables:
        variable.assign(rng.uniform(0.1, 0.5, variable.shape) * rng.choice([1, -1, 1], 1))
        if variable.name.endswith("variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    images = rng.standard_normal((4, 31, 36, 3)).astype("float32")
    return images, np.eye(6, dtype="float32")[[0, 2, 4, 5]]


def compute(run_eagerly: bool = False) -> dict[str, np.ndarray]:
    """Outputs, and the loss and weights after one training step, of every architecture."""
    results = {}
    images, labels = _batch()
    for name in ARCHITECTURES:
        model = _filled(name)
        model.run_eagerly = run_eagerly
        results[f"{name}/outputs"] = model.predict_on_batch(images)
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            "categorical_crossentropy",
            run_eagerly=run_eagerly,
        )
        results[f"{name}/loss"] = np.asarray(model.train_on_batch(images, labels))
        for layer in model.layers:
            if layer.name in COMPARED_LAYERS:
                for weight in layer.weights:
                    values = keras.ops.convert_to_numpy(weight)
                    results[f"{name}/{layer.name}/{weight.name}"] = values
    return results


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="compares with TensorFlow")
def test_same_numbers_as_on_tensorflow(tmp_path):
    path = tmp_path / "results.npz"
    root = Path(__file__).parents[1]
    theirs = subprocess.Popen(
        [sys.executable, __file__, str(path)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(root)},
    )
    ours = compute()
    assert theirs.wait() == 0
    tensorflow_results = dict(np.load(path))
    assert ours.keys() == tensorflow_results.keys()
    for name, expected in tensorflow_results.items():
        np.testing.assert_allclose(ours[name], expected, atol=1e-4, rtol=1e-4, err_msg=name)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only about JAX")
def test_moments_take_one_pass_over_the_maps():
    import jax

    maps = 3 + 2 * np.random.default_rng(7).standard_normal((6, 4, 5, 8)).astype("float32")

    def call(layer, values, maps):
        return layer.stateless_call(*values, maps, training=True)

    def loss(*arguments):
        outputs, moving = call(*arguments)
        return keras.ops.sum(outputs**3), moving

    def passes_over_maps(graph):
        """Count the sums over the whole maps in a graph, and in those within it."""
        inner = (each.params["jaxpr"].jaxpr for each in graph.eqns if "jaxpr" in each.params)
        sums = [each for each in graph.eqns if each.primitive.name == "reduce_sum"]
        own = sum(each.invars[0].aval.shape == maps.shape for each in sums)
        return own + sum(map(passes_over_maps, inner))

    results, passes = [], []
    for cls in (keras_preact.layers.BatchNormalization, keras.layers.BatchNormalization):
        layer = cls(momentum=0.8)
        layer.build(maps.shape)
        values = [
            [variable.value for variable in variables]
            for variables in (layer.trainable_variables, layer.non_trainable_variables)
        ]
        graph = jax.make_jaxpr(functools.partial(call, layer))(values, maps)
        passes.append(passes_over_maps(graph.jaxpr))
        step = jax.value_and_grad(functools.partial(loss, layer), (0, 1), has_aux=True)
        results.append(jax.tree.leaves(step(values, maps)))
    # Sums of the differences and of their squares, neither of which needs the other first.
    assert passes[0] == 2 < passes[1]
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras's variance there is a difference of squares"
)
def test_a_new_norm_normalizes_maps_whose_mean_is_large():
    """The moving mean is still 0, the maps are 800 times their deviation from it."""
    maps = 255 + 0.3 * np.random.default_rng(7).standard_normal((6, 4, 5, 8)).astype("float32")
    exact = maps.astype("float64")
    mean, variance = exact.mean(axis=(0, 1, 2)), exact.var(axis=(0, 1, 2))
    norm = layers.BatchNormalization(epsilon=1e-3)
    outputs = keras.ops.convert_to_numpy(norm(maps, training=True))
    # The mean is rounded to 2**-17 and the deviation to few parts of it.
    expected = (exact - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(outputs, expected, atol=2e-4)


def test_training_lowers_the_loss():
    architecture = ARCHITECTURES["stacked"].replace(drop_path=0.1, dropout=0.1)
    model = keras_preact.PreActResNet(architecture, classes=6, input_shape=(31, 36, 3))
    images, labels = _batch()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "categorical_crossentropy")
    losses = [float(model.train_on_batch(images, labels)) for _ in range(12)]
    assert min(losses[-3:]) < losses[0]


def test_units_of_a_stack_draw_masks_of_their_own():
    """On torch, those of a unit could be those of the next unit in the step before."""
    x, rate = keras.Input((None, None, 1)), keras.Input(batch_shape=(), name="drop_path_rate")
    branch = layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="unit_conv1")(x)
    branch = layers.DropPath(0.0, name="unit_drop_path")(branch, rate=rate)
    template = keras.Model([x, rate], keras.layers.Add(name="unit_add")([x, branch]))
    units = layers.StackedUnits(template, ["unit1", "unit2", "unit3"], [0.5, 0.5, 0.5])
    units.build((None, 1, 1, 1))
    # A unit multiplies by 1 where its branch drops, else by a prime.
    primes = np.array([2.0, 3.0, 5.0])
    units.stacked[0].assign(((primes - 1) / 2).reshape(3, 1, 1, 1, 1))
    ones, masks = np.ones((2000, 1, 1, 1), "float32"), []
    for _ in range(3):
        product = np.round(keras.ops.convert_to_numpy(units(ones, training=True))).ravel()
        masks += [product % prime == 0 for prime in primes]
    correlations = np.corrcoef(masks) - np.eye(len(masks))
    # Five deviations of the correlation of so many independent pairs.
    assert np.abs(correlations).max() < 5 / np.sqrt(len(ones))


@pytest.mark.parametrize(
    "kind", [keras.layers.Dropout, layers.DropBlock, layers.DropPath, layers.ShakeDrop]
)
def test_a_random_layer_draws_once_in_a_call(kind):
    """Stacked units have a seed per step: a second draw would be the first of the next step."""
    layer = kind(0.5)
    layer(np.ones((2, 4, 4, 3), "float32"), training=True)
    _, draws = keras.ops.convert_to_numpy(layer.seed_generator.state)
    # On torch, Keras's dropout without a seed draws from torch's own generator.
    aside = keras.backend.backend() == "torch" and kind is keras.layers.Dropout
    assert draws == (0 if aside else 1)


@pytest.mark.parametrize("size", [(8, 9), (6, 6), (1, 2)])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (3, 1), (2, 1), (5, 3)])
def test_average_pooling_leaves_its_padding_out(size, window, stride):
    x = np.random.default_rng(8).standard_normal((2, *size, 3)).astype("float32")
    rows, columns = (_pooled_rows(length, window, stride) for length in size)
    expected = np.einsum("yh,xw,bhwc->byxc", rows, columns, x.astype("float64"))
    last, first = (
        layers.AveragePooling2D(window, stride, "same", data_format=data_format)
        for data_format in ("channels_last", "channels_first")
    )
    received = keras.ops.convert_to_numpy(last(x))
    np.testing.assert_allclose(received, expected, atol=1e-6)
    if keras.backend.backend() != "tensorflow":
        received = keras.ops.convert_to_numpy(first(x.transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(received.transpose(0, 2, 3, 1), expected, atol=1e-6)
    assert last.compute_output_shape(x.shape) == expected.shape


def _pooled_rows(length: int, window: int, stride: int) -> np.ndarray:
    """Return the weight of each row in each of the means, by TensorFlow's rule for `"same"`."""
    count = -(-length // stride)
    padding = max(0, (count - 1) * stride + window - length)
    starts = stride * np.arange(count)[:, np.newaxis] - padding // 2
    rows = np.arange(length)
    inside = (starts <= rows) & (rows < starts + window)
    return inside / inside.sum(axis=1, keepdims=True)


def test_saving(tmp_path):
    model = _filled("bottleneck")
    images, _ = _batch()
    model.save(tmp_path / "net.keras")
    copy = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(images)) for m in (model, copy)))


def test_losses_of_activities_are_those_of_separate_units():
    changes = {"units": (3, 1), "scan_units": False, "rematerialize": False}
    architecture = ARCHITECTURES["stacked"].replace(**changes)
    model = keras_preact.PreActResNet(architecture, classes=6, input_shape=(8, 9, 3))
    for unit in range(1, 4):
        regularizer = keras.regularizers.L2(0.01)
        model.get_layer(f"stage2_unit{unit}_conv1").activity_regularizer = regularizer
    model = keras.models.clone_model(model)
    inside = keras.models.clone_model(model)
    inside.set_weights(model.get_weights())
    rematerialized = keras.Model(inside.input, layers.Rematerialized(inside)(inside.input))
    (images, labels), losses = _batch(), []
    for each in (model, transforms.stack(model), rematerialized):
        each.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy")
        losses.append([each.train_on_batch(images[:, ::4, ::4], labels) for _ in range(2)])
    np.testing.assert_allclose(losses[1:], losses[:1] * 2, rtol=1e-4)


def test_features():
    extractor = keras_preact.feature_extractor(_filled("bottleneck"))
    assert extractor.strides == {"stage2": 4, "stage3": 8}
    maps = extractor(_batch()[0])
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "stage2": (4, 8, 9, 16),
        "stage3": (4, 4, 5, 32),
    }


def test_frozen_stages_and_a_new_head():
    model = transforms.replace_head(_filled("stacked"), 2)
    transforms.freeze(model, 2)
    before = weights.named_weights(model)
    model.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy")
    images, labels = _batch()
    model.train_on_batch(images, labels[:, :2])
    after = weights.named_weights(model)
    for name, arrays in before.items():
        frozen = name.startswith(("stem", "stage2"))
        for key, values in arrays.items():
            assert np.array_equal(values, after[name][key]) == frozen, (name, key)


def test_a_feature_pyramid():
    pyramid = transforms.feature_pyramid(_filled("bottleneck"), 8, extra_level=True)
    levels = pyramid.predict_on_batch(_batch()[0])
    assert {name: tuple(value.shape) for name, value in levels.items()} == {
        "P2": (4, 8, 9, 8),
        "P3": (4, 4, 5, 8),
        "P4": (4, 2, 3, 8),
    }


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="about the other backends")
def test_neither_tensorflow_nor_matplotlib_is_needed():
    """To build a net, to prepare its images and to import all that analyzes it."""
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np, keras_preact.show\n"
        "keras_preact.PreActResNet20(units=(1, 1, 1))\n"
        "keras_preact.Preprocessor('cifar10')(np.zeros((40, 60, 3), 'uint8'))\n"
        "print('tensorflow' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert result.stdout.strip() == "False"


def test_images_are_prepared_by_the_formulas():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    values = Preprocessing(input_size=16, mean=(0.3, 0.4, 0.5), std=(0.2, 0.3, 0.4))
    expected = (values.resize_and_crop(image) / 255 - values.mean) / values.std
    np.testing.assert_allclose(Preprocessor(values)(image), expected, atol=1e-6)
    received = keras_preact.preprocess_input(image)
    np.testing.assert_allclose(received, image / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_odd_files_are_read_as_pillow_reads_them(channels):
    preprocessor = Preprocessor(
        Preprocessing(input_size=32, mean=(0.0,) * channels, std=(1 / 255,) * channels)
    )
    expected = preprocessor([Image.fromarray(upright(file)) for file in FILES.values()])
    np.testing.assert_array_equal(preprocessor([*FILES.values()]), expected)
    for file in DAMAGED.values():
        with pytest.raises(ValueError, match="Not a readable image"):
            preprocessor(file)


if __name__ == "__main__":
    # TensorFlow's kernels are the same outside of a graph, which would take longer to trace.
    np.savez(sys.argv[1], **compute(run_eagerly=True))
