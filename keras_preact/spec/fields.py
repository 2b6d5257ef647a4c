"""Fields of an architecture: all that can be said of a net, each field declared once."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

from keras_preact.spec.orders import ORDERS
from keras_preact.spec.rules import (
    A_VALUE_EACH_STAGE,
    A_VALUE_EACH_UNIT,
    ACTIVATION,
    BOOLEAN,
    COUNT,
    NUMBER,
    POSITIVE,
    POSITIVE_INTEGER,
    RATE,
    SHARE,
    Rule,
    one_of,
    or_each,
    or_none,
)


def _field(doc: str, rule: Rule, default: Any = MISSING) -> Any:
    """Declare a field.

    Args:
        doc: Its documentation.
        rule: Its allowed values.
        default: Its default. Without one, the field is required.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "rule": rule})


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Values of all fields. `Architecture` adds the checks and everything that follows from them.

    Where a rule names the values that a field may have, those are the keys of a table in
    `keras_preact.blocks`.
    """

    # Size.
    units: tuple[int, ...] = _field("Residual units of each stage.", A_VALUE_EACH_STAGE)
    channels: tuple[int, ...] = _field("Output channels of each stage.", A_VALUE_EACH_STAGE)
    strides: tuple[int, ...] = _field("Stride of each stage.", A_VALUE_EACH_STAGE)

    # The unit.
    order: str = _field(
        "Order of normalization, activation and convolution (arXiv:1603.05027, figure 4): "
        '`"full_preactivation"`, `"original"`, `"bn_after_addition"`, `"relu_before_addition"`, '
        '`"relu_only_preactivation"`; or `"pyramid"` (a norm before and after each convolution, '
        "no activation before the first: arXiv:1610.02915).",
        one_of(ORDERS),
        "full_preactivation",
    )
    unit: str = _field(
        'Kind of unit: `"basic"` (two 3x3 convolutions), `"bottleneck"` (1x1, 3x3, 1x1), '
        '`"inverted_bottleneck"` (1x1, depthwise 3x3, 1x1: MobileNetV2, arXiv:1801.04381); or a '
        "dense unit, which concatenates its maps to its input (arXiv:1608.06993): "
        '`"dense"` (1x1, 3x3: DenseNet-B) or `"dense_basic"` (3x3). Each unit of a dense stage '
        "adds the same number of channels, which follows from `channels`; "
        "`keras_preact.dense.dense_channels` computes `channels` from a growth rate. Dense units "
        "exist in full pre-activation only.",
        one_of(("basic", "bottleneck", "inverted_bottleneck", "dense", "dense_basic")),
        "bottleneck",
    )
    bottleneck_ratio: float = _field(
        "Channels inside a bottleneck as a share of its output channels. In a dense unit, the "
        "channels that it adds as a share of those inside.",
        POSITIVE,
        0.25,
    )
    expansion: float | tuple[float, ...] = _field(
        "Channels inside an inverted bottleneck as a multiple of its input channels; or a "
        "sequence, one for each stage. Where it is 1, the first convolution is left out.",
        or_each(POSITIVE),
        6.0,
    )
    compression: float = _field(
        "With dense units, channels after a transition as a share of those before it. A "
        "transition opens each stage that has a stride, or fewer channels than come into it: norm, "
        "activation, a 1x1 convolution, then average pooling by the stage's stride. So the first "
        "stage has one only with a stride, and the others all have one where this is below 1.",
        SHARE,
        0.5,
    )
    widening: str = _field(
        'How the units reach the channels of their stage: `"stage"`, all at once, or `"linear"`, '
        "by equal steps from unit to unit, beginning at the stem's (PyramidNet, "
        "arXiv:1610.02915). The steps are equal over the whole net where `channels` lie on one "
        "line, up to rounding, else within each stage. In bottlenecks the channels inside lie on "
        "the line and are rounded, and the stem's count as such.",
        one_of(("stage", "linear")),
        "stage",
    )
    spatial: str = _field(
        'Operation between the 1x1 convolutions of a bottleneck: `"conv"` (3x3), `"res2"` (a '
        'hierarchy of small 3x3 convolutions: Res2Net, arXiv:1904.01169) or `"self_attention"` '
        "between all pixels, with relative positions (BoTNet, arXiv:2101.11605), followed by "
        "average pooling where the unit has a stride. The weights of self-attention fit one size "
        "of images only.",
        one_of(("conv", "res2", "self_attention")),
        "conv",
    )
    spatial_stages: int | None = _field(
        "Number of stages, counted from the last, that have `spatial`; the others have "
        "convolutions. None for all.",
        or_none(POSITIVE_INTEGER),
        None,
    )
    attention_heads: int = _field("Heads of self-attention.", POSITIVE_INTEGER, 4)
    cardinality: int = _field(
        "Groups of channels in the 3x3 convolutions of bottlenecks (ResNeXt, arXiv:1611.05431).",
        POSITIVE_INTEGER,
        1,
    )
    res2_scale: int = _field(
        "Splits of the channels in the hierarchy of Res2Net.", POSITIVE_INTEGER, 4
    )
    stride_unit: str = _field(
        'Unit of a stage that carries its stride: `"first"` or `"last"` (TF-slim, '
        "keras.applications).",
        one_of(("first", "last")),
        "first",
    )
    stride_in: str = _field(
        'Convolution of a bottleneck that carries its stride: `"first_conv"` (the paper\'s code) '
        'or `"spatial_conv"`, the first 3x3 (PyTorch, timm). Both mean the same for basic units.',
        one_of(("first_conv", "spatial_conv")),
        "spatial_conv",
    )

    # The shortcut.
    downsample: str = _field(
        'How a shortcut shrinks the maps: `"conv"` (by the stride of its 1x1 convolution), '
        '`"avg_pool"` (2x2 average pooling, then the convolution: ResNet-D, arXiv:1812.01187), '
        '`"subsample"` (like `"conv"` where the channels change too, else by leaving pixels out, '
        'without weights: TF-slim, keras.applications) or `"zero_pad"` (2x2 average pooling, '
        "zeros for new channels, no weights: PyramidNet).",
        one_of(("conv", "avg_pool", "subsample", "zero_pad")),
        "conv",
    )
    projection_input: str = _field(
        'Input of a shortcut that has a convolution: `"activated"` (the same as of the branch, as '
        'in the authors\' code) or `"raw"` (that of the unit).',
        one_of(("activated", "raw")),
        "activated",
    )
    shortcut: str = _field(
        "Shortcut where the shape stays the same (arXiv:1603.05027, section 3): "
        '`"identity"`, `"scaling"` (times `shortcut_scale`), `"scaling_both"` (the branch times '
        '`1 - shortcut_scale`, too), `"exclusive_gating"`, `"shortcut_gating"`, `"conv"` (1x1) or '
        '`"dropout"`. Only the identity leaves gradients unchanged.',
        one_of(
            (
                "identity",
                "scaling",
                "scaling_both",
                "exclusive_gating",
                "shortcut_gating",
                "conv",
                "dropout",
            )
        ),
        "identity",
    )
    shortcut_scale: float = _field("Factor of a scaled shortcut.", NUMBER, 0.5)
    gate_bias: float = _field(
        "Initial bias of the gates. Below 0, the shortcut starts as nearly an identity.",
        NUMBER,
        -6.0,
    )
    shortcut_dropout: float = _field("Dropout rate of a shortcut.", RATE, 0.5)
    residual_scaling: str | None = _field(
        'How branches are scaled, for nets with `norm="none"`: `"skip_init"` (by one learned '
        'number that starts at 0: arXiv:2002.10444), `"norm_free"` (the unit is '
        "`x + residual_scale * f(x / beta)`, where beta is the standard deviation expected at its "
        "input: NF-ResNet, arXiv:2101.08692, which goes with "
        '`weight_standardization="scaled"`), `"norm_free_skip_init"` (both) or None.',
        one_of((None, "skip_init", "norm_free", "norm_free_skip_init")),
        None,
    )
    residual_scale: float = _field(
        "Factor of the branch in a norm-free unit, the paper's alpha.", POSITIVE, 0.2
    )

    # Resolution of the maps.
    output_stride: int | None = _field(
        "Pixels of the input per pixel of the last maps. Once the strides would exceed it, "
        "dilation replaces them (arXiv:1706.05587), and the weights stay the same. None for the "
        "product of the strides.",
        or_none(POSITIVE_INTEGER),
        None,
    )
    dilations: tuple[int, ...] | None = _field(
        "Spacing of the kernels' pixels in each stage. `output_stride` multiplies it. None for 1 "
        "everywhere.",
        or_none(A_VALUE_EACH_STAGE),
        None,
    )
    multi_grid: tuple[int, ...] | None = _field(
        "Further factors of the spacing in the last stage, one per unit. They repeat where the "
        "stage has more units (DeepLab v3, arXiv:1706.05587). None for 1.",
        or_none(A_VALUE_EACH_UNIT),
        None,
    )
    blur_pool: bool = _field(
        "Whether a blur, which prevents aliasing, takes each stride (arXiv:1904.11486): in units "
        "after the activation that follows the strided convolution, in shortcuts before the "
        "convolution, and after max pooling. The stem's strided convolution stays as it is, as in "
        "the authors' code, and so does average pooling. Maps that are blurred must be at least "
        "two pixels high and wide.",
        BOOLEAN,
        False,
    )

    # The stem.
    stem: str = _field(
        'First layers: `"imagenet"` (7x7 convolution of stride 2, 3x3 max pooling of stride 2), '
        '`"imagenet_activated"` (with normalization and activation between them in every order: '
        'DenseNet), `"deep"` (three 3x3 convolutions instead of one 7x7: ResNet-D), '
        '`"tiered"` (the same, with 3/8 and 1/2 of the channels after the first two, instead of '
        "1/2 each: timm), "
        '`"deep_unpooled"` (a fourth of them, of stride 2, instead of the pooling: ResNet-RS, '
        'arXiv:2103.07579), `"mobile"` (3x3 convolution of stride 2: MobileNetV2, EfficientNet) '
        'or `"cifar"` (3x3 convolution).',
        one_of(
            ("imagenet", "imagenet_activated", "deep", "tiered", "mobile", "deep_unpooled", "cifar")
        ),
        "imagenet",
    )
    stem_channels: int = _field("Output channels of the stem.", POSITIVE_INTEGER, 64)
    activated_stem: bool = _field(
        "Whether the normalization and activation that a unit begins with follow the stem's last "
        "convolution, before its pooling if it has one, and the first unit has none: both its "
        "paths begin with the activated maps (arXiv:1603.05027, section 3). Where the stem has no "
        "pooling and the first unit projects its activated input, nothing else changes than the "
        "names of its layers, and nothing at all in orders whose stem is activated anyway.",
        BOOLEAN,
        False,
    )
    zero_pad_pool: bool = _field(
        "Whether the stem's pooling counts its padding as zeros (TF-slim, BiT) instead of leaving "
        "it out.",
        BOOLEAN,
        False,
    )

    # Normalization, convolution, activation.
    norm: str = _field(
        'Normalization: `"batch"`; `"group"` (arXiv:1803.08494); `"layer"`, over the channels of '
        'each pixel (as in arXiv:2201.03545; over whole images it is `"group"` with one group); '
        '`"evonorm_s0"` (arXiv:2004.02967) or `"frn"` (filter response normalization, '
        'arXiv:1911.09737), which contain an activation: their `activation` is `"linear"`; or '
        '`"none"`.',
        one_of(("batch", "group", "layer", "frn", "none", "evonorm_s0")),
        "batch",
    )
    norm_groups: int = _field(
        "Groups of channels of group normalization and EvoNorm-S0.", POSITIVE_INTEGER, 32
    )
    norm_momentum: float = _field(
        "Momentum of the moving statistics of batch normalization.", RATE, 0.9
    )
    norm_epsilon: float = _field("Term added to the variance.", POSITIVE, 1e-5)
    weight_standardization: bool | str = _field(
        "Whether the convolutions' kernels are standardized to mean 0 and variance 1 per output "
        'channel (arXiv:1903.10520). `"scaled"`: to variance '
        "`(gain * activation's gain)**2 / fan_in` with a learned gain, which keeps the variance "
        "of activations constant (arXiv:2101.08692).",
        one_of((True, False, "scaled")),
        False,
    )
    activation: str = _field("Name of a Keras activation.", ACTIVATION, "relu")
    padding: str = _field(
        '`"fixed"`: half the kernel on every side, whatever the stride (Torch, PyTorch); '
        '`"same"`: TensorFlow\'s rule, which pads bottom and right more where a stride is even.',
        one_of(("fixed", "same")),
        "fixed",
    )
    use_bias: bool | str = _field(
        'Whether convolutions have a bias. `"unnormalized"`: only those that no normalization '
        "follows, which are the stem's, the shortcuts' and the last of each unit.",
        one_of((True, False, "unnormalized")),
        False,
    )

    # Channel and pixel attention.
    attention: str | None = _field(
        'None, or factors for the channels of a unit: `"se"` (Squeeze-and-Excitation, '
        'arXiv:1709.01507), `"eca"` (arXiv:1910.03151); or for its channels and its pixels: '
        '`"cbam"` (arXiv:1807.06521).',
        or_none(one_of(("se", "eca", "cbam"))),
        None,
    )
    attention_ratio: float = _field(
        'Channels inside `"se"` and `"cbam"` as a share of those they act on. Their activation is '
        'the net\'s, or ReLU where that is `"linear"`. The kernel of `"eca"` follows from the '
        "number of channels.",
        SHARE,
        1 / 16,
    )
    attention_place: str = _field(
        'Maps that attention acts on: `"after_last_conv"`, the result of the branch before the '
        'addition (SE-ResNet), or `"before_last_conv"`, the input of its last convolution '
        "(EfficientNet).",
        one_of(("after_last_conv", "before_last_conv")),
        "after_last_conv",
    )

    # Regularization and initialization.
    dropout: float = _field(
        "Dropout rate before a unit's last convolution (Wide ResNet, arXiv:1605.07146). With "
        "dense units, after each convolution of the units and the transitions.",
        RATE,
        0.0,
    )
    drop_path: float = _field(
        "Stochastic depth (arXiv:1603.09382): rate of the last unit. The rate of unit l of L is "
        "`drop_path * l / L`.",
        RATE,
        0.0,
    )
    drop_path_form: str = _field(
        'Form of stochastic depth: `"drop"` a branch, or `"shake"` it, which multiplies it by a '
        "number in [-1, 1] and its gradient by one in [0, 1] (ShakeDrop, arXiv:1802.02375, made "
        'for branches that end in a norm, as in `order="pyramid"`).',
        one_of(("drop", "shake")),
        "drop",
    )
    drop_block: float = _field(
        "Share of the pixels that DropBlock (arXiv:1810.12890) drops, in squares, after each "
        "convolution of a branch and the norm and activation that follow it. It is this rate in "
        "the last stage, a quarter of it in the stage before, and none in the others, as in the "
        "authors' code. Unlike there, the shortcut stays whole and the rate stays constant during "
        "training.",
        RATE,
        0.0,
    )
    drop_block_size: int = _field(
        "Height and width of DropBlock's squares, in pixels.", POSITIVE_INTEGER, 7
    )
    zero_init_residual: bool = _field(
        "Whether residual branches start at zero, so that every unit starts as an identity "
        "(arXiv:1706.02677). The kernel of the last convolution starts at zero: a zero scale in "
        "the norm before it would feed zeros to a ReLU, whose gradient there is zero, and the "
        "branch would never learn. With SkipInit, whose gain starts at zero, nothing else does.",
        BOOLEAN,
        False,
    )

    # The transformer encoder.
    encoder_depth: int = _field(
        "Blocks of a transformer encoder on the last maps, as in hybrid ViTs (arXiv:2010.11929); "
        "0 for none. `keras_preact.blocks.encoder` describes it. Its positions fit one size of "
        "images only.",
        COUNT,
        0,
    )
    encoder_width: int = _field("Features of each token of the encoder.", POSITIVE_INTEGER, 768)
    encoder_heads: int = _field("Heads of the encoder's attention.", POSITIVE_INTEGER, 12)
    encoder_mlp_ratio: float = _field(
        "Features inside the encoder's perceptrons as a multiple of its width.", POSITIVE, 4.0
    )
    encoder_dropout: float = _field(
        "Dropout rate after the encoder's positions and after every dense layer but those to "
        "queries, keys and values.",
        RATE,
        0.0,
    )
    encoder_drop_path: float = _field(
        "Stochastic depth of the encoder's last block. That of block l of L is "
        "`encoder_drop_path * (l - 1) / (L - 1)` (arXiv:2106.10270).",
        RATE,
        0.0,
    )

    # Compilation and memory.
    scan_units: bool | str = _field(
        "Whether the units of a stage after its first, which are identical, run as one loop over "
        "stacked weights (`keras_preact.layers.StackedUnits`), so that building and tracing take "
        'the same time at any depth. `"auto"`: in nets of more than 300 layers, the stages of 24 '
        "units or more. It is impossible where channels change from unit to unit.",
        one_of((True, False, "auto")),
        "auto",
    )
    rematerialize: bool | str = _field(
        "Whether the backward pass computes the inside of those units, and of the encoder's "
        "blocks, again instead of keeping it, so that memory grows with their inputs only "
        '(arXiv:1604.06174). `"norms"`: only what norms, and activations after norms, give to the '
        "next convolution, in every unit: about half of the memory of a net in "
        "pre-activation, and no convolution is computed twice. An activation that follows no norm "
        "is kept.",
        one_of((True, False, "norms")),
        False,
    )


# By name of each field, its allowed values.
RULES: dict[str, Rule] = {each.name: each.metadata["rule"] for each in dataclasses.fields(Fields)}


AnyFields = TypeVar("AnyFields", bound=Fields)


def documented(cls: type[AnyFields]) -> type[AnyFields]:
    """Put the documentation of the fields in place of `{fields}` in a class's docstring."""
    arguments = "\n".join(
        textwrap.fill(
            f"{field.name}: {field.metadata['doc']}",
            width=96,
            initial_indent=4 * " ",
            subsequent_indent=8 * " ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for field in dataclasses.fields(cls)
    )
    # From Python 3.13 on, the compiler takes the indentation out of docstrings.
    cls.__doc__ = inspect.cleandoc(cls.__doc__ or "").format(fields=arguments.lstrip())
    return cls
