"""timm's checkpoints of these nets: `.safetensors` files of PyTorch.

They are those of `resnetv2`, `nf_resnet`, `densenet` and hybrid `vit` nets; torchvision's DenseNets
have the same names, or those of its first version. Names and axes are written here once, for
reading and for writing. The prefix that training on several GPUs leaves before every name
(`module.`) is not read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters.arrays import by_layer, variables_of
from keras_preact.weights.converters.naming import Naming
from keras_preact.weights.safetensors_file import load

_UNIT = "stage{stage:2}_unit{unit:1}"
_STEM = {
    "stem.conv": "stem_conv",
    "stem.norm": "stem_norm",
    "stem.conv{n:1}": "stem_conv{n:1}",
    "stem.norm{n:1}": "stem_norm{n:1}",
}


def _units(prefix: str, first_norm: int = 1) -> dict[str, str]:
    """Return the templates of the layers in a unit, whose first norm has the number here."""
    return {
        f"{prefix}.conv{{n:1}}": f"{_UNIT}_conv{{n:1}}",
        f"{prefix}.norm{{n:1}}": f"{_UNIT}_norm{{n:{first_norm}}}",
        f"{prefix}.downsample.conv": f"{_UNIT}_shortcut",
        f"{prefix}.downsample.norm": f"{_UNIT}_shortcut_norm",
    }


@dataclass(frozen=True)
class Family:
    """Nets of timm's whose entries are named alike.

    Attributes:
        naming: Their names.
        convolutional_head: Whether the classifier is a 1x1 convolution.
    """

    naming: Naming
    convolutional_head: bool = False


_BLOCKS = "stages.{stage:0}.blocks.{unit:0}"
_BACKBONE = "patch_embed.backbone."
RESNETV2 = Family(
    Naming(
        {**_STEM, **_units(_BLOCKS), "norm": "head_norm", "head.fc": "predictions"},
        {},
    ),
    convolutional_head=True,
)
NF_RESNET = Family(
    Naming(
        {**_STEM, **_units("stages.{stage:0}.{unit:0}"), "head.fc": "predictions"},
        # SkipInit's gain is a variable of the unit itself.
        {"stages.{stage:0}.{unit:0}.skipinit_gain": f"{_UNIT}_skip_init/gain"},
    )
)
HYBRID = Family(
    Naming(
        {
            # A net in the original order: norm i follows convolution i, and here stands before
            # convolution i + 1.
            **{
                _BACKBONE + theirs: ours
                for theirs, ours in {**_STEM, **_units(_BLOCKS, first_norm=2)}.items()
            },
            "patch_embed.proj": "encoder_proj",
            **{
                f"blocks.{{block:0}}.{theirs}": f"encoder_block{{block:1}}_{ours}"
                for theirs, ours in {
                    "norm1": "norm1",
                    "attn.qkv": "qkv",
                    "attn.proj": "proj",
                    "norm2": "norm2",
                    "mlp.fc1": "mlp1",
                    "mlp.fc2": "mlp2",
                }.items()
            },
            "norm": "encoder_norm",
            "head": "predictions",
        },
        {"cls_token": "encoder_tokens/class_token", "pos_embed": "encoder_tokens/positions"},
    )
)
DENSENET = Family(
    Naming(
        {
            "features.conv0": "stem_conv",
            "features.norm0": "stem_norm",
            **{
                f"features.denseblock{{stage:1}}.denselayer{{unit:1}}.{part}{{n:1}}": (
                    f"{_UNIT}_{part}{{n:1}}"
                )
                for part in ("norm", "conv")
            },
            **{
                f"features.transition{{stage:1}}.{part}": f"stage{{stage:3}}_transition_{part}"
                for part in ("norm", "conv")
            },
            "features.norm5": "head_norm",
            "classifier": "predictions",
        },
        {},
    )
)
_NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "v": "v",
    "tau": "tau",
}
_CONV_VARIABLES = {"weight": "kernel", "bias": "bias", "gain": "gain"}
# Batches seen in training, which Keras does not count.
_COUNTER = "num_batches_tracked"
# What `DataParallel`, `DistributedDataParallel` and `torch.compile` put before every name.
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)+")
# torchvision's files of DenseNets call a layer `denselayer1.norm.1`, its nets `denselayer1.norm1`.
_FIRST_VERSION = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=\d)")
# Of a kernel and of a matrix, in the order of PyTorch's: outputs, inputs, height, width.
_TO_KERAS = {4: (2, 3, 1, 0), 2: (1, 0)}


def read(path: str | os.PathLike) -> NamedWeights:
    """Read a checkpoint of timm's.

    Args:
        path: The `.safetensors` file.

    Returns:
        Weights by the names of this package's layers.

    Raises:
        ImportError: If the package safetensors is not installed.
        ValueError: If the file is no such checkpoint.
    """
    tensors = {_FIRST_VERSION.sub(r"\1", name): array for name, array in load(path).items()}
    if all(_WRAPPERS.match(name) for name in tensors):
        tensors = {_WRAPPERS.sub("", name, count=1): array for name, array in tensors.items()}
    arrays = (
        (name, array.ravel() if name.endswith("gain") else _channels_last(array))
        for name, array in tensors.items()
        if not name.endswith(_COUNTER)
    )
    hybrid = any(name.startswith(_BACKBONE) for name in tensors)
    families = (HYBRID,) if hybrid else (RESNETV2, NF_RESNET, DENSENET)

    def rename(name: str) -> tuple[str, str] | None:
        found = (family.naming.ours(name, _variables(name)) for family in families)
        return next((each for each in found if each), None)

    return by_layer(arrays, rename, path)


def entries(named: NamedWeights, family: Family) -> dict[str, np.ndarray]:
    """Return weights under timm's names and in PyTorch's order of axes; the inverse of `read`.

    Args:
        named: Weights by the names of this package's layers.
        family: The nets of timm's that the result is for.

    Returns:
        Contiguous float32 arrays.

    Raises:
        ValueError: If a name is none of the family.
    """
    tensors = {}
    for layer, arrays in named.items():
        names = variables_of(layer, len(arrays))
        for variable, array in zip(names, arrays.values(), strict=True):
            name = family.naming.theirs(layer, variable, _variables(layer))
            if name is None:
                raise ValueError(f"timm has no name for {variable!r} of {layer!r}")
            tensors[name] = np.asarray(_as_theirs(name, array, family), "float32", order="C")
    return tensors


def _variables(name: str) -> dict[str, str]:
    """Return the variables of a layer or module of this name: theirs, each with ours."""
    return _NORM_VARIABLES if "norm" in name else _CONV_VARIABLES


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Kernels `(out, in, height, width)` as Keras has them; matrices `(out, in)` likewise."""
    axes = _TO_KERAS.get(array.ndim)
    return array.transpose(axes) if axes else array


def _as_theirs(name: str, array: np.ndarray, family: Family) -> np.ndarray:
    if name.endswith("skipinit_gain"):
        return array.reshape(())
    if name.endswith(".gain"):
        return array.reshape(-1, 1, 1, 1)
    if name.startswith("head") and array.ndim == 2 and family.convolutional_head:
        array = array[np.newaxis, np.newaxis]
    axes = _TO_KERAS.get(array.ndim)
    return array.transpose(np.argsort(axes)) if axes else array
