"""Costs of nets, against the counters of torch and of TensorFlow."""

from __future__ import annotations

import dataclasses
import inspect
import math

import keras
import numpy as np
import pytest
import timm
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch.utils.flop_counter import FlopCounterMode

import keras_preact
from keras_preact.analysis import COSTS, NetCost, UnknownLayerError, model_cost
from keras_preact.analysis.costs.graph import calls
from keras_preact.analysis.costs.receptive_field import receptive_fields
from keras_preact.transforms import feature_pyramid
from tests.nets import FOUR_STAGES, TINY, net

BUILDERS = {
    "resnetv2_18d": "PreActResNet18d",
    "resnetv2_50x1_bit": "BiTResNet50x1",
}


def _timm_counts(name: str, height: int, width: int) -> tuple[int, int, int]:
    """Parameters, multiply-adds and elements of the convolutions' outputs."""
    outputs = []
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False).eval()
        for path, module in model.named_modules():
            # timm's classifier is a convolution too.
            if isinstance(module, torch.nn.Conv2d) and path != "head.fc":
                module.register_forward_hook(lambda _, x, y: outputs.append(y.numel()))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, height, width))
    # torch counts a multiply-add as two operations.
    flops = counter.get_total_flops() // 2
    return sum(each.numel() for each in model.parameters()), flops, sum(outputs)


@pytest.mark.parametrize("name", BUILDERS)
def test_counts_are_those_of_torch(name):
    model = keras_preact.BUILDERS[BUILDERS[name]](weights=None, input_shape=(None, None, 3))
    total = model_cost(model, (224, 160, 3)).total
    assert (total.parameters, total.flops, total.activations) == _timm_counts(name, 224, 160)


# infer_gmacs and infer_macts of timm's results/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv;
# the first, by fvcore, also counts two operations for each element of a batch norm.
def test_50_layers_have_the_figures_that_timm_publishes():
    model = keras_preact.PreActResNet50(weights=None)
    cost = model_cost(model)
    norms = sum(
        layer.cost.parameters // 2 * layer.output_shape[0] * layer.output_shape[1]
        for layer in cost.layers
        if layer.kind == "BatchNormalization"
    )
    assert cost.total.flops == 4_089_184_256
    assert round((cost.total.flops + 2 * norms) / 1e9, 2) == 4.11
    assert round(cost.total.activations / 1e6, 2) == 11.11
    assert round(cost.total.parameters / 1e6, 2) == 25.55


def _tensorflow_flops(model: keras.Model) -> int:
    """Return the multiply-adds of one example, by TensorFlow's profiler of the inference graph."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    options = tf.compat.v1.profiler.ProfileOptionBuilder(
        tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    )
    options.with_empty_output()
    options.with_accounted_types(["Conv2D", "MatMul"])
    graph = convert_variables_to_constants_v2(function).graph
    found = tf.compat.v1.profiler.profile(graph, options=options.build())
    return found.total_float_ops // 2


tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's profiler"
)
VARIANTS = {
    "gates": {"shortcut": "exclusive_gating", "unit": "basic"},
    "convolutions": {"shortcut": "conv", "order": "original", "stride_in": "first_conv"},
    "pooled": {"stem": "deep", "downsample": "avg_pool"},
    "dilated": {"output_stride": 1, "weight_standardization": True},
}


@tensorflow_only
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_variants_cost_what_tensorflow_counts(changes):
    model = net(changes)
    assert model_cost(model).total.flops == _tensorflow_flops(model)


def _torch_flops(module: torch.nn.Module, *shapes: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter:
        module.to("meta")(*(torch.empty(shape, device="meta") for shape in shapes))
    return counter.get_total_flops() // 2


LAYERS = {
    "grouped": (
        keras.layers.Conv2D(16, 3, strides=2, groups=4),
        torch.nn.Conv2d(8, 16, 3, stride=2, groups=4),
    ),
    "depthwise": (
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        torch.nn.Conv2d(8, 16, 3, groups=8),
    ),
    "separable": (
        keras.layers.SeparableConv2D(5, 3, depth_multiplier=2),
        torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, groups=8), torch.nn.Conv2d(16, 5, 1)),
    ),
    "transposed": (
        keras.layers.Conv2DTranspose(5, 3, strides=2),
        torch.nn.ConvTranspose2d(8, 5, 3, stride=2),
    ),
    "dense": (keras.layers.Dense(5), torch.nn.Conv2d(8, 5, 1)),
    "winograd": (keras_preact.layers.WinogradConv2D(5), torch.nn.Conv2d(8, 5, 3, padding=1)),
}


@pytest.mark.parametrize(("ours", "theirs"), LAYERS.values(), ids=LAYERS)
def test_layers_cost_what_torch_counts(ours, theirs):
    inputs = keras.Input((12, 10, 8))
    cost = model_cost(keras.Model(inputs, ours(inputs)))
    assert cost.total.flops == _torch_flops(theirs, (1, 8, 12, 10))


def test_winograds_convolution_sees_what_the_convolution_does():
    x = keras.Input((12, 12, 4))
    plain, other = keras.layers.Conv2D(4, 3, padding="same"), keras_preact.layers.WinogradConv2D(4)
    costs = [model_cost(keras.Model(x, each(x))).layers[-1] for each in (plain, other)]
    assert costs[0].receptive_field == costs[1].receptive_field == 3
    assert costs[0].cost.activations == costs[1].cost.activations


def test_attention_costs_what_torch_counts():
    layer = keras.layers.MultiHeadAttention(4, 5)
    layer(keras.Input((9, 20)), keras.Input((7, 12)))
    work = COSTS[keras.layers.MultiHeadAttention](layer, ((9, 20), (7, 12)), (9, 20))
    theirs = torch.nn.MultiheadAttention(20, 4, kdim=12, vdim=12)
    assert work.flops == _torch_flops(theirs, (9, 1, 20), (7, 1, 12), (7, 1, 12))


def test_dense_over_several_axes_costs_what_it_does_over_one():
    layer = keras.layers.EinsumDense("bte,ehd->bthd", (None, 3, 5))
    layer.build((None, 9, 20))
    dense = keras.layers.Dense(15)
    dense.build((None, 9, 20))
    work = COSTS[keras.layers.EinsumDense](layer, ((9, 20),), (9, 3, 5))
    assert work == COSTS[keras.layers.Dense](dense, ((9, 20),), (9, 15))
    assert work.flops == 9 * 20 * 15


@pytest.fixture(scope="module")
def plain_cost() -> NetCost:
    """Cost of a net of separate units."""
    return model_cost(net({"units": (3, 4), "scan_units": False}))


@pytest.mark.parametrize("options", [{"drop_path": 0.1}, {"rematerialize": True}])
@pytest.mark.parametrize("scan_units", [True, False])
def test_every_form_costs_the_same(scan_units, options, plain_cost):
    other = net({"units": (3, 4), "scan_units": scan_units, **options})
    expected, cost = plain_cost, model_cost(other)
    assert cost.total == expected.total
    assert cost.stages == expected.stages
    assert [stage.units for stage in cost.stages] == [0, 3, 4, 0]


def test_stages_add_up_and_tell_shapes_and_receptive_fields():
    cost = model_cost(keras_preact.PreActResNet20(weights=None))
    assert sum(layer.cost.flops for layer in cost.layers) == cost.total.flops
    # Half the input's pixels in a stage after its stride, twice the channels.
    assert [(stage.name, stage.output_shape) for stage in cost.stages] == [
        ("stem", (32, 32, 16)),
        ("stage2", (32, 32, 16)),
        ("stage3", (16, 16, 32)),
        ("stage4", (8, 8, 64)),
        ("head", (10,)),
    ]
    # 3; 6 convolutions of 3 pixels, 1 apart; one more and then 5, 2 apart; the same, 4 apart.
    assert [stage.receptive_field for stage in cost.stages] == [3, 15, 37, 81, None]


def test_receptive_field_is_where_gradients_come_from():
    import tensorflow as tf

    model = net({"units": (1, 2), "strides": (2, 2), "output_stride": 2}, include_top=False)
    x = tf.Variable(np.random.default_rng(0).standard_normal((1, 80, 80, 3)), dtype="float32")
    body = keras.Model(model.input, model.get_layer("stage3_unit2_add").output)
    body = keras.models.clone_model(body, input_tensors=keras.Input((80, 80, 3)))
    for layer in body.layers:
        layer.set_weights([np.ones_like(each) for each in layer.get_weights()])
    with tf.GradientTape() as tape:
        middle = tf.reduce_sum(body(x)[0, 20, 20])
    rows = np.flatnonzero(np.abs(tape.gradient(middle, x)).sum((0, 2, 3)))
    (field,) = [s.receptive_field for s in model_cost(body).stages if s.name == "stage3"]
    assert field == rows[-1] - rows[0] + 1


@pytest.mark.parametrize("attention", ["se", "eca"])
def test_factors_of_channels_add_nothing_to_the_receptive_field(attention):
    # Maps of 8x8 pixels, and of one.
    for side in (8, 2):
        shape = (side, side, 3)
        plain, other = (
            model_cost(net({"attention": each}, input_shape=shape)) for each in (None, attention)
        )
        fields = [[stage.receptive_field for stage in cost.stages] for cost in (plain, other)]
        assert fields[0] == fields[1]
        assert None not in fields[0][:-1]
        # The factors themselves come from all pixels.
        gates = [layer for layer in other.layers if f"_{attention}_" in layer.name]
        gates = [layer for layer in gates if not layer.name.endswith("_scale")]
        assert {layer.receptive_field for layer in gates} == {None}


def _seen(model: keras.Model, places: int) -> int:
    """Return the most rows of the input that change a pixel in the middle of the output.

    Args:
        model: A linear model. Its weights become ones, so that nothing cancels out, and its shifts
            zeros, so that nothing but the input counts.
        places: Pixels that are tried, since not all of an enlarged map see as much.
    """
    for variable in model.variables:
        is_shift = variable.name in ("beta", "bias", "moving_mean")
        variable.assign(np.full(variable.shape, 0.0 if is_shift else 1.0))
    _, side, _, channels = model.input_shape
    one_row_each = np.eye(side, dtype="float32")[:, :, None, None]
    maps = keras.ops.convert_to_numpy(model(one_row_each * np.ones((side, channels), "float32")))
    middle = maps.shape[1] // 2
    columns = (maps[:, middle : middle + places, middle, 0] != 0).T
    return max(rows[-1] - rows[0] + 1 for rows in map(np.flatnonzero, columns))


def test_receptive_fields_of_a_pyramid():
    body = net(
        {"activation": "linear", "stem": "cifar"},
        architecture=FOUR_STAGES,
        include_top=False,
        input_shape=(96, 96, 1),
    )
    pyramid = feature_pyramid(body, channels=2)
    cost = model_cost(pyramid)
    fields = {layer.name: layer.receptive_field for layer in cost.layers}
    for stage, places in ((2, 8), (4, 2), (5, 1)):
        level = keras.Model(pyramid.input, pyramid.output[f"P{stage}"])
        assert fields[f"fpn_output{stage}"] == _seen(level, places)


@pytest.mark.parametrize(
    "enlarge",
    [
        keras.layers.UpSampling2D(4),
        keras.layers.UpSampling2D(2, interpolation="bilinear"),
        keras.layers.Resizing(96, 96, interpolation="nearest"),
        keras.layers.Conv2DTranspose(1, 2, 2, padding="same"),
        keras.layers.Conv2DTranspose(1, 5, 2, padding="same"),
    ],
)
def test_receptive_fields_of_enlarged_maps(enlarge):
    layers = [
        keras.layers.Conv2D(1, 3, 4, padding="same"),
        enlarge,
        keras.layers.Conv2D(1, 3, padding="same"),
        keras.layers.Conv2D(1, 3, 2, padding="same"),
        keras.layers.Conv2D(1, 3, padding="same"),
    ]
    for count in range(1, len(layers) + 1):
        model = keras.Sequential([keras.Input((128, 128, 1)), *layers[:count]])
        assert receptive_fields(calls(model))[-1] == _seen(model, 4)


def test_frozen_weights_are_parameters_and_moving_statistics_are_not():
    model = net({})
    cost = model_cost(model)
    assert cost.total.parameters == sum(each.numpy().size for each in model.trainable_variables)
    assert cost.total.weight_bytes == 4 * model.count_params()
    model.trainable = False
    assert model_cost(model).total == cost.total
    half = net({}, dtype="bfloat16")
    assert model_cost(half).total.weight_bytes == 2 * model.count_params()


def test_a_shared_layer_has_its_parameters_once():
    inputs = keras.Input((8, 8, 4))
    layer = keras.layers.Conv2D(4, 3, padding="same")
    model = keras.Model(inputs, layer(layer(inputs)))
    total = model_cost(model).total
    assert (total.parameters, total.flops) == (148, 2 * 64 * 4 * 36)


def test_every_frame_costs_what_an_image_does():
    tower = net(name="tower", architecture=TINY)
    image = model_cost(tower)
    inputs = keras.Input((3, *tower.input_shape[1:]))
    each = keras.layers.TimeDistributed(tower, name="each")
    model = keras.Model(inputs, each(keras.layers.Rescaling(2.0)(inputs)))
    cost = model_cost(model)
    assert cost.total.parameters == image.total.parameters
    assert cost.total.flops == 3 * image.total.flops
    assert cost.training_bytes == 3 * image.training_bytes
    parting, *inside, joining = cost.layers[1:]
    assert {parting.name, joining.name} == {"each"}
    assert [(layer.name, layer.receptive_field) for layer in inside] == [
        (f"each/tower/{layer.name}", layer.receptive_field) for layer in image.layers
    ]


def test_layers_before_frames_are_in_their_receptive_fields():
    inputs = x = keras.Input((3, 8, 8, 1))
    for _ in range(2):
        x = keras.layers.TimeDistributed(keras.layers.Conv2D(2, 3))(x)
    assert model_cost(keras.Model(inputs, x)).layers[-1].receptive_field == 5


def test_a_wrapped_layer_costs_what_it_does():
    inputs = keras.Input((8, 8, 4))
    conv = keras.layers.Conv2D(4, 3, name="conv")
    (layer,) = model_cost(keras.Model(inputs, conv(inputs))).layers
    lean = keras_preact.layers.Rematerialized(conv, name="lean")
    (wrapped,) = model_cost(keras.Model(inputs, lean(inputs))).layers
    assert wrapped == dataclasses.replace(layer, name="lean/conv", stage="lean/conv")


class _Scale(keras.layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=(), name="scale")

    def call(self, inputs):
        return inputs * self.scale


def test_what_cannot_be_counted_is_said():
    inputs = keras.Input((8, 8, 4))
    with pytest.raises(UnknownLayerError, match="'_scale' is one.*COSTS"):
        model_cost(keras.Model(inputs, _Scale(name="_scale")(inputs)))
    with pytest.raises(ValueError, match="`input_shape` must be the whole shape"):
        model_cost(net({}, input_shape=(None, None, 3)))
    with pytest.raises(ValueError, match=r"Received: \(16, 16, 4\)"):
        model_cost(net({}), (16, 16, 4))
    tokens = keras.layers.Reshape((-1, 4))(inputs)
    with pytest.raises(ValueError, match="'_any' gives is not known"):
        model_cost(
            keras.Model(
                inputs, keras.layers.EinsumDense("bte,ed->btd", (None, 2), name="_any")(tokens)
            )
        )
    frames = keras.layers.EinsumDense("bhwc,cd->bhwd", (None, 8, 2))(inputs)
    each = keras.layers.TimeDistributed(keras.layers.Conv1D(2, 3), name="_each")
    with pytest.raises(ValueError, match="'_each' takes is not known"):
        model_cost(keras.Model(inputs, each(frames)))
    with pytest.raises(ValueError, match="`model` must be a functional"):
        model_cost(keras.Sequential())


def test_attention_between_pixels_costs_what_torch_counts():
    size, channels, filters, heads = 6, 16, 32, 4
    theirs = BottleneckAttn(channels, filters, feat_size=(size, size), num_heads=heads)
    x = keras.Input((size, size, channels))
    ours = keras.Model(x, keras_preact.layers.SelfAttention2D(filters, heads)(x))
    # timm meets every pixel with all 2n - 1 distances, of which n are its own.
    spare = size**2 * filters * 2 * (size - 1)
    counted = _torch_flops(theirs, (1, channels, size, size))
    assert model_cost(ours).total.flops == counted - spare


def test_attention_between_tokens_costs_two_products():
    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return (q @ q.transpose(-1, -2)).softmax(-1) @ q

    x = keras.Input((7, 3 * 32))
    ours = keras.Model(x, keras_preact.layers.TokenAttention(4)(x))
    assert model_cost(ours).total.flops == _torch_flops(Attention(), (1, 4, 7, 8))


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "frn", "activation": "linear", "attention": "cbam", "blur_pool": True},
        {"norm": "none", "residual_scaling": "skip_init", "weight_standardization": "scaled"},
        {"encoder_depth": 1, "encoder_width": 16, "encoder_heads": 2},
    ],
    ids=str,
)
def test_every_layer_with_weights_has_a_cost(changes):
    model = net(changes)
    cost = model_cost(model).total
    assert cost.parameters == sum(math.prod(each.shape) for each in model.trainable_variables)


def test_every_layer_that_makes_weights_is_listed():
    ours = keras_preact.layers
    # The layers in stacked units are counted by themselves.
    kinds = {getattr(ours, name) for name in ours.__all__} - {ours.StackedUnits}
    made = [kind for kind in kinds if "add_weight" in inspect.getsource(kind)]
    assert ours.SkipInit in made
    assert not [kind for kind in made if not COSTS.keys() & set(kind.__mro__)]
