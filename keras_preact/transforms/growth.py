"""Deeper and wider nets with the function of a trained one, from which training goes on."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_preact.layer_names import parse
from keras_preact.named_weights import NamedWeights, named_weights, set_named_weights

# Height and width of the random image that both nets are compared on, where they take any.
_SIZE = 64
# Largest difference of the scores, as a share of the largest score, by bits of the computation.
_TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}


def deepen(model: keras.Model, deeper: keras.Model) -> keras.Model:
    """Give a net with more units the function of a trained one.

    Units of both nets are copied. The branch of every new unit ends in zeros. In pre-activation,
    where nothing follows the addition, the unit is then an exact identity. The rest of it starts as
    in a new net, and learns. (Net2DeeperNet, arXiv:1511.05641, needs an activation for which
    applying it twice is applying it once.)

    Args:
        model: The trained net, of separate or stacked units.
        deeper: The same net with more units in some stages, of either form too, such as
            `PreActResNet(architecture.replace(units=(4, 4, 4)))`; its weights are replaced.

    Returns:
        `deeper`.

    Raises:
        ValueError: If the nets differ in more than the number of units, or a new unit cannot be an
            identity, as where its shortcut is scaled or gated. `deeper` is then as it was.
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
    units = {parsed.unit_name for parsed in added.values() if parsed}
    for unit in sorted(units):
        _check_whole(unit, source)
        _end_in_zeros(unit, target)
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
        ValueError: If the nets differ in more than their channels, or have norms or kernels in
            which channels depend on one another, as in group normalization and weight
            standardization. `wider` is then as it was.
    """
    source, target = named_weights(model), named_weights(wider)
    if source.keys() != target.keys():
        differing = sorted(source.keys() ^ target.keys())
        raise ValueError(
            f"`wider` must have the layers of {model.name!r}. Only one of them has {differing[:3]}"
        )
    widened = {
        name: {
            key: _embedded(f"{name}/{key}", array, target[name][key])
            for key, array in arrays.items()
        }
        for name, arrays in source.items()
    }
    return _with_function_of(model, wider, widened)


def _with_function_of(model: keras.Model, larger: keras.Model, named: NamedWeights) -> keras.Model:
    """Set the larger net's weights, and check on a random image that the scores are equal."""
    before = named_weights(larger)
    set_named_weights(larger, named)
    expected, received = _scores(model), _scores(larger)
    scale = max(np.abs(expected).max(), np.finfo("float32").tiny)
    difference = np.abs(expected - received).max() / scale
    if not difference <= _TOLERANCES[keras.backend.standardize_dtype(larger.compute_dtype)]:
        set_named_weights(larger, before)
        raise ValueError(
            f"{larger.name!r} cannot have the function of {model.name!r}: their scores on a random "
            f"image differ by {difference:.2g} of the largest. New units must hand `x` on as it is "
            "(an identity shortcut, and nothing after the addition but an activation that may be "
            "repeated), and new channels must leave the others alone (no norm over channels, "
            "standardized kernel or group)."
        )
    return larger


def _scores(model: keras.Model) -> np.ndarray:
    rng = np.random.default_rng(0)
    inputs = []
    for each in model.inputs:
        shape = [_SIZE if size is None else size for size in each.shape[1:]]
        inputs.append(rng.standard_normal((1, *shape)).astype("float32"))
    outputs = keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0]))
    arrays = [ops.convert_to_numpy(ops.cast(each, "float32")) for each in outputs]
    return np.concatenate([each.ravel() for each in arrays])


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


def _end_in_zeros(unit: str, named: NamedWeights) -> None:
    """Set weights to zero so that the branch of a new unit gives zeros, in place."""
    names = [name for name in map(parse, named) if name and name.unit_name == unit]
    layers = {name.role for name in names}
    last = max(name.convolution or 0 for name in names)
    norm = f"norm{last + 1}"
    layer = norm if norm in layers else f"conv{last}"
    arrays = named[f"{unit}_{layer}"]
    # Of a norm its scale and shift, not its statistics.
    zeroed = list(arrays)[: 2 if layer == norm else None]
    named[f"{unit}_{layer}"] = {
        key: np.zeros_like(array) if key in zeroed else array for key, array in arrays.items()
    }


def _embedded(name: str, small: np.ndarray, large: np.ndarray) -> np.ndarray:
    """Embed a narrow array in a wider one, whose other inputs add nothing to the old outputs.

    The last axis is that of outputs. In a kernel, the one before is that of inputs.
    """
    smaller = all(a <= b for a, b in zip(small.shape, large.shape, strict=False))
    same_rank = small.ndim == large.ndim
    if not (smaller and same_rank and small.shape[:-2] == large.shape[:-2]):
        raise ValueError(
            f"{name!r} must be of the shape {small.shape} but for more channels. "
            f"Received: {large.shape}"
        )
    large = large.copy()
    outputs = slice(small.shape[-1])
    if small.ndim == 1:
        large[outputs] = small
    else:
        large[..., outputs] = 0.0
        large[..., : small.shape[-2], outputs] = small
    return large
