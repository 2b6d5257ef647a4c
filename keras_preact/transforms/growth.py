"""Deeper and wider nets with the function of a trained one, from which training goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import keras
import numpy as np
from keras import ops

from keras_preact.composition import layers_by_path, nets
from keras_preact.layer_names import first_convolution, parse
from keras_preact.layers import ScaledStandardizedConv2D, StackedUnits
from keras_preact.named_weights import NamedWeights, named_weights, set_named_weights
from keras_preact.transforms.graph_config import DEPTHWISE_LAYERS

# Height and width of the random image that both nets are compared on, where they take any.
_SIZE = 64
# Largest difference of the scores, as a share of the largest score, by bits of the computation.
_TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}


def deepen(model: keras.Model, deeper: keras.Model) -> keras.Model:
    """Give a net with more units the function of a trained one.

    Units of both nets are copied. The branch of every new unit gives zeros, by its last factor that
    is learned: the gain of SkipInit, or the last norm or convolution. In pre-activation, where
    nothing follows the addition, the unit is then an exact identity. The rest of it starts as in a
    new net, and learns. (Net2DeeperNet, arXiv:1511.05641, needs an activation for which
    applying it twice is applying it once.)

    Args:
        model: The trained net, of separate or stacked units.
        deeper: The same net with more units in some stages, of either form too, such as
            `PreActResNet(architecture.replace(units=(4, 4, 4)))`; its weights are replaced.

    Returns:
        `deeper`.

    Raises:
        ValueError: If the nets differ in more than the number of units, in their images or in the
            shapes of their outputs, or a new unit cannot be an identity, as where its shortcut is
            scaled or gated. `deeper` is then as it was.
    """
    source, target = named_weights(model), named_weights(deeper)
    if missing := sorted(source.keys() - target):
        raise ValueError(
            f"`deeper` must have every layer of {model.name!r}. "
            f"Received a net without {missing[:3]}"
        )
    added = {name: parse(name) for name in target.keys() - source}
    if strays := sorted(name for name, parsed in added.items() if not parsed):
        raise ValueError(
            f"`deeper` must have more units than {model.name!r}, and nothing else. "
            f"Received a net that also has {strays[:3]}"
        )
    for name, arrays in source.items():
        _check_shapes(name, arrays, target[name])
    layers = _layers(deeper)
    units = {parsed.unit_name for parsed in added.values() if parsed}
    for unit in sorted(units):
        _check_whole(unit, source)
        _end_in_zeros(unit, target, layers)
    return _with_function_of(model, deeper, target | source)


def widen(model: keras.Model, wider: keras.Model) -> keras.Model:
    """Give a net with more channels the function of a trained one.

    The channels of both nets come first. The weights from the new channels into them are zero, so
    the scores stay. The new channels start as in a new net, each differently, and learn.
    (Net2WiderNet, arXiv:1511.05641, copies channels, which noise must then tell apart.)

    Args:
        model: The trained net, of separate or stacked units.
        wider: The same net with more channels, of either form too; its weights are replaced.

    Returns:
        `wider`.

    Raises:
        ValueError: If the nets differ in more than their channels, in their images or in the shapes
            of their outputs, or have norms or kernels in which channels depend on one another, as
            in group normalization and weight standardization. `wider` is then as it was.
    """
    source, target = named_weights(model), named_weights(wider)
    if source.keys() != target.keys():
        differing = sorted(source.keys() ^ target.keys())
        raise ValueError(
            f"`wider` must have the layers of {model.name!r}. Only one of them has {differing[:3]}"
        )
    layers = _layers(wider)
    widened = {}
    for name, arrays in source.items():
        _check_variables(name, arrays, target[name])
        depthwise = isinstance(layers.get(name), DEPTHWISE_LAYERS)
        widened[name] = {
            key: _embedded(f"{name}/{key}", array, target[name][key], depthwise)
            for key, array in arrays.items()
        }
    return _with_function_of(model, wider, widened)


def _layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Return layers by their paths in `named_weights`; one of stacked units, for each of them."""
    found: dict[str, keras.layers.Layer] = {}
    for path, layer in layers_by_path(model):
        found[path] = layer
        if isinstance(layer, StackedUnits):
            prefix = path.removesuffix(layer.name)
            for name, part in layer.unit_layers().items():
                found |= {f"{prefix}{unit}_{name}": part for unit in layer.unit_names}
    return found


def _with_function_of(model: keras.Model, larger: keras.Model, named: NamedWeights) -> keras.Model:
    """Set the larger net's weights, and check on a random image that the scores are equal."""
    tolerance, images = _tolerance(model, larger), _images(model, larger)
    expected, untrained = _scores(model, images), _scores(larger, images)
    if (ours := _shapes(expected)) != (theirs := _shapes(untrained)):
        raise ValueError(
            f"{larger.name!r} must have outputs of the same shapes as {model.name!r}, for one "
            f"image {ours}. Received: {theirs}"
        )
    # LoRA's matrices as they are, too, which named weights merge into the kernels.
    before = larger.get_weights()
    try:
        set_named_weights(larger, named)
        difference = _difference(expected, _scores(larger, images))
        if not difference <= tolerance:
            raise ValueError(
                f"{larger.name!r} cannot have the function of {model.name!r}: their scores on a "
                f"random image differ by {difference:.2g} of the largest. New units must hand `x` "
                "on as it is (an identity shortcut, and nothing after the addition but an "
                "activation that may be repeated), and new channels must leave the others alone "
                "(no norm over channels, standardized kernel or group)."
            )
    except BaseException:
        larger.set_weights(before)
        raise
    return larger


def _tolerance(*models: keras.Model) -> float:
    """Return the largest difference of the scores of models with the same function."""
    # The policy of a model itself is the global one, whatever its layers compute in.
    dtypes = {first_convolution(net).compute_dtype for model in models for net in nets(model)}
    return max(_TOLERANCES[dtype] for dtype in dtypes)


def _images(model: keras.Model, larger: keras.Model) -> list[np.ndarray]:
    """Draw an image for each input, of a size that both nets take.

    Raises:
        ValueError: If there is no such size.
    """
    ours, theirs = ([tuple(each.shape[1:]) for each in net.inputs] for net in (model, larger))
    pairs = [[*zip(*both, strict=False)] for both in zip(ours, theirs, strict=False)]
    fit = all(one == two or None in (one, two) for pair in pairs for one, two in pair)
    if [*map(len, ours)] != [*map(len, theirs)] or not fit:
        raise ValueError(
            f"{larger.name!r} must take the images of {model.name!r}, {ours}. Received: {theirs}"
        )
    rng = np.random.default_rng(0)
    shapes = [[one or two or _SIZE for one, two in pair] for pair in pairs]
    return [rng.standard_normal((1, *shape)).astype("float32") for shape in shapes]


def _scores(model: keras.Model, images: list[np.ndarray]) -> list[np.ndarray]:
    outputs = model(images if len(images) > 1 else images[0], training=False)
    return [ops.convert_to_numpy(ops.cast(each, "float32")) for each in keras.tree.flatten(outputs)]


def _shapes(arrays: Iterable[np.ndarray]) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays]


def _difference(expected: list[np.ndarray], received: list[np.ndarray]) -> float:
    """Return the largest difference of scores, as a share of the largest score."""
    pairs = zip(expected, received, strict=True)
    # Of NumPy, whose largest is NaN where a score is.
    difference = np.max([np.abs(one - two).max() for one, two in pairs])
    largest = np.max([np.abs(each).max() for each in expected])
    return float(difference / max(largest, np.finfo("float32").tiny))


def _check_variables(name: str, small: dict[str, np.ndarray], large: dict[str, np.ndarray]) -> None:
    """Check that a layer has as many weights in both nets, as one with a bias has not."""
    ranks = [[array.ndim for array in arrays.values()] for arrays in (small, large)]
    if small.keys() != large.keys() or ranks[0] != ranks[1]:
        raise ValueError(
            f"{name!r} must have the same weights but for more channels, "
            f"{_shapes(small.values())}. Received: {_shapes(large.values())}"
        )


def _check_shapes(name: str, small: dict[str, np.ndarray], large: dict[str, np.ndarray]) -> None:
    shapes = [{key: array.shape for key, array in arrays.items()} for arrays in (small, large)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name!r} must have the same shapes in both nets, {shapes[0]}. Received: {shapes[1]}"
        )


def _check_whole(unit: str, source: NamedWeights) -> None:
    """Check that a unit is new as a whole: a unit of both nets must have the same layers."""
    if known := sorted(name for name in source if name.startswith(f"{unit}_")):
        raise ValueError(
            f"`{unit}` must be the same in both nets. Received one with more layers than {known}"
        )


def _end_in_zeros(unit: str, named: NamedWeights, layers: Mapping[str, keras.layers.Layer]) -> None:
    """Set weights to zero so that the branch of a new unit gives zeros, in place.

    Only one of the branch's factors is zero: of two, neither would have a gradient.
    """
    roles = {name.role: path for path in named if (name := parse(path)) and name.unit_name == unit}
    last = max(name.convolution or 0 for name in map(parse, roles.values()) if name)
    norm = f"norm{last + 1}"
    layer = next(role for role in ("skip_init", norm, f"conv{last}") if role in roles)
    path = roles[layer]
    zeroed = [*named[path]]
    if layer == norm:
        # Its scale and shift, not its statistics.
        zeroed = zeroed[:2]
    elif isinstance(layers[path], ScaledStandardizedConv2D):
        # Its bias and gain. The kernel is divided by its deviation.
        zeroed = zeroed[1:]
    named[path] = {
        key: np.zeros_like(array) if key in zeroed else array for key, array in named[path].items()
    }


def _embedded(name: str, small: np.ndarray, large: np.ndarray, depthwise: bool) -> np.ndarray:
    """Embed a narrow array in a wider one, whose other inputs add nothing to the old outputs.

    The last axis is that of outputs. In a kernel, the one before is that of inputs. A depthwise
    kernel has only the axis of its channels and that of the outputs of each, which is not widened:
    no channel is an input of another.
    """
    smaller = all(a <= b for a, b in zip(small.shape, large.shape, strict=True))
    if not (smaller and small.shape[:-2] == large.shape[:-2]):
        raise ValueError(
            f"{name!r} must be of the shape {small.shape} but for more channels. "
            f"Received: {large.shape}"
        )
    large = large.copy()
    outputs = slice(small.shape[-1])
    if small.ndim == 1:
        large[outputs] = small
        return large
    if not depthwise:
        large[..., outputs] = 0.0
    large[..., : small.shape[-2], outputs] = small
    return large
