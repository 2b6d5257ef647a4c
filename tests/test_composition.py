"""Models made of models: every layer by its path."""

import keras
import pytest
from keras import layers

import keras_preact
from keras_preact.composition import functional, nested_net, nets
from tests.nets import TINY, X, net

BODY = {"include_top": False, "pooling": "avg"}


def body(name="body", **changes):
    return net(changes, architecture=TINY, randomize=False, name=name, **BODY)


def paths(model):
    return [path for path, _ in keras_preact.named_layers(model)]


def test_the_paths_in_a_net_are_the_names_of_its_layers():
    model = body()
    assert paths(model) == [layer.name for layer in model.layers]


def test_a_unit_that_is_a_model_adds_nothing_to_the_path():
    """Layers have the same paths in rematerialized units, which are models, as in separate ones."""
    separate, nested = (paths(body(units=(2, 1), rematerialize=each)) for each in (False, True))
    assert "stage2_unit2" in nested and "stage2_unit2" not in separate
    assert {path for path in separate if not path.startswith("input")} <= {*nested}
    assert not any("/" in path for path in nested)


def test_paths_go_through_nested_models_sequential_ones_and_wrappers():
    inner, images = body(), keras.Input((2, *X.shape[1:]))
    tower = keras.Sequential([keras.Input(X.shape[1:]), layers.Rescaling(2.0), inner])
    tower.name = "tower"
    model = keras.Model(images, layers.TimeDistributed(tower, name="each")(images))
    found = dict(keras_preact.named_layers(model))
    assert found["each/tower/body/stem_conv"] is inner.get_layer("stem_conv")
    assert found["each/tower"] is tower


def test_a_shared_net_comes_once_and_two_of_an_architecture_have_paths_of_their_own():
    first, second = body("a"), body("b")
    x, y = keras.Input(X.shape[1:]), keras.Input(X.shape[1:])
    model = keras.Model([x, y], layers.Average()([first(x), first(y), second(x)]))
    found = [path for path in paths(model) if path.endswith("stem_conv")]
    assert found == ["a/stem_conv", "b/stem_conv"]
    assert nets(model) == [first, second]
    with pytest.raises(ValueError, match=r"several nets, \['a', 'b'\].*\(model\)\)\['a'\]"):
        nested_net(model)


def test_the_call_of_a_nested_net_is_that_in_the_model():
    inner, x = body(), keras.Input(X.shape[1:])
    inner(keras.Input(X.shape[1:]))  # In the graph of another model.
    scaled = layers.Rescaling(2.0)(x)
    model = keras.Model(x, layers.Dense(2)(inner(scaled)))
    call = nested_net(model)
    assert call.model is inner and call.input is scaled and call.output is model.layers[-1].input


def test_a_net_called_twice_or_inside_a_wrapper_is_refused_with_the_reason():
    inner, x, y = body(), keras.Input(X.shape[1:]), keras.Input(X.shape[1:])
    with pytest.raises(ValueError, match="'body', a Functional that is called 2 times"):
        nested_net(keras.Model([x, y], layers.Add()([inner(x), inner(y)])))
    images = keras.Input((2, *X.shape[1:]))
    with pytest.raises(ValueError, match="'time_distributed.*', a TimeDistributed"):
        nested_net(keras.Model(images, layers.TimeDistributed(inner)(images)))


def test_a_model_without_a_net_is_refused():
    with pytest.raises(ValueError, match="must be a net of keras_preact"):
        nets(keras.Sequential([keras.Input((2,)), layers.Dense(2)]))


def test_a_sequential_model_is_a_functional_one():
    model = keras.Sequential([keras.Input(X.shape[1:]), body(), layers.Dense(2)])
    same = functional(model)
    assert [layer.name for layer in same.layers[1:]] == [layer.name for layer in model.layers]
    assert functional(same) is same
    empty = keras.Sequential([layers.Dense(2)])
    assert functional(empty) is empty
