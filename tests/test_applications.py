"""The builders: topology, arguments, and saving."""

from __future__ import annotations

import inspect
import re

import keras
import numpy as np
import pytest

import keras_preact
from tests.nets import images, net
from tests.numerics import NET

CHANGES = {
    "units": (1, 2),
    "channels": (16, 32),
    "stem_channels": 8,
    "dropout": 0.1,
    "drop_path": 0.2,
}


def _tiny(changes: dict | None = None, **arguments) -> keras.Model:
    options = {"classes": 4, "input_shape": None, **arguments}
    return net({**CHANGES, **(changes or {})}, randomize=False, **options)


def _trainable_count(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def _randomize(model: keras.Model) -> None:
    """Random weights everywhere, batch statistics included, so that none can hide."""
    rng = np.random.default_rng(3)
    for variable in model.variables:
        if "seed" not in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape) * 0.3)


def test_defaults_are_those_of_imagenet():
    model = keras_preact.PreActResNet18(weights=None)
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)


# Printed in arXiv:1512.03385 (20, 56, 110), arXiv:1605.07146 (164 and the wide nets).
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("PreActResNet20", "0.27"),
        ("PreActResNet56", "0.85"),
        ("PreActResNet110", "1.7"),
        ("PreActResNet164", "1.7"),
        ("WideResNet16_8", "11.0"),
        ("WideResNet28_10", "36.5"),
        ("WideResNet40_4", "8.9"),
    ],
)
def test_cifar_nets_have_the_papers_parameter_counts(name, millions):
    # Stacked units have the parameters of separate ones and build in a tenth of the time.
    model = keras_preact.BUILDERS[name](weights=None, scan_units=True)
    digits = len(millions.split(".")[1])
    # The papers' count leaves out what rounds away; WRN-40-4 is printed as 8.9 (8.949).
    assert float(millions) == pytest.approx(_trainable_count(model) / 1e6, abs=0.7 * 10**-digits)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 10)


def test_kernels_of_1001_layers_are_the_papers_count():
    # 10.2 million in arXiv:1605.07146, which leaves out the norms: here they no longer round away.
    kernels = keras_preact.decayed_variables(keras_preact.PreActResNet1001())
    count = sum(int(np.prod(kernel.shape)) for kernel in kernels)
    assert count / 1e6 == pytest.approx(10.2, abs=0.05)


# The number in the name of PreActMobileNetV2 is that of a version.
@pytest.mark.parametrize("name", sorted(keras_preact.BUILDERS.keys() - {"PreActMobileNetV2"}))
def test_depth_in_the_name_counts_the_weight_layers(name):
    builder = keras_preact.BUILDERS[name]
    depth = int(re.search(r"(?:Net|NeXt|RS|_R)(?:BC)?(\d+)", name)[1])
    architecture = builder.architecture
    per_unit = {"basic": 2, "bottleneck": 3, "dense": 2}[architecture.unit]
    # Wide nets count the first unit's projections of the three stages as one layer each, less one
    # (arXiv:1605.07146: depth 6n + 4).
    extra = 4 if name.startswith("Wide") else 2
    # Transitions count (arXiv:1608.06993, table 1).
    extra += len(architecture.units) - 1 if architecture.unit == "dense" else 0
    assert per_unit * sum(architecture.units) + extra == depth


def test_the_net_of_response_norms_is_the_papers():
    # arXiv:1911.09737: FRN with TLU in the place of every norm and ReLU, and 1e-6 for epsilon.
    architecture = keras_preact.PreActResNet50_FRN.architecture
    changes = {"norm": "frn", "activation": "linear", "norm_epsilon": 1e-6}
    assert architecture == keras_preact.PreActResNet50.architecture.replace(**changes)


def test_small_image_stem_on_an_imagenet_net():
    model = keras_preact.PreActResNet18(weights=None, stem="cifar", classes=10)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.get_layer("head_act").output.shape == (None, 4, 4, 512)


def test_signature_is_that_of_keras_applications():
    theirs = inspect.signature(keras.applications.ResNet50V2).parameters
    ours = inspect.signature(keras_preact.PreActResNet50).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    same = [name for name in theirs if name not in ("weights", "name")]
    assert [ours[name].default for name in same] == [theirs[name].default for name in same]
    options = [p for name, p in ours.items() if name not in theirs]
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in options)
    assert "weights" in keras_preact.PreActResNet50.__doc__


def test_positional_arguments_arrive():
    model = keras_preact.PreActResNet20(False, None, None, (16, 16, 1), "max", 10, None, "mine")
    assert (model.name, model.input_shape, model.output_shape) == (
        "mine",
        (None, 16, 16, 1),
        (None, 64),
    )


@pytest.mark.parametrize(
    ("pooling", "shape"), [(None, (None, 16, 16, 32)), ("avg", (None, 32)), ("max", (None, 32))]
)
def test_without_the_top(pooling, shape):
    model = _tiny(include_top=False, pooling=pooling, input_shape=(32, 32, 3))
    assert model.output_shape == shape


def test_any_size_in_one_model():
    model = _tiny(include_top=False, pooling="avg")
    assert model.input_shape == (None, None, None, 3)
    assert model(images(1, 17, 23, 3)).shape == (1, 32)
    assert _tiny(input_shape=(None, None, 5))(images(2, 9, 1, 5)).shape == (2, 4)


def test_input_tensor_joins_a_larger_model():
    inputs = keras.Input((20, 20, 1))
    model = _tiny(input_tensor=keras.layers.Conv2D(3, 1)(inputs))
    assert model.input is inputs
    assert model(images(1, 20, 20, 1)).shape == (1, 4)


def test_softmax_by_default_and_logits_on_demand():
    probabilities = np.asarray(_tiny()(images(3, 32, 32, 3)))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=NET)
    logits = _tiny(classifier_activation=None)
    assert logits.get_layer("predictions").activation is keras.activations.linear


def test_channels_first_equals_channels_last():
    last = _tiny({"stem": "imagenet"}, input_shape=(33, 40, 3))
    first = _tiny({"stem": "imagenet"}, input_shape=(3, 33, 40), data_format="channels_first")
    _randomize(last)
    first.set_weights(last.get_weights())
    x = images(2, 33, 40, 3)
    np.testing.assert_allclose(last(x), first(x.transpose(0, 3, 1, 2)), atol=NET)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"])
def test_dtype_policies(policy):
    model = _tiny(dtype=policy)
    expected = keras.dtype_policies.get(policy)
    conv = model.get_layer("stage2_unit1_conv1")
    assert (conv.compute_dtype, conv.kernel.dtype) == (
        expected.compute_dtype,
        expected.variable_dtype,
    )
    scores = model(images(2, 32, 32, 3))
    assert keras.backend.standardize_dtype(scores.dtype) == expected.variable_dtype


def test_global_policy_is_the_default():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert _tiny().get_layer("stage2_unit1_conv1").compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_convolutions_start_as_in_the_papers():
    kernel = (
        keras_preact.PreActResNet18(weights=None, stem="cifar")
        .get_layer("stage5_unit2_conv2")
        .kernel
    )
    deviation = np.sqrt(2 / (3 * 3 * 512))
    assert np.std(kernel) == pytest.approx(deviation, rel=0.01)


def test_zero_init_residual_starts_as_the_identity_and_learns():
    model = _tiny({"zero_init_residual": True, "dropout": 0.0})
    unit = keras.Model(
        model.input,
        [model.get_layer("stage3_unit1_add").output, model.get_layer("stage3_unit2_add").output],
    )
    before, after = unit(images(2, 32, 32, 3))
    np.testing.assert_array_equal(before, after)
    model.compile("sgd", "categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(images(2, 32, 32, 3), np.eye(4)[:2])
    assert np.abs(model.get_layer("stage3_unit2_conv3").kernel).max() > 0


def test_weight_decay_is_for_kernels():
    decayed = keras_preact.decayed_variables(_tiny())
    assert {variable.name for variable in decayed} == {"kernel"}
    # The stem, three units of three convolutions, two projections, the classifier.
    assert len(decayed) == 1 + 3 * 3 + 2 + 1


def test_list_architectures():
    assert keras_preact.list_architectures("*WIDE*") == [
        "WideResNet16_8",
        "WideResNet28_10",
        "WideResNet40_4",
    ]
    assert keras_preact.list_architectures() == list(keras_preact.BUILDERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "mean"}, "`pooling` must be one of .* Received: 'mean'"),
        ({"classes": 0}, "`classes` must be a positive integer. Received: 0"),
        ({"input_shape": (32, 32)}, "three dimensions.* Received: \\(32, 32\\)"),
        ({"input_shape": (32, -1, 3)}, "positive integers.* Received: \\(32, -1, 3\\)"),
        ({"input_shape": (32, 32, None)}, "channels must be known"),
        ({"input_tensor": np.ones(3)}, "symbolic Keras tensor.*Received: ndarray"),
        ({"data_format": "NHWC"}, "`data_format` must be .* Received: 'NHWC'"),
        ({"weights": "imagenet"}, "no weights trained on ImageNet-1k for PreActResNet20"),
        ({"weights": "missing.weights.h5"}, "`weights` names no file: 'missing.weights.h5'"),
        ({"drop_pth": 0.1}, "Did you mean `drop_path`"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_preact.PreActResNet20(**arguments)


def test_input_shape_must_match_the_tensor():
    with pytest.raises(ValueError, match="shape of `input_tensor`"):
        _tiny(input_tensor=keras.Input((8, 8, 3)), input_shape=(9, 9, 3))


def test_preact_resnet_wants_an_architecture():
    with pytest.raises(ValueError, match="keras_preact.Architecture.*'PreActResNet50'"):
        keras_preact.PreActResNet("PreActResNet50")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A net with random weights, which no test changes."""
    model = _tiny()
    _randomize(model)
    return model


class TestSaving:
    """Every way that Keras saves and copies a model."""

    x = images(2, 32, 32, 3)

    def test_keras_file(self, model, tmp_path):
        model.save(tmp_path / "net.keras")
        copy = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
        np.testing.assert_array_equal(model(self.x), copy(self.x))

    @pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
    def test_weights_argument(self, model, tmp_path, suffix):
        path = tmp_path / f"net{suffix}"
        model.save(path) if suffix == ".keras" else model.save_weights(path)
        copy = _tiny(weights=path)
        np.testing.assert_array_equal(model(self.x), copy(self.x))

    def test_config(self, model):
        copy = keras.Model.from_config(model.get_config())
        copy.set_weights(model.get_weights())
        np.testing.assert_array_equal(model(self.x), copy(self.x))

    def test_clone(self, model):
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        np.testing.assert_array_equal(model(self.x), copy(self.x))

    def test_training_goes_on_after_loading(self, model, tmp_path):
        model.compile("sgd", "categorical_crossentropy")
        model.save(tmp_path / "net.keras")
        copy = keras.saving.load_model(tmp_path / "net.keras")
        labels = np.eye(4)[:2]
        assert model.evaluate(self.x, labels, verbose=0) == copy.evaluate(self.x, labels, verbose=0)
        copy.train_on_batch(self.x, labels)

    @pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
    def test_weights_of_another_net(self, tmp_path, suffix):
        other = _tiny({"channels": (16, 64)})
        path = tmp_path / f"other{suffix}"
        other.save(path) if suffix == ".keras" else other.save_weights(path)
        with pytest.raises(ValueError, match="does not hold the weights of 'preact_resnet'"):
            _tiny(weights=path)

    def test_truncated_weights(self, model, tmp_path):
        path = tmp_path / "net.weights.h5"
        model.save_weights(path)
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match="does not hold the weights"):
            _tiny(weights=path)

    def test_weights_of_a_deeper_net_of_equal_shapes(self, tmp_path):
        deeper = _tiny({"units": (1, 3)})
        deeper.save_weights(tmp_path / "deeper.weights.h5")
        with pytest.raises(ValueError, match="only given: \\['stage3_unit3_conv1'"):
            _tiny(weights=tmp_path / "deeper.weights.h5")

    @pytest.mark.parametrize("activated_stem", [False, True])
    def test_weights_of_a_net_with_the_other_first_norm(self, activated_stem, tmp_path):
        path = tmp_path / "net.weights.h5"
        tiny = {"units": (1, 1, 1), "weights": None}
        keras_preact.PreActResNet20(**tiny, activated_stem=activated_stem).save_weights(path)
        message = f"They are of a net with activated_stem={activated_stem}"
        with pytest.raises(ValueError, match=message):
            keras_preact.PreActResNet20(
                **tiny | {"weights": path}, activated_stem=not activated_stem
            )
