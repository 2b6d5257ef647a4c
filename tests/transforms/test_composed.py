"""Surgery on models that are made of nets: nested, several, shared, sequential, cut."""

from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers

import keras_preact
from keras_preact import transforms
from keras_preact.transforms.precision import stored_as_computed
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import SMALL, TINY, X, images, net, scores
from tests.numerics import net_tolerance

SHAPE = X.shape[1:]
BODY = {"include_top": False, "pooling": "avg"}


arrays = keras.ops.convert_to_numpy


def body(name="body", architecture=TINY, **options):
    return net(architecture=architecture, name=name, **{**BODY, **options})


def two():
    """Return the mean of two nets of one architecture, one of them of two views of the image."""
    x = keras.Input(SHAPE)
    first, second = (net(architecture=TINY, name=name, seed=i) for i, name in enumerate("ab"))
    outputs = [first(x), first(layers.Rescaling(0.5)(x)), second(x)]
    return keras.Model(x, layers.Average()(outputs), name="two")


def scanned():
    """Return a classifier on two nets, one with stacked units, one with separate ones."""
    x = keras.Input(SHAPE)
    first = body("a", SMALL, changes={"scan_units": True})
    second = body("b", SMALL)
    y = layers.Concatenate()([first(x), second(x)])
    return keras.Model(x, layers.Dense(3)(y), name="scanned")


def sequential():
    head = keras.Sequential([keras.Input((16,)), layers.Dense(4), layers.ReLU()], name="head")
    return keras.Sequential([keras.Input(SHAPE), layers.Rescaling(2.0), body(), head])


def each_frame():
    x = keras.Input((3, *SHAPE))
    return keras.Model(x, layers.TimeDistributed(body("frame"), name="frames")(x))


def rematerialized():
    x = keras.Input(SHAPE)
    lean = keras_preact.layers.Rematerialized(body(changes={"rematerialize": True}), name="lean")
    return keras.Model(x, layers.Dense(3)(lean(x)))


MODELS = {each.__name__: each for each in (two, scanned, sequential, each_frame, rematerialized)}


@pytest.fixture(scope="module", params=MODELS)
def composed(request):
    """Return a model of nets, images for it, and its outputs."""
    model = MODELS[request.param]()
    x = X if len(model.input_shape) == 4 else images(2, 3, *SHAPE)
    return model, x, scores(model, x)


@pytest.mark.parametrize("transform", [transforms.fold, transforms.unroll], ids=["fold", "unroll"])
def test_every_net_in_a_model_is_transformed(composed, transform):
    model, x, expected = composed
    result = transform(model)
    np.testing.assert_allclose(scores(result, x), expected, rtol=1e-4, atol=1e-5)
    kinds = Counter(type(layer) for _, layer in keras_preact.named_layers(result))
    assert not kinds[keras_preact.layers.StackedUnits]
    assert bool(kinds[keras_preact.layers.BatchNormalization]) == (transform is transforms.unroll)


def test_weights_go_from_one_composed_model_to_another(composed):
    model, x, expected = composed
    clone = keras.models.clone_model(model)
    weights = named_weights(model)
    set_named_weights(clone, weights)
    np.testing.assert_array_equal(scores(clone, x), expected)
    assert sum(a.size for each in weights.values() for a in each.values()) == model.count_params()


def test_weights_are_keyed_by_the_path_of_nested_models():
    assert {path.rpartition("/")[0] for path in named_weights(two())} == {"a", "b"}
    paths = {*named_weights(scanned())}
    units = {path.partition("/")[2] for path in paths if path.startswith("a/")}
    assert units == {path.partition("/")[2] for path in paths if path.startswith("b/")}
    head = {path for path in named_weights(sequential()) if not path.startswith("body/")}
    assert len(head) == 1 and head.pop().startswith("head/dense")


def test_stacks_are_made_in_every_net_and_undone():
    model = scanned()
    separate = transforms.unroll(model)
    stacked = transforms.stack(separate)
    assert {*named_weights(model)} == {*named_weights(separate)} == {*named_weights(stacked)}
    np.testing.assert_allclose(scores(stacked), scores(model), rtol=1e-5, atol=1e-6)
    names = [layer.name for layer in stacked.get_layer("b").layers]
    assert "stage3_unit2to3" in names


def test_precision_reaches_every_net_and_leaves_what_is_no_policy():
    """`keras.ops.cast` has an argument `dtype`, and tokens are no floats."""
    x, tokens = keras.Input(SHAPE), keras.Input((5,), dtype="int32")
    text = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(1000, 8), layers.Flatten()], name="text"
    )
    normalized = keras_preact.preprocess_input(x, weights="cifar10")
    logits = layers.Dense(3)(layers.Concatenate()([body()(normalized), text(tokens)]))
    model = keras.Model([x, tokens], layers.Activation("softmax")(logits))
    given = [images(2, *SHAPE) * 50 + 100, np.full((2, 5), 999)]
    half = transforms.with_dtype(model, "mixed_bfloat16")
    policies = {path: layer.dtype_policy.name for path, layer in keras_preact.named_layers(half)}
    assert policies["body/stage2_unit1_conv1"] == policies["text/embedding"] == "mixed_bfloat16"
    assert policies[half.layers[-1].name] == policies[half.layers[-2].name] == "float32"
    assert half.output.dtype == "float32"
    np.testing.assert_allclose(
        scores(half, given), scores(model, given), atol=net_tolerance("bfloat16")
    )


def test_precision_reaches_what_is_wrapped():
    x = keras.Input((2, *SHAPE))
    y = layers.TimeDistributed(layers.Conv2D(3, 3, padding="same", name="conv"), name="frames")(x)
    y = layers.TimeDistributed(body(), name="each")(y)
    y = layers.TimeDistributed(layers.Dense(3, name="logits"), name="heads")(y)
    y = layers.TimeDistributed(layers.Activation("softmax", name="softmax"), name="shares")(y)
    model = keras.Model(x, y)
    given = images(2, 2, *SHAPE)
    half = transforms.with_dtype(model, "mixed_bfloat16")
    policies = {path: layer.dtype_policy.name for path, layer in keras_preact.named_layers(half)}
    for path in ("frames", "frames/conv", "each/body/stage2_unit1_conv1"):
        assert policies[path] == "mixed_bfloat16", path
    for path in ("heads", "heads/logits", "shares", "shares/softmax"):
        assert policies[path] == "float32", path
    tolerance = net_tolerance("bfloat16")
    np.testing.assert_allclose(scores(half, given), scores(model, given), atol=tolerance)
    stored = stored_as_computed(half)
    assert dict(keras_preact.named_layers(stored))["frames/conv"].kernel.dtype == "bfloat16"
    np.testing.assert_allclose(scores(stored, given), scores(half, given), atol=tolerance)


def test_convolutions_in_every_net_take_winograds_algorithm():
    wide = TINY.replace(channels=(128, 128), units=(1, 1), strides=(1, 1))
    x = keras.Input(SHAPE)
    first, second = (body(name, wide) for name in "ab")
    model = keras.Model(x, layers.Add()([first(x), second(x)]))
    fast = transforms.winograd(transforms.fold(model))
    found = [
        path
        for path, layer in keras_preact.named_layers(fast)
        if isinstance(layer, keras_preact.layers.WinogradConv2D)
    ]
    assert {path[0] for path in found} == {"a", "b"}
    expected = scores(model)
    np.testing.assert_allclose(scores(fast), expected, atol=1e-3 * np.abs(expected).max())


def test_a_net_and_its_features_in_one_model_are_folded_alike():
    x = keras.Input(SHAPE)
    inner = body(pooling=None)
    features = keras_preact.feature_extractor(inner)(x)
    model = keras.Model(x, [inner(x), features["stage2"]])
    folded = transforms.fold(model)
    for place in range(2):
        got, expected = (arrays(each(X)[place]) for each in (folded, model))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


# What is done to the one net in a model.


def nested(inner, before=None, head=True):
    x = keras.Input(inner.input_shape[1:])
    y = inner(before(x) if before else x)
    return keras.Model(x, layers.Dense(3)(y) if head else y, name="nested")


def test_features_of_a_nested_net_are_those_of_the_net():
    inner = body()
    model = nested(keras.Sequential([keras.Input(SHAPE), inner]), layers.Rescaling(2.0))
    found = keras_preact.feature_extractor(model)
    expected = keras_preact.feature_extractor(inner)
    assert found.strides == expected.strides == {"stage2": 1, "stage3": 2}
    for name, maps in expected(2 * X).items():
        np.testing.assert_array_equal(arrays(found(X)[name]), arrays(maps))
    pyramid = transforms.feature_pyramid(model, 8)
    assert pyramid.strides == {"P2": 1, "P3": 2}


def test_the_head_of_a_nested_net_is_replaced_where_the_model_ends_in_it():
    inner = net(architecture=TINY, name="inner")
    model = nested(inner, layers.Rescaling(2.0), head=False)
    result = transforms.replace_head(model, 2)
    assert result.output_shape == (None, 2) and result.name == "nested"
    alone = transforms.replace_head(inner, None)
    np.testing.assert_array_equal(
        scores(transforms.replace_head(model, None)), scores(alone, 2 * X)
    )
    with pytest.raises(ValueError, match="must end in its net, 'inner'.*goes on after it to"):
        transforms.replace_head(nested(inner), 2)


def norms(model):
    """Return the names of the batch norms in a model, or of the nets that hold any."""
    named = keras_preact.named_layers(model)
    norm = layers.BatchNormalization
    return {path.split("/")[0] for path, each in named if isinstance(each, norm)}


def test_dropout_that_a_call_keeps_on_stays_on():
    """`training=True` in a nested call is part of the model."""
    x = keras.Input(SHAPE)
    inner = body(changes={"dropout": 0.5})
    model = keras.Model(x, layers.Dense(2)(inner(x, training=True)))
    maps = keras_preact.feature_extractor(model)
    assert np.ptp([arrays(maps(X)["stage3"]) for _ in range(3)], axis=0).max() > 0
    for transform in (transforms.fold, lambda each: transforms.with_dtype(each, "float64")):
        result = transform(model)
        # With an explicit `training=False`, as `predict` has it, nothing is dropped.
        np.testing.assert_allclose(
            arrays(result(X, training=False)),
            arrays(model(X, training=False)),
            rtol=1e-4,
            atol=1e-5,
        )
        assert np.ptp([scores(result) for _ in range(3)], axis=0).max() > 0


def test_what_runs_before_a_call_that_trains_is_folded_and_nothing_else():
    """Keras passes `training=True` on to the layers that it calls next."""
    x = keras.Input(SHAPE)
    before, trained, beside, after = (body(name) for name in "abcd")
    maps = before(layers.Rescaling(0.5)(x))
    both = [trained(layers.Reshape(SHAPE)(layers.Dense(768)(maps)), training=True), beside(x)]
    y = layers.BatchNormalization(name="end")(layers.Concatenate()(both))
    model = keras.Model(x, [y, after(layers.Reshape(SHAPE)(layers.Dense(768)(y)))])
    folded = transforms.fold(model)
    assert norms(folded) == {"b", "c", "d", "end"}
    weights = model.get_weights()
    expected = [arrays(each) for each in model(X)]
    model.set_weights(weights)
    for got, each in zip(folded(X), expected, strict=True):
        np.testing.assert_allclose(arrays(got), each, atol=1e-4 * np.abs(each).max())


def test_augmentation_trains_nothing_after_it():
    """Keras writes the default of its augmentation, `training=True`, into the graph."""
    x = keras.Input(SHAPE)
    inner = body(architecture=SMALL)
    model = keras.Model(x, layers.Dense(2)(inner(layers.RandomFlip()(x))))
    expected = arrays(model(X, training=False))
    folded, stacked = transforms.fold(model), transforms.stack(model)
    assert not norms(folded)
    assert "body/stage3_unit2to3" in dict(keras_preact.named_layers(stacked))
    for result in (folded, stacked):
        received = arrays(result(X, training=False))
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)
    assert any(isinstance(each, layers.RandomFlip) for each in folded.layers)


def test_a_call_that_says_it_is_in_inference_is_folded():
    x = keras.Input(SHAPE)
    dropped = layers.Dropout(0.5)(x, training=True)
    model = keras.Model(x, layers.BatchNormalization(name="end")(body()(dropped, training=False)))
    assert norms(transforms.fold(model)) == {"end"}


def test_stacked_units_that_always_train_are_unrolled_as_they_are():
    x = keras.Input(SHAPE)
    inner = body(architecture=SMALL, changes={"scan_units": True})
    model = keras.Model(x, inner(x, training=True))
    separate = transforms.unroll(model)
    weights = model.get_weights()
    expected = scores(model)
    model.set_weights(weights)
    np.testing.assert_allclose(scores(separate), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="calls with `training=True`, of `body` or in it"):
        transforms.stack(separate)


def test_units_whose_inside_is_needed_elsewhere_are_not_stacked():
    model = net(architecture=SMALL)
    inside = model.get_layer("stage3_unit2_add").output
    with pytest.raises(ValueError, match="of `stage3_unit2_add` is needed .* by the model's outp"):
        transforms.stack(keras.Model(model.input, [inside, model.output]))


def test_each_net_in_a_model_is_frozen_and_other_layers_are_left():
    first, second = body("a"), body("b")
    x = keras.Input(SHAPE)
    tower = layers.Dense(2, trainable=False, name="tower")
    y = layers.Concatenate()([first(x), second(x), tower(layers.Flatten()(x))])
    model = keras.Model(x, layers.Dense(3, name="top")(y))
    frozen = transforms.freeze(model, 3)
    assert [each.path.split("/")[0] for each in model.trainable_variables] == ["top", "top"]
    assert frozen == 2 * transforms.freeze(body(), 3)
    transforms.freeze(model, 0)
    assert not tower.trainable and len(first.trainable_variables) > 5


def test_layers_in_the_graph_of_a_net_that_are_not_its_own_are_left():
    x = keras.Input(SHAPE)
    before = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(3, 3)], name="before")
    before.trainable = False
    norm = layers.BatchNormalization(name="other")
    model = net(architecture=TINY, input_shape=None, input_tensor=norm(before(x)))
    transforms.freeze(model, 3, norms=True)
    trained = {each.path.split("/")[0] for each in model.trainable_variables}
    assert trained == {"other", "predictions"}
    transforms.freeze(model, 0)
    assert not before.trainable_variables and len(model.trainable_variables) > 10
    model.trainable = False
    with pytest.raises(ValueError, match="with layers that are not the net's"):
        transforms.freeze(model, 2)


def test_a_net_in_a_model_that_is_frozen_as_a_whole_is_not_frozen_in_part():
    model = keras.Sequential([keras.Input(SHAPE), layers.Rescaling(1.0), body()], name="whole")
    model.trainable = False
    match = "'whole' is frozen as a whole, around a net.*`trainable = True` first"
    with pytest.raises(ValueError, match=match):
        transforms.freeze(model, 2)
    model.trainable = True
    assert transforms.freeze(model, 2) == transforms.freeze(body(), 2)


def test_depths_of_a_nested_net_are_its_own_and_other_layers_come_last():
    inner = body()
    depths = keras_preact.layer_depths(nested(inner))
    own = keras_preact.layer_depths(inner)
    assert {path: depth for path, depth in depths.items() if path in own} == own
    assert [depths[path] for path in depths if path not in own] == [3, 3]


def test_a_model_without_a_graph_is_refused_with_the_reason():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = body()

        def call(self, x):
            return self.body(x)

    model = Subclassed()
    model(X)
    for surgery in (
        transforms.fold,
        keras_preact.feature_extractor,
        lambda each: transforms.replace_head(each, 2),
        lambda each: transforms.adapt_input_channels(each, 1),
        lambda each: transforms.resize_input(each, 32, 32),
    ):
        with pytest.raises(ValueError, match="must be a functional Keras model.*Subclassed"):
            surgery(model)
    assert transforms.freeze(model, 3) == transforms.freeze(body(), 3)


# Channels and sizes.


@pytest.mark.parametrize(
    "before",
    [layers.Rescaling(0.5), lambda x: keras_preact.preprocess_input(x, weights="cifar10")],
    ids=["alike", "per channel"],
)
def test_gray_images_score_as_they_would_with_three_equal_channels(before):
    gray = images(2, *SHAPE[:2], 1)
    for model in (
        nested(body(), before),
        keras.Sequential([keras.Input(SHAPE), nested(body(), before)]),
    ):
        result = transforms.adapt_input_channels(model, 1)
        assert result.input_shape[-1] == 1
        expected = scores(model, np.repeat(gray, 3, axis=-1))
        np.testing.assert_allclose(scores(result, gray), expected, rtol=1e-4, atol=1e-5)


def test_a_net_on_normalized_input_takes_gray_images():
    x = keras.Input(SHAPE)
    inputs = keras_preact.preprocess_input(x, weights="cifar10")
    model = net(architecture=TINY, input_shape=None, input_tensor=inputs)
    gray = images(2, *SHAPE[:2], 1)
    result = transforms.adapt_input_channels(model, 1)
    expected = scores(model, np.repeat(gray, 3, axis=-1))
    np.testing.assert_allclose(scores(result, gray), expected, rtol=1e-5)


ADAPTED = layers.Normalization(name="seen")
ADAPTED.adapt(images(4, *SHAPE))


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize(
    "before",
    [
        layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 1.0, 1.0]),
        ADAPTED,
        layers.Rescaling([1.0, 2.0, 3.0]),
        lambda x: keras_preact.preprocess_input(x, weights="cifar10"),
    ],
    ids=["normalization", "adapted", "rescaling", "operations"],
)
def test_layers_with_a_value_per_channel_are_named(before, channels):
    x = keras.Input(SHAPE)
    model = net(architecture=TINY, input_shape=None, input_tensor=before(x))
    if channels == 1 and not isinstance(before, layers.Layer):
        return
    with pytest.raises(ValueError, match=rf"for {channels} channels. .* before its first conv"):
        transforms.adapt_input_channels(model, channels)


def test_a_nested_net_is_resized_with_its_positions():
    inner = net({"encoder_depth": 1, "encoder_heads": 2}, architecture=TINY, include_top=False)
    model = nested(inner, layers.Rescaling(2.0), head=False)
    result = transforms.resize_input(model, 32, 32)
    expected = transforms.resize_input(inner, 32, 32)
    x = images(1, 32, 32, 3)
    np.testing.assert_array_equal(scores(result, x), scores(expected, 2 * x))


# Nets that were cut.


def test_a_net_cut_before_its_norm_is_not_taken_for_whole():
    model = net(architecture=SMALL)
    cut = keras.Model(model.input, model.get_layer("stage2_unit2_add").output)
    raw = keras.Model(model.input, model.get_layer("stage3_unit1_norm1").output)
    for surgery in (keras_preact.feature_extractor, lambda each: transforms.replace_head(each, 2)):
        for each, end in ((cut, "stage2_unit2_add"), (raw, "stage3_unit1_norm1")):
            with pytest.raises(ValueError, match=f"ends in '{end}'.*`stage3_unit1_act1`"):
                surgery(each)
    stages = {"units": (2, 2, 3), "channels": (16, 32, 64), "strides": (1, 2, 1)}
    model = net(stages)
    cut = keras.Model(model.input, model.get_layer("stage3_unit2_add").output)
    assert [*keras_preact.feature_extractor(cut, (2,)).output] == ["stage2"]


def test_a_net_cut_behind_its_norm_is_a_net_of_fewer_stages():
    model = net(architecture=SMALL)
    cut = keras.Model(model.input, model.get_layer("stage3_unit1_act1").output)
    maps = keras_preact.feature_extractor(cut)(X)
    assert [*maps] == ["stage2"]
    expected = keras_preact.feature_extractor(model, (2,))(X)["stage2"]
    np.testing.assert_array_equal(arrays(maps["stage2"]), arrays(expected))
    pooled = scores(transforms.replace_head(cut, None))
    np.testing.assert_allclose(pooled, np.mean(arrays(expected), axis=(1, 2)), rtol=1e-5)
    transforms.freeze(cut, 2)
    assert not cut.trainable_variables


def test_a_net_whose_sums_are_activated_may_be_cut_at_them_and_not_before():
    model = net({"order": "original"})
    for end in ("stage2_unit2_conv1", "stage2_unit2_add"):
        cut = keras.Model(model.input, model.get_layer(end).output)
        with pytest.raises(ValueError, match=f"ends in '{end}': the unit goes on behind it"):
            keras_preact.feature_extractor(cut)
    cut = keras.Model(model.input, model.get_layer("stage2_unit2_sum_act").output)
    assert transforms.replace_head(cut, 2).output_shape == (None, 2)


def test_each_of_two_nets_grows_and_keeps_the_function():
    def model(units):
        x, y = keras.Input(SHAPE), keras.Input(SHAPE)
        nets = [body(name, changes={"units": units}) for name in "ab"]
        top = layers.Dense(2, name="top")
        return keras.Model([x, y], top(layers.Concatenate()([nets[0](x), nets[1](y)])))

    small = model((1, 1))
    deeper = transforms.deepen(small, model((2, 1)))
    given = [X, 2 * X]
    np.testing.assert_allclose(scores(deeper, given), scores(small, given), rtol=1e-4, atol=1e-5)
    assert any(path.startswith("b/stage2_unit2_") for path in named_weights(deeper))
