"""Nets without normalization: scaled weight standardization, SkipInit, NF-ResNet."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import ScaledStdConv2d
from timm.models.nfnet import _nonlin_gamma

import keras_preact
from keras_preact.blocks.gains import activation_gain, computed_gain
from keras_preact.layers import Scale, ScaledStandardizedConv2D, SkipInit, StackedUnits
from keras_preact.transforms import fold, stack, unroll
from keras_preact.weights import named_weights, set_named_weights
from keras_preact.weights.converters import CONVERTERS
from tests.nets import SMALL, X, net, scores
from tests.variants import check_forms, check_training_and_saving, some_slow

NORM_FREE = {
    "norm": "none",
    "weight_standardization": "scaled",
    "residual_scaling": "norm_free",
    "use_bias": True,
}
VARIANTS = {
    "SkipInit": {"norm": "none", "residual_scaling": "skip_init", "unit": "basic"},
    "NF-ResNet": {**NORM_FREE, "residual_scaling": "norm_free_skip_init", "drop_path": 0.2},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


@pytest.mark.parametrize("changes", some_slow(VARIANTS.values(), 2), ids=VARIANTS)
def test_every_form_gives_the_same_scores(changes):
    check_forms(changes)


# Scaled weight standardization.


def test_gain_of_relu_is_the_papers():
    exact = np.sqrt(2 / (1 - 1 / np.pi))
    assert computed_gain("relu") == pytest.approx(exact, rel=1e-5)
    assert activation_gain("relu") == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(
    "name", sorted(set(_nonlin_gamma) - {"identity", "leaky_relu", "log_softmax"})
)
def test_published_gains_are_those_of_the_activations(name):
    assert activation_gain(name) == _nonlin_gamma[name]
    assert computed_gain(name) == pytest.approx(_nonlin_gamma[name], rel=2e-3)


def test_gain_of_an_activation_without_a_published_one():
    # Half of the numbers are scaled by Keras's slope, not by PyTorch's.
    mean, square = 0.8 / np.sqrt(2 * np.pi), (1 + 0.2**2) / 2
    assert activation_gain("leaky_relu") == pytest.approx((square - mean**2) ** -0.5, rel=1e-5)
    assert activation_gain("swish") == activation_gain("silu")


@pytest.mark.filterwarnings("ignore:You are using a softmax")
def test_an_activation_across_channels_has_no_gain():
    with pytest.raises(ValueError, match="`activation` must be a function of each value by itself"):
        SMALL.replace(activation="softmax", weight_standardization="scaled")


@pytest.mark.numerical
@pytest.mark.parametrize("groups", [1, 2])
def test_scaled_convolution_is_timms(groups):
    ours = ScaledStandardizedConv2D(6, 3, strides=2, groups=groups, activation_gain=1.7)
    x = np.random.default_rng(3).standard_normal((2, 8, 8, 4)).astype("float32")
    ours.build(x.shape)
    theirs = ScaledStdConv2d(4, 6, 3, stride=2, groups=groups, gamma=1.7, eps=1e-5)
    rng = np.random.default_rng(2)
    for variable in ours.variables:
        variable.assign(rng.standard_normal(variable.shape))
    kernel, bias, gain = (torch.tensor(np.asarray(each)) for each in ours.get_weights())
    theirs.weight.data, theirs.bias.data = kernel.permute(3, 2, 0, 1), bias
    theirs.gain.data[:] = gain.reshape(-1, 1, 1, 1)
    with torch.inference_mode():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours(x), expected.transpose(0, 2, 3, 1), atol=1e-5)


def test_scaled_convolution_keeps_the_variance_behind_an_activation():
    layer = ScaledStandardizedConv2D(64, 3, activation_gain=activation_gain("silu"))
    x = keras.random.normal((8, 16, 16, 64), seed=1)
    y = np.asarray(layer(keras.activations.silu(x)))
    # Without the edges, whose padding has no variance.
    assert y[:, 1:-1, 1:-1].var() == pytest.approx(1, abs=0.05)


def test_gains_start_at_one_or_in_branches_at_zero():
    model = net({**NORM_FREE, "zero_init_residual": True}, randomize=False)
    gains = {
        layer.name: set(np.asarray(layer.gain))
        for layer in model.layers
        if isinstance(layer, ScaledStandardizedConv2D)
    }
    assert {name for name, gain in gains.items() if gain == {0.0}} == {
        f"stage{stage}_unit{unit}_conv3"
        for stage, last in [(2, 2), (3, 3)]
        for unit in range(1, last + 1)
    }
    assert set.union(*gains.values()) == {0.0, 1.0}


@pytest.mark.parametrize("use_bias", [True, False])
def test_low_rank_adaptation_is_saved_merged_and_loaded(use_bias, tmp_path):
    inputs = keras.Input((8, 8, 4))
    layer = ScaledStandardizedConv2D(6, 3, use_bias=use_bias, name="conv")
    model = keras.Model(inputs, layer(inputs))
    before = layer.get_weights()
    layer.enable_lora(2)
    rng = np.random.default_rng(4)
    for variable in layer.variables:
        variable.assign(rng.standard_normal(variable.shape))
    x = rng.standard_normal((2, 8, 8, 4)).astype("float32")
    expected = scores(model, x)
    model.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(scores(loaded, x), expected, atol=1e-5)
    assert np.asarray(loaded.get_layer("conv").lora_kernel_a).any()
    named = named_weights(model)
    assert [each.shape for each in named["conv"].values()] == [each.shape for each in before]
    set_named_weights(loaded, named)
    np.testing.assert_allclose(scores(loaded, x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="expected . variables, LoRA's merged"):
        layer.load_own_variables(dict(enumerate(layer.get_weights())))


# Scaled branches.


def test_a_unit_follows_the_formula():
    model = net({**NORM_FREE, "residual_scale": 0.5, "unit": "basic", "activation": "silu"})
    name = "stage3_unit2"
    ends = ["stage3_unit1_add", f"{name}_act1", f"{name}_conv2", f"{name}_add"]
    ends = [model.get_layer(each).output for each in ends]
    x, activated, branch, total = map(np.asarray, keras.Model(model.input, ends)(X))
    beta = np.sqrt(1 + 0.5**2)
    np.testing.assert_allclose(activated, np.asarray(keras.activations.silu(x / beta)), atol=1e-5)
    np.testing.assert_allclose(total, x + 0.5 * branch, rtol=1e-4, atol=1e-4)


def test_expected_variance_grows_each_unit_and_starts_anew_behind_a_projection():
    stages = SMALL.replace(**NORM_FREE, units=(3, 3), residual_scale=0.5).stages.values()
    variances = [[unit.input_scale**-2 for unit in units] for units in stages]
    np.testing.assert_allclose(variances, [[1, 1.25, 1.5], [1.75, 1.25, 1.5]])
    stages = SMALL.replace(**NORM_FREE, units=(2, 3), channels=(16, 16), strides=(1, 1)).stages
    variances = [unit.input_scale**-2 for units in stages.values() for unit in units]
    np.testing.assert_allclose(variances, [1, 1.04, 1.08, 1.12, 1.16])


def test_units_with_skip_init_start_as_the_identity():
    model = net({"norm": "none", "residual_scaling": "skip_init"}, randomize=False)
    layers = [layer for layer in model.layers if isinstance(layer, SkipInit)]
    assert [layer.name for layer in layers] == [
        "stage2_unit1_skip_init",
        "stage2_unit2_skip_init",
        "stage3_unit1_skip_init",
        "stage3_unit2_skip_init",
        "stage3_unit3_skip_init",
    ]
    assert all(len(np.ravel(layer.gain)) == 1 for layer in layers)
    first, last = (model.get_layer(f"stage3_unit{unit}_add").output for unit in (1, 3))
    first, last = keras.Model(model.input, [first, last])(X)
    np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize("scaling", [{}, {"weight_standardization": "scaled"}], ids=str)
def test_of_two_factors_that_would_start_at_zero_one_does(scaling):
    changes = {"norm": "none", "residual_scaling": "skip_init", "zero_init_residual": True}
    model = net({**changes, **scaling}, randomize=False)
    assert not model.get_layer("stage3_unit3_skip_init").gain.numpy().any()
    last = model.get_layer("stage3_unit3_conv3")
    assert all(keras.ops.any(each != 0) for each in last.weights if "bias" not in each.path)


def _variances(changes: dict, x: np.ndarray) -> list[float]:
    """Of what comes into each unit but the first: over pixels and images, mean over channels."""
    model = net(changes, randomize=False, input_shape=x.shape[1:])
    adds = [layer.output for layer in model.layers if layer.name.endswith("_add")]
    maps = (keras.ops.convert_to_numpy(each) for each in keras.Model(model.input, adds)(x))
    return [float(each.var(axis=(0, 1, 2)).mean()) for each in maps][:-1]


def test_variances_at_the_start_are_the_expected_ones():
    """In 44 layers; with nothing in the place of norms they grow a hundredfold."""
    x = np.random.default_rng(5).standard_normal((8, 32, 32, 3)).astype("float32")
    layout = {"units": (7, 7), "channels": (64, 128), "stem_channels": 32, "scan_units": False}
    changes = {**layout, **NORM_FREE, "residual_scale": 0.5}
    units = itertools.chain(*SMALL.replace(**changes).stages.values())
    expected = [unit.input_scale**-2 for unit in units][1:]
    assert max(expected) == pytest.approx(2.75)
    # The stem's convolution multiplies by the gain. The rest went into the padding.
    received = _variances(changes, x / activation_gain("relu"))
    np.testing.assert_allclose(received, expected, rtol=0.12)
    bare = _variances({**layout, "norm": "none"}, x)
    assert bare[-1] > 100 * bare[0]


@pytest.mark.parametrize(
    ("changes", "share"),
    [(NORM_FREE, 0.1), ({"norm": "none", "residual_scaling": "skip_init"}, 0.85)],
    ids=["norm_free", "skip_init"],
)
def test_24_layers_train_without_normalization(changes, share):
    layout = {"units": (5, 6), "channels": (16, 32), "unit": "basic", "use_bias": True}
    model = net({**layout, "scan_units": True, **changes}, randomize=False)
    optimizer = keras.optimizers.Adam(0.003)
    # Variables that the first step makes cost two more traces of it.
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    x = np.random.default_rng(6).standard_normal((16, 16, 16, 3)).astype("float32")
    history = model.fit(x, np.arange(16) % 10, batch_size=16, epochs=20, verbose=0).history
    assert history["loss"][-1] < share * history["loss"][0], history["loss"]


def test_stacking_and_unrolling_keep_the_units_own_scales():
    changes = {**NORM_FREE, "drop_path": 0.3, "units": (2, 4), "residual_scale": 0.7}
    model = net({**changes, "scan_units": True})
    (stacked,) = (layer for layer in model.layers if isinstance(layer, StackedUnits))
    assert stacked.unit_names[0] == "stage3_unit2"
    np.testing.assert_allclose(np.square(stacked.input_scale), 1 / np.array([1.49, 1.98, 2.47]))
    separate = unroll(model)
    factors = [separate.get_layer(f"stage3_unit{unit}_input_scale").factor for unit in (2, 3, 4)]
    assert factors == list(stacked.input_scale)
    np.testing.assert_allclose(scores(separate), scores(model), atol=1e-5)
    again = stack(separate)
    (layer,) = (layer for layer in again.layers if isinstance(layer, StackedUnits))
    assert (layer.input_scale, layer.drop_path) == (stacked.input_scale, stacked.drop_path)
    np.testing.assert_allclose(scores(again), scores(model), atol=1e-5)
    folded = fold(model)
    assert not [each for each in folded.layers if isinstance(each, ScaledStandardizedConv2D)]
    np.testing.assert_allclose(scores(folded), scores(model), atol=1e-5)


def test_scales_that_do_not_fit_the_stack():
    model = net({**NORM_FREE, "scan_units": True})
    (layer,) = (layer for layer in model.layers if isinstance(layer, StackedUnits))
    template = layer._unit.model
    with pytest.raises(ValueError, match="`input_scale` must be given if, and only if"):
        StackedUnits(template, ["unit1", "unit2"])
    with pytest.raises(ValueError, match="one factor for each of the 2 units. Received: 1"):
        StackedUnits(template, ["unit1", "unit2"], input_scale=[1.0])


@pytest.mark.parametrize(
    ("field", "value"), [("order", "original"), ("order", "pyramid"), ("shortcut", "scaling")]
)
def test_what_makes_the_expected_variance_wrong_is_refused(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be .*norm_free"):
        net({**NORM_FREE, field: value})


def test_scale_keeps_the_dtype_and_takes_a_number_at_the_call():
    layer = Scale(0.5, dtype="mixed_bfloat16")
    y = layer(keras.ops.ones((2, 3), "bfloat16"), factor=keras.ops.convert_to_tensor(0.25))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert set(np.ravel(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")))) == {0.25}


# timm's nets.


@pytest.mark.parametrize("skip_init", [False, True])
def test_a_net_is_timms(skip_init, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model(
        "nf_resnet50", depths=(1, 3, 1, 1), num_classes=10, skipinit=skip_init
    ).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith(("gain", "bias")):
            torch.nn.init.uniform_(tensor, *((0.5, 1.5) if name.endswith("gain") else (-0.5, 0.5)))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    x = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype("float32")
    ours = keras_preact.NFPreActResNet50(
        input_shape=x.shape[1:],
        units=(1, 3, 1, 1),
        classes=10,
        classifier_activation=None,
        residual_scaling="norm_free_skip_init" if skip_init else "norm_free",
    )
    set_named_weights(ours, CONVERTERS["timm"](tmp_path / "model.safetensors"))
    features = keras_preact.feature_extractor(ours, (5,)).output["stage5"]
    received, maps = keras.Model(ours.input, [ours.output, features])(x)
    with torch.inference_mode():
        x = torch.tensor(x.transpose(0, 3, 1, 2))
        expected, their_maps = theirs(x).numpy(), theirs.forward_features(x).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(received, expected, atol=1e-4 * np.abs(expected).max())
    their_maps = their_maps.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(maps, their_maps, atol=1e-4 * np.abs(their_maps).max())


def test_50_layers_have_as_many_parameters_as_timms():
    with torch.device("meta"):
        theirs = timm.create_model("nf_resnet50")
    ours = keras_preact.NFPreActResNet50(input_shape=(64, 64, 3))
    count = sum(int(np.prod(variable.shape)) for variable in ours.trainable_variables)
    assert count == sum(parameter.numel() for parameter in theirs.parameters())
    assert {layer.name for layer in ours.layers if "norm" in layer.name} == set()
