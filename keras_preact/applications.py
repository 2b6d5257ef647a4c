"""Builders of the published nets, with the signature of `keras.applications`."""

from __future__ import annotations

import fnmatch
import inspect
import os
from collections.abc import Iterable
from typing import Any, Protocol

import keras

from keras_preact.architecture import RULES, Architecture
from keras_preact.build import build
from keras_preact.messages import did_you_mean
from keras_preact.published import NETS, Net
from keras_preact.tensor import Tensor
from keras_preact.weights.catalogue import best_weights
from keras_preact.weights.loader import load_weights
from keras_preact.weights.resolve import resolve_weights

_ARGUMENTS = """
    Args:{architecture}
        include_top: Whether to end in global average pooling and a dense layer of `classes`.
        weights: None for random weights; `"imagenet"` or `"cifar10"` for the net's best published
            ones that know the classes of ImageNet-1k or CIFAR-10; the name of an entry of
            `keras_preact.weights.list_weights()`; the address of a repository on the Hugging Face
            Hub, `hf://user/repo`; or the path of a file. Published weights are adapted to another
            number of channels than three.{default_weights}
        input_tensor: Symbolic Keras tensor to use as the input; a new `keras.Input` by default.
            Layers that it comes from, such as an adapted `Normalization`, keep their weights.
        input_shape: Shape of an image, `(height, width, channels)`, or with the channels first.
            Height and width may be None. The default is three channels, and with the top the size
            that the net was designed for ({size}), without it None. A net whose weights fit one
            size only, as positions do, has that size in either case.
        pooling: Output without the top: None for the last maps, `"avg"` or `"max"` for one vector
            per image. A net with a transformer encoder returns its tokens, the class token first;
            the mean or maximum of the other tokens; or, with `"token"`, the class token.
        classes: Number of classes.
        classifier_activation: Activation of the last layer; None for logits.
        name: Name of the model.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        dtype: Dtype policy of the layers; Keras's setting by default. The last layer computes in
            the dtype of its weights, so that class scores are float32 in mixed precision. In
            `"mixed_float16"`, `compile` scales the loss. Give it a
            `keras.optimizers.LossScaleOptimizer` for a model around the net, and for a loaded one
            that is compiled again.{options}

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If there is no such argument, an argument is out of its range, or the weights do
            not exist or do not fit.
        keras_preact.weights.DownloadError: If published weights cannot be downloaded.
"""

_OPTIONS = """
        **options: Fields of `keras_preact.Architecture` to change, such as `drop_path=0.1`,
            `zero_init_residual=True` or `stem="cifar"` (the stem for small images)."""


def PreActResNet(
    architecture: Architecture,
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "preact_resnet",
    *,
    data_format: str | None = None,
    dtype: Any = None,
) -> keras.Model:
    """Build the pre-activation residual net that an `Architecture` describes."""
    found = resolve_weights(weights, None, include_top, classes)
    model = build(
        architecture,
        include_top,
        input_tensor,
        input_shape,
        pooling,
        classes,
        classifier_activation,
        name,
        data_format,
        dtype,
    )
    if found is not None:
        load_weights(model, found)
    return model


PreActResNet.__doc__ = f"{PreActResNet.__doc__}\n" + _ARGUMENTS.format(
    architecture="\n        architecture: Says everything about the net.",
    size="224 pixels, or 32 with the CIFAR stem",
    default_weights="",
    options="",
)


class Builder(Protocol):
    """A function that builds one of the published nets."""

    __name__: str
    architecture: Architecture

    def __call__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike | None = ...,
        input_tensor: Tensor | None = None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = ...,
        classifier_activation: Any = "softmax",
        name: str = ...,
        *,
        data_format: str | None = None,
        dtype: Any = None,
        **options: Any,
    ) -> keras.Model:
        """Build the net; see the builders' own documentation."""


def _builder(net: Net) -> Builder:
    """Make the builder of a published net."""
    weights = "imagenet" if best_weights(net.name, "imagenet") else None
    signature = _signature({"weights": weights, "classes": net.classes, "name": net.model_name})

    def builder(*args: Any, **kwargs: Any) -> keras.Model:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        options = values.pop("options")
        _check_options(options, net, [name for name in signature.parameters if name != "options"])
        architecture = net.architecture.replace(**options)
        found = resolve_weights(
            values.pop("weights"), net.name, values["include_top"], values["classes"]
        )
        model = build(architecture, **values)
        if found is not None:
            load_weights(model, found)
        return model

    return _presented(builder, net, signature, weights)


def _presented(
    builder: Any, net: Net, signature: inspect.Signature, weights: str | None
) -> Builder:
    """Give the function that builds a net its name, signature, documentation and architecture."""
    builder.__name__ = builder.__qualname__ = net.name
    builder.__module__ = __name__
    builder.__signature__ = signature
    builder.__doc__ = net.summary + _ARGUMENTS.format(
        architecture="",
        size=f"{net.architecture.input_size} pixels",
        default_weights=f" The default is {weights!r}.",
        options=_OPTIONS,
    )
    builder.architecture = net.architecture
    return builder


def _signature(defaults: dict[str, Any]) -> inspect.Signature:
    """Return the signature of `PreActResNet` with a net's defaults and fields, as `**options`."""
    parameters = [
        parameter.replace(default=defaults.get(parameter.name, parameter.default))
        for parameter in inspect.signature(PreActResNet).parameters.values()
        if parameter.name != "architecture"
    ]
    options = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation=Any)
    return inspect.Signature([*parameters, options], return_annotation=keras.Model)


def _check_options(options: Iterable[str], net: Net, parameters: list[str]) -> None:
    """Check that there is a field of each name.

    Raises:
        ValueError: If there is none. Its hint is the closest of the parameters and the fields.
    """
    for name in options:
        if name not in RULES:
            hint = did_you_mean(name, [*parameters, *RULES])
            raise ValueError(
                f"`{net.name}()` has no argument `{name}`.{hint} Its arguments are {parameters}, "
                f"and the {len(RULES)} fields of `keras_preact.Architecture`: see "
                "`help(keras_preact.Architecture)`."
            )


def list_architectures(pattern: str = "*") -> list[str]:
    """List the names of the published nets.

    Args:
        pattern: Shell-style pattern, in which case does not matter: `"*resnet1*"`.

    Returns:
        The names that match, in the order of their table.
    """
    return [name for name in BUILDERS if fnmatch.fnmatch(name.lower(), pattern.lower())]


BUILDERS: dict[str, Builder] = {name: _builder(net) for name, net in NETS.items()}

PreActResNet18 = BUILDERS["PreActResNet18"]
PreActResNet34 = BUILDERS["PreActResNet34"]
PreActResNet50 = BUILDERS["PreActResNet50"]
PreActResNet101 = BUILDERS["PreActResNet101"]
PreActResNet152 = BUILDERS["PreActResNet152"]
PreActResNet200 = BUILDERS["PreActResNet200"]
PreActResNet50_FRN = BUILDERS["PreActResNet50_FRN"]
NFPreActResNet50 = BUILDERS["NFPreActResNet50"]
PreActResNet18d = BUILDERS["PreActResNet18d"]
PreActResNet34d = BUILDERS["PreActResNet34d"]
PreActResNet50d = BUILDERS["PreActResNet50d"]
PreActResNet50d_GN = BUILDERS["PreActResNet50d_GN"]
PreActResNet50d_EvoS = BUILDERS["PreActResNet50d_EvoS"]
PreActResNet50t = BUILDERS["PreActResNet50t"]
SEPreActResNet50 = BUILDERS["SEPreActResNet50"]
ECAPreActResNet50 = BUILDERS["ECAPreActResNet50"]
CBAMPreActResNet50 = BUILDERS["CBAMPreActResNet50"]
PreActMobileNetV2 = BUILDERS["PreActMobileNetV2"]
PreActResNeXt50_32x4d = BUILDERS["PreActResNeXt50_32x4d"]
PreActResNeXt101_32x8d = BUILDERS["PreActResNeXt101_32x8d"]
PreActRes2Net50_26w_4s = BUILDERS["PreActRes2Net50_26w_4s"]
PreActResNetRS50 = BUILDERS["PreActResNetRS50"]
ResNet50V2 = BUILDERS["ResNet50V2"]
ResNet101V2 = BUILDERS["ResNet101V2"]
ResNet152V2 = BUILDERS["ResNet152V2"]
BiTResNet50x1 = BUILDERS["BiTResNet50x1"]
BiTResNet50x3 = BUILDERS["BiTResNet50x3"]
BiTResNet101x1 = BUILDERS["BiTResNet101x1"]
BiTResNet101x3 = BUILDERS["BiTResNet101x3"]
BiTResNet152x2 = BUILDERS["BiTResNet152x2"]
BiTResNet152x4 = BUILDERS["BiTResNet152x4"]
PreActViTHybrid_R26_S32 = BUILDERS["PreActViTHybrid_R26_S32"]
PreActViTHybrid_R50_B16 = BUILDERS["PreActViTHybrid_R50_B16"]
PreActBoTNet50 = BUILDERS["PreActBoTNet50"]
PreActResNet20 = BUILDERS["PreActResNet20"]
PreActResNet56 = BUILDERS["PreActResNet56"]
PreActResNet110 = BUILDERS["PreActResNet110"]
PreActResNet164 = BUILDERS["PreActResNet164"]
PreActResNet1001 = BUILDERS["PreActResNet1001"]
WideResNet16_8 = BUILDERS["WideResNet16_8"]
WideResNet28_10 = BUILDERS["WideResNet28_10"]
WideResNet40_4 = BUILDERS["WideResNet40_4"]
PyramidNet110_a48 = BUILDERS["PyramidNet110_a48"]
PyramidNet110_a84 = BUILDERS["PyramidNet110_a84"]
PyramidNet110_a270 = BUILDERS["PyramidNet110_a270"]
PyramidNet164_a270 = BUILDERS["PyramidNet164_a270"]
PreActDenseNet121 = BUILDERS["PreActDenseNet121"]
PreActDenseNet169 = BUILDERS["PreActDenseNet169"]
PreActDenseNet201 = BUILDERS["PreActDenseNet201"]
DenseNetBC100_12 = BUILDERS["DenseNetBC100_12"]
