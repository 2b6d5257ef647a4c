"""Names of a net's layers: their grammar, which this module makes and parses.

Users find the maps of a net by these names. Unit u of stage s is counted from 1, and stages from 2,
as in the paper:

- Stem: `stem_conv`, `stem_norm`, `stem_act`, `stem_pool`. A deep stem has `stem_conv1`,
  `stem_norm1`, `stem_act1` and so on to `stem_conv3`, or without a pool to `stem_conv4`.
- Branch of a unit: `stage{s}_unit{u}_norm{i}`, `_act{i}`, `_conv{i}`, `_drop_block{i}`, `_dropout`
  and `_drop_path`.
- Addition: `_add`, and in other orders than full pre-activation, after it, `_sum_norm` and
  `_sum_act`.
- Shortcut where the shape changes: `_shortcut`, `_shortcut_norm`, `_shortcut_pool` and
  `_shortcut_pad`.
- Strides: `_conv{i}_subsample` where a convolution has both stride and dilation. With `blur_pool`,
  `stem_pool_blur`, `_conv{i}_blur`, which comes before `_conv{i}`, and `_shortcut_blur`.
- Res2Net, in place of `_conv2`, for its splits k: `_conv2_split{k}`, `_conv2_add{k}`,
  `_conv2_conv{k}`, `_conv2_norm{k}`, `_conv2_act{k}`, then `_conv2_pool` and `_conv2_concat`.
- Self-attention in place of convolution i: `_conv{i}_attention` and `_conv{i}_pool`.
- Other shortcuts than the identity: `_shortcut_scale`, `_branch_scale`, `_gate`, `_gate_rest`,
  `_shortcut_gated`, `_branch_gated` and `_shortcut_dropout`.
- Scaled branches: `_input_scale`, `_skip_init` and `_residual_scale`.
- Attention: `_se_…`, `_eca_…` and `_cbam_…` (`keras_preact.blocks.attention`).
- Dense units: `_concat`, and before each stage that a transition opens
  `stage{s}_transition_norm`, `_act`, `_conv` and `_pool`. Dropout has the name of its convolution
  and `_dropout`.
- Transformer encoder: `encoder_proj`, `encoder_tokens`, `encoder_dropout`; in block b, counted from
  1, `encoder_block{b}_norm1`, `_qkv`, `_attention`, `_proj`, `_dropout1`, `_drop_path1`, `_add1`,
  `_norm2`, `_mlp1`, `_act`, `_dropout2`, `_mlp2`, `_dropout3`, `_drop_path2`, `_add2`; then
  `encoder_norm`.
- Head: `head_norm`, `head_act`, `head_pool` and `predictions`.

A unit that is a nested model is the layer `stage{s}_unit{u}`, and such a block of an encoder
`encoder_block{b}`. Units 2 to n of a stage that runs as one loop are the layer
`stage{s}_unit2to{n}`. `keras_preact.blocks.stages` describes these forms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

# The layers after the last stage's units.
HEAD = ("head_norm", "head_act", "head_pool", "predictions")
_UNIT = re.compile(
    r"(?P<prefix>.*)stage(?P<stage>\d+)_unit(?P<unit>\d+)(to(?P<last>\d+))?(_(?P<role>.*))?"
)
# Norm and activation before the first convolution of a stage, which close the stage before it.
_OPENING = re.compile(r"stage\d+_(unit1_norm1|unit1_act1|transition_norm|transition_act)")
_TRANSITION = re.compile(r"stage(?P<stage>\d+)_transition_.*")
_CONVOLUTION = re.compile(r"conv(?P<number>\d+)")
# Full names, as a user's layer may begin like them.
_STEM = re.compile(r"stem_((conv|norm|act)[1-4]?|conv[1-4]?_dropout|pool|pool_blur)")
_ENCODER = re.compile(r"encoder_(proj|tokens|dropout|norm)")
_BLOCK = re.compile(
    r"encoder_block(?P<block>\d+)"
    r"(_((norm|add|mlp|drop_path)[12]|dropout[1-3]|qkv|attention|proj|act|input))?"
)


@dataclass(frozen=True)
class LayerName:
    """Parts of the name of a unit, of a stack of units, or of a layer in one of them.

    Attributes:
        stage: Number of the stage, from 2.
        unit: Number of the unit in the stage, from 1; of a stack, its first.
        last: Number of the last unit of a stack. None for a single unit.
        role: The rest of a layer's name, such as `"conv1"`. Empty for the unit itself.
        prefix: Anything before the name, such as that of an outer model.
    """

    stage: int
    unit: int
    last: int | None = None
    role: str = ""
    prefix: str = ""

    @property
    def unit_name(self) -> str:
        """Name of the unit or stack."""
        last = "" if self.last is None else f"to{self.last}"
        return f"{self.prefix}{unit_name(self.stage, self.unit)}{last}"

    @property
    def units(self) -> int:
        """Number of units."""
        return 1 if self.last is None else self.last - self.unit + 1

    @property
    def convolution(self) -> int | None:
        """Number of the convolution, from 1, if the layer is one of the branch."""
        match = _CONVOLUTION.fullmatch(self.role)
        return int(match["number"]) if match else None


def parse(name: str) -> LayerName | None:
    """Parse the name of a unit, of a stack of units, or of a layer in one of them.

    Args:
        name: Name of a layer.

    Returns:
        Its parts. None for any other layer.
    """
    match = _UNIT.fullmatch(name)
    if not match:
        return None
    return LayerName(
        stage=int(match["stage"]),
        unit=int(match["unit"]),
        last=int(match["last"]) if match["last"] else None,
        role=match["role"] or "",
        prefix=match["prefix"],
    )


def is_container(name: str) -> bool:
    """Return whether a name is that of a unit, or a block of an encoder, that is a nested model."""
    unit = parse(name)
    return bool(unit and not unit.role) or bool(re.fullmatch(r"encoder_block\d+", name))


def unit_name(stage: int, unit: int) -> str:
    """Return the name of a unit, with which the names of its layers begin."""
    return f"stage{stage}_unit{unit}"


def stack_name(unit_names: Sequence[str]) -> str:
    """Return the name of a stack: `stage2_unit2to9` of `stage2_unit2` to `stage2_unit9`."""
    return f"{unit_names[0]}to{unit_names[-1].rpartition('unit')[2]}"


def transition_name(stage: int) -> str:
    """Return the start of the names of the layers before a stage of dense units."""
    return f"stage{stage}_transition"


def layers_by_path(
    layer: keras.layers.Layer, prefix: str = ""
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield every path of every layer inside another, also of one that has several."""
    for part in _parts(layer):
        yield prefix + part.name, part
        yield from layers_by_path(part, inside(prefix, part.name))


def inside(prefix: str, name: str) -> str:
    """Return how the paths of the layers in a nested model begin.

    Args:
        prefix: How the paths of the layers beside it begin.
        name: Its name.
    """
    return prefix if is_container(name) else f"{prefix}{name}/"


def _parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    if isinstance(layer, keras.Model):
        return layer.layers
    return layer._flatten_layers(include_self=False, recursive=False)


def stage_of(layer_name: str) -> int | None:
    """Return the number of a layer's stage: 1 for the stem, None for the head and any other."""
    if _STEM.fullmatch(layer_name):
        return 1
    name = parse(layer_name)
    if name and not name.prefix:
        return name.stage
    match = _TRANSITION.fullmatch(layer_name)
    return int(match["stage"]) if match else None


def belongs_to_net(path: str) -> bool:
    """Return whether a layer inside a net, by its path there, is one of the net's own.

    Other layers are those before the net, where it was built on them by `input_tensor`, and those
    that were added to it, as a decoder's.
    """
    name = path.partition("/")[0]
    return stage_of(name) is not None or in_encoder(name) or name in HEAD


def stage_numbers(model: Any) -> tuple[int, ...]:
    """Return the numbers of a net's stages, that of the stem, 1, first.

    Args:
        model: A net built by this package, or a functional model that contains its layers.

    Returns:
        The numbers, ascending.

    Raises:
        ValueError: If it is no such model. The message names the nets in it.
    """
    numbers = _stages(model)
    if not has_stages(model):
        held = net_paths(model) if isinstance(model, keras.Model) else []
        raise ValueError(
            "`model` must be a net of keras_preact, with layers named as "
            "`keras_preact.layer_names` documents. "
            f"Received: {getattr(model, 'name', model)!r} (of type {type(model).__name__})"
            + (f", which holds {held}: give {expression_of(held[0])}" if held else "")
        )
    return numbers


def has_stages(model: Any) -> bool:
    """Return whether the layers of a model, not of those nested in it, are those of a net."""
    numbers = _stages(model)
    return len(numbers) > 1 and numbers[0] == 1


def net_paths(model: keras.Model) -> list[str]:
    """Return the paths of the nets of this package inside a model, at any depth."""
    return list(dict.fromkeys(path for path, layer in layers_by_path(model) if has_stages(layer)))


def expression_of(path: str) -> str:
    """Return the code that takes a layer from `model`, where `get_layer` finds no nested ones."""
    return f"`dict(keras_preact.named_layers(model))[{path!r}]`"


def _stages(model: Any) -> tuple[int, ...]:
    names = [layer.name for layer in model.layers] if isinstance(model, keras.Model) else []
    # In a net cut behind a stage, the next one may have left its norm and activation.
    stages = {stage_of(name) for name in names if not _OPENING.fullmatch(name)}
    return tuple(sorted(stage for stage in stages if stage is not None))


def stage_opening(model: keras.Model, stage: int) -> keras.layers.Layer:
    """Return the first convolution of a stage: that of its transition, where it has one."""
    names = (f"{transition_name(stage)}_conv", f"{unit_name(stage, 1)}_conv1")
    return next(layer for layer in model.layers if layer.name in names)


def in_encoder(layer_name: str) -> bool:
    """Return whether a layer is part of the transformer encoder that follows the last stage."""
    return bool(_ENCODER.fullmatch(layer_name)) or block_of(layer_name) is not None


def block_of(layer_name: str) -> int | None:
    """Return the number of a layer's block in the encoder; None for any other layer."""
    match = _BLOCK.fullmatch(layer_name)
    return int(match["block"]) if match else None


def body_end(model: keras.Model) -> keras.layers.Layer:
    """Return the layer whose output is pooled: the last maps, or the tokens of an encoder.

    Raises:
        ValueError: If the last maps are a raw sum (`activated_end`).
    """
    end = activated_end(model)
    return next((layer for layer in model.layers if layer.name == "encoder_norm"), end)


def maps_end(model: keras.Model) -> keras.layers.Layer:
    """Return the layer whose output is a net's last maps."""
    last = stage_numbers(model)[-1]
    return [
        layer
        for layer in model.layers
        if layer.name in ("head_norm", "head_act") or (stage_of(layer.name) or 0) >= last
    ][-1]


def activated_end(model: keras.Model) -> keras.layers.Layer:
    """Return the layer whose output is a net's last maps, normalized and activated.

    Raises:
        ValueError: If the net is of pre-activation, and cut before the norm and activation that
            follow its last stage.
    """
    end = maps_end(model)
    roles = {name.role for layer in model.layers if (name := parse(layer.name))}
    preactivated = roles & {"norm1", "act1"}
    stage = stage_numbers(model)[-1]
    closing = f"`{unit_name(stage + 1, 1)}_act1` or after the last stage at `head_act`"
    if preactivated and _is_not_closed(end.name, roles):
        reason = "of the norm and activation that close a stage in pre-activation, one or both are"
        reason += f" missing. Cut the net behind them, at {closing}"
    elif not preactivated and _is_in_unit(end.name, roles):
        reason = "the unit goes on behind it. Cut the net behind a unit"
    else:
        return end
    raise ValueError(
        f"{model.name!r} ends in {end.name!r}: {reason}, or take the maps that "
        f"`keras_preact.feature_extractor(net, ({stage},))` gives for the whole net."
    )


def _is_not_closed(end: str, roles: set[str]) -> bool:
    """Return whether norm or activation must follow the last layer of a pre-activation net."""
    is_raw = stage_of(end) is not None and not _OPENING.fullmatch(end)
    return is_raw or ("act1" in roles and "norm" in end)


def _is_in_unit(end: str, roles: set[str]) -> bool:
    """Return whether more layers of a unit must follow the last layer of any other net."""
    name = parse(end)
    if not name or not name.role:
        return False
    return name.role != "sum_act" and (name.role != "add" or "sum_act" in roles)


def data_format(model: keras.Model) -> str:
    """Return `"channels_last"` or `"channels_first"`, as the first convolution has it."""
    return first_convolution(model).data_format


def first_convolution(model: keras.Model) -> keras.layers.Layer:
    """Return the convolution that sees the image.

    Raises:
        ValueError: If the model is not a net with its stem.
    """
    for layer in model.layers:
        if layer.name.startswith("stem_conv"):
            return layer
    raise ValueError(
        f"{model.name!r} must be a net that begins with its stem, `stem_conv` or `stem_conv1`. "
        f"Received one of the layers {[layer.name for layer in model.layers[:3]]}, …"
    )
