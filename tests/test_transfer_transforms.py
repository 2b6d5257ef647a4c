"""New heads and frozen stages, in every form a net's units can have."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import Architecture
from keras_preact.transforms import freeze, replace_head, stack, unroll
from keras_preact.weights import named_weights

TINY = Architecture(
    unit="basic",
    units=(1, 3, 1),
    channels=(8, 8, 16),
    strides=(1, 2, 2),
    stem="cifar",
    stem_channels=8,
    drop_path=0.2,
    dropout=0.1,
)
FORMS = {
    "flat": {},
    "nested": {},
    "rematerialised": {"rematerialize": True},
    "scanned": {"scan_units": True},
    "scanned, rematerialised": {"scan_units": True, "rematerialize": True},
}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 16, 16, 3)).astype("float32")
Y = RNG.integers(0, 3, 8)


@pytest.fixture
def net(monkeypatch):
    """Builds a net with its units in one of the forms."""

    def build(form: str = "flat", **arguments) -> keras.Model:
        if form == "nested":
            monkeypatch.setattr(keras_preact.stages, "FLAT_UNITS", 0)
        keras.utils.set_random_seed(1)
        arguments = {"classes": 4, "input_shape": (16, 16, 3), **arguments}
        return keras_preact.PreActResNet(TINY.replace(**FORMS[form]), **arguments)

    return build


def _fit(model: keras.Model, epochs: int = 1) -> None:
    optimizer, loss = keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, jit_compile=False)
    model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0)


def _changed(before: dict, after: dict) -> dict[str, list[str]]:
    """By layer, the arrays that differ."""
    return {
        name: [key for key in arrays if not np.array_equal(arrays[key], after[name][key])]
        for name, arrays in before.items()
    }


def _check_frozen(before: dict, after: dict) -> None:
    """Everything up to stage 3 is as it was, everything after it has changed."""
    for name, keys in _changed(before, after).items():
        frozen = name.startswith(("stem", "stage2", "stage3"))
        assert len(keys) == (0 if frozen else len(before[name])), (name, keys)


@pytest.mark.parametrize("form", FORMS)
def test_frozen_stages_stay_as_they_are(net, form):
    model = replace_head(net(form), 3)
    freeze(model, 3)
    before = named_weights(model)
    _fit(model)
    _check_frozen(before, named_weights(model))


@pytest.mark.parametrize("form", ["nested", "scanned"])
def test_a_saved_model_stays_frozen_until_it_is_not(net, form, tmp_path):
    model = replace_head(net(form), 3)
    every = len(model.trainable_variables)
    freeze(model, 3)
    _fit(model)
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert len(loaded.trainable_variables) == len(model.trainable_variables) < every
    before = named_weights(loaded)
    loaded.fit(X, Y, batch_size=4, verbose=0)
    _check_frozen(before, named_weights(loaded))
    assert freeze(loaded, 0) == 0
    assert len(loaded.trainable_variables) == every
    before = named_weights(loaded)
    _fit(loaded)
    assert all(_changed(before, named_weights(loaded)).values())


@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_frozen_parameters(net, form):
    model = net(form)
    total = sum(int(np.prod(each.shape)) for each in model.trainable_variables)
    kernel, bias = model.get_layer("predictions").weights
    assert freeze(model, 1) == 3 * 3 * 3 * 8
    assert freeze(model, 4) == total - 16 * 4 - 4
    assert [id(each) for each in model.trainable_variables] == [id(kernel), id(bias)]
    model.trainable = False
    assert freeze(model, 0) == 0
    assert freeze(model, 4) == total - 16 * 4 - 4


def test_dropout_goes_on_in_frozen_units(net):
    model = net("rematerialised")
    freeze(model, 4)
    once, again = (np.asarray(model(X, training=True)) for _ in range(2))
    assert np.abs(once - again).max() > 1e-6


@pytest.mark.parametrize("form", ["flat", "nested", "rematerialised"])
def test_frozen_units_stay_so_through_stacking(net, form):
    model = net(form)
    freeze(model, 3)
    stacked = stack(model)
    separate = unroll(stacked)
    assert not stacked.get_layer("stage3_unit2to3").trainable
    frozen = {layer.name for layer in model._flatten_layers() if not layer.trainable}
    units = {layer.name for layer in separate._flatten_layers() if not layer.trainable}
    assert all(name in units for name in frozen if name.endswith(("_conv1", "_norm2")))
    count = len(model.trainable_variables)
    assert [len(each.trainable_variables) for each in (stacked, separate)] == [count, count]


def test_a_stack_is_not_frozen_in_part(net):
    model = net()
    model.get_layer("stage3_unit2_norm1").trainable = False
    with pytest.raises(ValueError, match="`stage3_unit2` to `stage3_unit3` are frozen in part"):
        stack(model)


@pytest.mark.parametrize("form", FORMS)
def test_new_classes_on_the_same_body(net, form):
    model = net(form)
    scores = np.asarray(model(X))
    other = replace_head(model, 7)
    assert other(X).shape == (8, 7)
    assert other.name == model.name
    assert [layer.name for layer in other.layers] == [layer.name for layer in model.layers]
    assert all(one is two for one, two in zip(other.layers[:-1], model.layers, strict=False))
    assert other.get_layer("predictions") is not model.get_layer("predictions")
    np.testing.assert_array_equal(model(X), scores)
    np.testing.assert_allclose(np.sum(other(X), axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_a_net_without_its_top_gets_one(net, pooling):
    model = net(include_top=False, pooling=pooling, input_shape=(None, None, 3))
    logits = replace_head(model, 7, classifier_activation=None)
    maps = keras_preact.feature_extractor(model, stages=(4,))(X)["stage4"]
    pooled = np.max(maps, axis=(1, 2)) if pooling == "max" else np.mean(maps, axis=(1, 2))
    kernel, bias = logits.get_layer("predictions").get_weights()
    np.testing.assert_allclose(logits(X), pooled @ kernel + bias, atol=1e-5)
    for none in (None, 0):
        np.testing.assert_allclose(replace_head(logits, none)(X), pooled, atol=1e-6)
        np.testing.assert_allclose(replace_head(model, none)(X), pooled, atol=1e-6)


def test_channels_first_and_mixed_precision(net):
    model = net(
        include_top=False,
        input_shape=(3, 16, 16),
        data_format="channels_first",
        dtype="mixed_bfloat16",
    )
    other = replace_head(model, 7)
    assert other.output.dtype == "float32"
    assert other.get_layer("head_pool").compute_dtype == "bfloat16"
    assert other(X.transpose(0, 3, 1, 2)).shape == (8, 7)


def test_the_new_layer_starts_as_in_a_new_net(net):
    old, new = net(), replace_head(net(), 4)
    configs = [model.get_layer("predictions").get_config() for model in (old, new)]
    assert configs[0] == configs[1]
    np.testing.assert_array_equal(new.get_layer("predictions").bias, np.zeros(4))


@pytest.mark.parametrize("classes", [-1, 2.0, "2", True])
def test_wrong_classes(net, classes):
    with pytest.raises(ValueError, match=f"`classes` must be .* Received: {classes!r}"):
        replace_head(net(), classes)


@pytest.mark.parametrize("stage", [-1, 5, "3", 2.0, True, None])
def test_wrong_stages(net, stage):
    message = rf"has \(1, 2, 3, 4\). Received: {stage!r}"
    with pytest.raises(ValueError, match=message):
        freeze(net(), stage)


@pytest.mark.parametrize("surgery", [lambda m: replace_head(m, 2), lambda m: freeze(m, 1)])
def test_a_model_of_someone_else(surgery):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    for wrong in (other, "net"):
        with pytest.raises(ValueError, match="must be a net of keras_preact"):
            surgery(wrong)


def test_a_net_that_goes_on_after_its_head(net):
    model = net()
    longer = keras.Model(model.input, keras.layers.Dense(2, name="mine")(model.output))
    with pytest.raises(ValueError, match="must end in one of the layers"):
        replace_head(longer, 2)
    with pytest.raises(ValueError, match="must end in one of the layers"):
        replace_head(keras_preact.feature_extractor(model), 2)
