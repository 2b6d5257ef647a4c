"""timm's checkpoints of these nets: a `.safetensors` file of PyTorch.

They are those of `resnetv2`, `nf_resnet`, `densenet` and hybrid `vit` nets. What wrapped a net in
training leaves a prefix before every name (`module.`), which is not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

import numpy as np

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters.arrays import by_layer

_STEM = re.compile(r"stem\.(?P<part>(?:conv|norm)\d?)")
_UNIT = re.compile(
    r"stages\.(?P<stage>\d+)\.(?:blocks\.)?(?P<unit>\d+)"
    r"(?:\.(?P<part>(?:conv|norm)\d|downsample\.(?:conv|norm)))?"
)
# SkipInit's gain is a variable of the unit itself.
_UNIT_PARTS = {None: "skip_init", "downsample.conv": "shortcut", "downsample.norm": "shortcut_norm"}
_FIXED = {"norm": "head_norm", "head.fc": "predictions"}
# A hybrid ViT: its maps come from a net in the original order, whose norms follow convolutions.
_HYBRID = "patch_embed.backbone."
_NORM_AFTER = re.compile(r"\.norm(?P<number>\d)\.")
_BLOCK = re.compile(r"blocks\.(?P<block>\d+)\.(?P<part>.*)")
_BLOCK_PARTS = {
    "norm1": "norm1",
    "attn.qkv": "qkv",
    "attn.proj": "proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp1",
    "mlp.fc2": "mlp2",
}
_HYBRID_FIXED = {
    "patch_embed.proj": "encoder_proj",
    "norm": "encoder_norm",
    "head": "predictions",
}
_TOKENS = {"cls_token": "class_token", "pos_embed": "positions"}
_NORM_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "v": "v",
    "tau": "tau",
}
_CONV_VARIABLES = {"weight": "kernel", "bias": "bias", "gain": "gain", "skipinit_gain": "gain"}
# A DenseNet, as torchvision names it too.
_DENSE = "features."
_DENSE_UNIT = re.compile(r"denseblock(?P<stage>\d+)\.denselayer(?P<unit>\d+)\.(?P<part>\w+)")
_TRANSITION = re.compile(r"transition(?P<stage>\d+)\.(?P<part>conv|norm)")
_DENSE_FIXED = {
    "conv0": "stem_conv",
    "norm0": "stem_norm",
    "norm5": "head_norm",
    "classifier": "predictions",
}
# What `DataParallel`, `DistributedDataParallel` and `torch.compile` put before every name.
_WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)+")
# Batches seen in training, which Keras does not count.
_COUNTER = "num_batches_tracked"


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
    try:
        import safetensors
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            f"Reading {str(path)!r} needs the package safetensors: `pip install safetensors`."
        ) from error
    try:
        tensors = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no whole safetensors file: {error}") from error
    tensors = _unwrapped(tensors)
    arrays = (
        (name, array.ravel() if name.endswith("gain") else _channels_last(array))
        for name, array in tensors.items()
        if not name.endswith(_COUNTER)
    )
    return by_layer(arrays, _renaming(tensors), path)


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop what wraps every name, if there is something."""
    wrapped = [_WRAPPERS.match(name) for name in tensors]
    if not all(wrapped):
        return tensors
    return {_WRAPPERS.sub("", name, count=1): array for name, array in tensors.items()}


def _renaming(names: Iterable[str]) -> Callable[[str], tuple[str, str] | None]:
    """Return the function that renames the variables of this kind of net."""
    for prefix, rename in ((_HYBRID, _rename_hybrid), (_DENSE, _rename_dense)):
        if any(name.startswith(prefix) for name in names):
            return rename
    return _rename


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Kernels `(out, in, height, width)` as Keras has them; matrices `(out, in)` likewise."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes else array


def _rename(name: str) -> tuple[str, str] | None:
    module, _, variable = name.rpartition(".")
    if match := _UNIT.fullmatch(module):
        part = _UNIT_PARTS.get(match["part"], match["part"])
        layer = f"stage{int(match['stage']) + 2}_unit{int(match['unit']) + 1}_{part}"
    elif match := _STEM.fullmatch(module):
        layer = f"stem_{match['part']}"
    else:
        layer = _FIXED.get(module)
    return _with_variable(layer, module, variable)


def _rename_hybrid(name: str) -> tuple[str, str] | None:
    if name in _TOKENS:
        return "encoder_tokens", _TOKENS[name]
    if name.startswith(_HYBRID):
        return _rename(_NORM_AFTER.sub(_later, name.removeprefix(_HYBRID)))
    module, _, variable = name.rpartition(".")
    if match := _BLOCK.fullmatch(module):
        part = _BLOCK_PARTS.get(match["part"])
        layer = part and f"encoder_block{int(match['block']) + 1}_{part}"
    else:
        layer = _HYBRID_FIXED.get(module)
    return _with_variable(layer, module, variable)


def _rename_dense(name: str) -> tuple[str, str] | None:
    module, _, variable = name.removeprefix(_DENSE).rpartition(".")
    if match := _DENSE_UNIT.fullmatch(module):
        layer = f"stage{int(match['stage']) + 1}_unit{match['unit']}_{match['part']}"
    elif match := _TRANSITION.fullmatch(module):
        layer = f"stage{int(match['stage']) + 2}_transition_{match['part']}"
    else:
        layer = _DENSE_FIXED.get(module)
    return _with_variable(layer, module, variable)


def _later(norm: re.Match) -> str:
    """Number a norm after convolution i like convolution i + 1, which it stands before."""
    return f".norm{int(norm['number']) + 1}."


def _with_variable(layer: str | None, module: str, variable: str) -> tuple[str, str] | None:
    variables = _NORM_VARIABLES if "norm" in module else _CONV_VARIABLES
    return (layer, variables[variable]) if layer and variable in variables else None
