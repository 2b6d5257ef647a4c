"""Files of Keras are known by what is in them: any writer, any container."""

import json

import h5py
import keras
import keras_hub
import numpy as np
import pytest
from keras import layers

import keras_preact
from keras_preact.weights import convert, load_weights, named_weights, save_half_precision
from tests.nets import TINY, images, net, scores

SUFFIXES = (".weights.h5", ".keras", ".h5")
SIZE = (32, 32, 3)
X = images(1, *SIZE)


def save(model, path):
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def randomized(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def of_keras_applications():
    return keras.applications.ResNet50V2(weights=None, include_top=False, input_shape=SIZE)


def of_keras_hub():
    return keras_hub.models.ResNetBackbone(
        [64],
        [7],
        [64, 128, 256, 512],
        [2, 2, 2, 2],
        [1, 2, 2, 2],
        block_type="basic_block",
        use_pre_activation=True,
        image_shape=SIZE,
    )


def of_this_package():
    return keras_preact.PreActResNet18(weights=None, include_top=False, input_shape=SIZE)


WRITERS = {
    "keras.applications": (of_keras_applications, keras_preact.ResNet50V2),
    "keras_hub": (of_keras_hub, keras_preact.PreActResNet18),
    "keras_preact": (of_this_package, keras_preact.PreActResNet18),
}


@pytest.fixture(scope="module", params=WRITERS)
def written(request):
    """Return a writer's net, and a net of ours to read into."""
    writer, builder = WRITERS[request.param]
    return randomized(writer()), builder(weights=None, include_top=False, input_shape=SIZE)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_net_of_any_writer_is_read_from_any_container(written, suffix, tmp_path):
    theirs, ours = written
    load_weights(ours, save(theirs, tmp_path / f"net{suffix}"))
    expected = theirs(X)
    # keras_hub's backbone gives a pyramid in training, and here the last maps.
    np.testing.assert_allclose(ours(X), expected, atol=1e-4 * np.abs(expected).max())


def test_a_container_with_another_ending_is_read_all_the_same(tmp_path):
    """The ending says that Keras wrote the file; the content, which format."""
    model = net(architecture=TINY)
    path = save(model, tmp_path / "net.keras").rename(tmp_path / "net.weights.h5")
    other = net(architecture=TINY, seed=1)
    load_weights(other, path)
    np.testing.assert_array_equal(scores(other), scores(model))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", [{"scan_units": True}, {"rematerialize": True}])
def test_every_form_of_units_is_read_from_every_container(form, suffix, tmp_path):
    model = net({**form, "drop_path": 0.1})
    path = save(model, tmp_path / f"net{suffix}")
    flat = net({"drop_path": 0.1}, randomize=False, seed=1)
    load_weights(flat, path)
    np.testing.assert_allclose(scores(flat), scores(model), rtol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_of_two_nets_is_read_by_paths(suffix, tmp_path):
    def two(seed):
        x = keras.Input((16, 16, 3))
        towers = [net(architecture=TINY, name=name, seed=seed + i) for i, name in enumerate("ab")]
        y = layers.Concatenate()([tower(x) for tower in towers])
        head = keras.Sequential([keras.Input(y.shape[1:]), layers.Dense(2, name="d")], name="head")
        return keras.Model(x, head(y))

    model, other = two(0), two(5)
    path = save(model, tmp_path / f"two{suffix}")
    load_weights(other, path)
    check_same_weights(other, model)


def check_same_weights(model, other):
    for (name, arrays), expected in zip(
        named_weights(model).items(), named_weights(other).values(), strict=True
    ):
        for key in arrays:
            np.testing.assert_array_equal(arrays[key], expected[key], err_msg=name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_layer_of_two_nested_models_is_read_though_keras_saves_it_once(suffix, tmp_path):
    def both(seed):
        whole = net({"scan_units": True}, architecture=TINY.replace(units=(1, 3)), seed=seed)
        maps = whole.get_layer("head_act").output
        x = keras.Input((16, 16, 3))
        first = keras.Model(whole.input, maps, name="first")
        second = keras.Model(whole.input, whole.output, name="second")
        return keras.Model(x, [first(x), second(x)])

    model, other = both(0), both(5)
    load_weights(other, save(model, tmp_path / f"both{suffix}"))
    check_same_weights(other, model)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_net_two_models_deep_is_read_by_paths(suffix, tmp_path):
    def deep(seed):
        inner = net({"scan_units": True}, architecture=TINY.replace(units=(1, 3)), seed=seed)
        middle = keras.Sequential([keras.Input((16, 16, 3)), inner], name="middle")
        head = layers.Dense(2, name="scores")
        return keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(2.0), middle, head])

    model, other = deep(0), deep(5)
    load_weights(other, save(model, tmp_path / f"deep{suffix}"))
    check_same_weights(other, model)


def test_a_net_in_bfloat16_is_read(tmp_path):
    """HDF5 has no such type; in the old format Keras does not write it."""
    model = net(architecture=TINY, dtype="bfloat16")
    half = tmp_path / "half.weights.h5"
    save_half_precision(model, half)
    files = [half, *(save(model, tmp_path / f"net{suffix}") for suffix in SUFFIXES[:2])]
    for path in files:
        for dtype in ("bfloat16", "float32"):
            other = net(architecture=TINY, dtype=dtype, seed=1)
            load_weights(other, path)
            check_same_weights(other, model)
    other = net(architecture=TINY, dtype="bfloat16", seed=1)
    other.load_weights(half)
    check_same_weights(other, model)


def test_stacked_units_with_self_attention_are_read_from_the_old_format(tmp_path):
    changes = {"spatial": "self_attention", "attention_heads": 2}
    model = net({**changes, "scan_units": True})
    flat = net(changes, seed=1)
    load_weights(flat, save(model, tmp_path / "net.h5"))
    check_same_weights(flat, model)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_net_alone_in_another_model_is_read_as_the_net(suffix, tmp_path):
    inner = net(architecture=TINY)
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(2.0), inner])
    flat = net(architecture=TINY, seed=1)
    load_weights(flat, save(model, tmp_path / f"net{suffix}"))
    np.testing.assert_array_equal(scores(flat), scores(inner))


def test_an_older_keras_named_the_weights_of_nested_models_alike(tmp_path):
    inner = net(architecture=TINY)
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(2.0), inner])
    path = save(model, tmp_path / "net.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights"].attrs["keras_version"] = "2.15.0"
    flat = net(architecture=TINY, seed=1)
    load_weights(flat, path)
    np.testing.assert_array_equal(scores(flat), scores(inner))


def test_convert_takes_every_container(tmp_path):
    path = save(randomized(of_keras_hub()), tmp_path / "net.keras")
    assert convert(path, tmp_path / "out.weights.h5") == "PreActResNet18"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_another_net_names_what_was_found(suffix, tmp_path):
    x = keras.Input((4,))
    other = keras.Model(x, layers.Dense(2, name="scores")(layers.Dense(3, name="hidden")(x)))
    path = save(other, tmp_path / f"net{suffix}")
    with pytest.raises(ValueError, match=r"\['hidden', 'scores'\], of 2.*by keras_hub"):
        keras_preact.PreActResNet20(weights=path)


def test_an_archive_without_weights_is_named(tmp_path):
    path = tmp_path / "net.keras"
    path.write_text(json.dumps({"layers": []}))
    with pytest.raises(ValueError, match="net.keras.*no whole file of Keras weights"):
        keras_preact.PreActResNet20(weights=path)
