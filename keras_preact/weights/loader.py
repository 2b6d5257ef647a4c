"""Loading of weights into a model that is already built."""

from __future__ import annotations

import functools
import math
import os
from collections import defaultdict
from pathlib import Path

import keras

from keras_preact.composition import before_net, layers_by_path
from keras_preact.input_channels import adapt_convolution
from keras_preact.layer_names import first_convolution, has_stages
from keras_preact.named_weights import (
    NamedWeights,
    named_weights,
    placeholders,
    set_named_weights,
)
from keras_preact.transforms.inputs import resize_positions, token_embeddings, token_grid
from keras_preact.weights.catalogue import CATALOGUE, Entry
from keras_preact.weights.download import fetch, repair_hint
from keras_preact.weights.hugging_face import fetch_weights, is_address, read_image_size
from keras_preact.weights.identify import HEAD, check_builder
from keras_preact.weights.sources import of_one_net, read, source_of


def load_weights(model: keras.Model, weights: str | os.PathLike | Entry) -> None:
    """Load every weight of a model.

    Keras matches layers by their order. Here their names match, so that a net whose first layers
    happen to fit is refused, and the file and the model may have their units in different forms:
    separate, nested or stacked. A model without the top needs no weights for it. Layers before a
    net that was built by `input_tensor` keep theirs where the file has none. Published weights are
    adapted to a model for images of another number of channels (`adapt_kernel`), and the
    positions of an encoder's tokens to images of another size.

    Args:
        model: The model, built.
        weights: Name of an entry of the catalogue, whose file ships with the package, or is
            downloaded unless it is in the cache; the address of a repository on the Hugging Face
            Hub, `hf://user/repo`, of this package, timm or keras_hub; or the path of a file of timm
            (`.safetensors`), of BiT (`.npz`), or of Keras (`.weights.h5`, `.keras` or `.h5`),
            written by this package, keras.applications or keras_hub.

    Raises:
        ValueError: If the name ends otherwise, there is no such file, or its weights are those of
            another net. The model's weights are then as they were.
        keras_preact.weights.DownloadError: If the file of an entry or a repository cannot be had.
    """
    name = weights.name if isinstance(weights, Entry) else os.fspath(weights)
    entry = weights if isinstance(weights, Entry) else CATALOGUE.get(name)
    if entry:
        path, source = fetch(entry, functools.partial(_check, entry)), entry.source
        description = f"{entry.name!r}, in {str(path)!r},"
    elif is_address(name):
        path = fetch_weights(name)
        source, description = source_of(path), f"{name!r}, in {str(path)!r},"
    else:
        path = Path(name)
        source, description = source_of(path), repr(str(path))
        if not path.is_file():
            raise ValueError(f"`weights` names no file: {str(path)!r}")
    misfit = (
        f"{description} does not hold the weights of {model.name!r} "
        f"({model.count_params():,} parameters): "
    )
    try:
        named = read(path, source)
        if entry:
            check_builder(of_one_net(named), entry.builder)
    except ValueError as error:
        hint = f" {repair_hint(entry)}" if entry else ""
        raise ValueError(f"{misfit}{_sentence(error)}{hint}") from error
    named = _by_whole_paths(of_one_net(named) if has_stages(model) else named, model)
    if all(layer.name != HEAD for layer in model.layers):
        named.pop(HEAD, None)
    if entry or is_address(name):
        _adapt_channels(named, model)
        if token_embeddings(model):
            adapt_positions(named, model, _image_size(entry, name))
    if has_stages(model):
        named = {**named_weights(before_net(model)), **named}
    try:
        set_named_weights(model, named)
    except ValueError as error:
        raise ValueError(f"{misfit}{_sentence(error)}{_hint(entry, named, model)}") from error


def _sentence(error: ValueError) -> str:
    """Return what an error says, which ends in a full stop or not."""
    return f"{str(error).removesuffix('.')}."


def _hint(entry: Entry | None, named: NamedWeights, model: keras.Model) -> str:
    """Return sentences about a model that the weights in a whole file do not fit."""
    held = [path for path, layer in layers_by_path(model) if has_stages(layer)]
    if held and not has_stages(model) and not any("/" in path for path in named):
        return f" Weights of a net are loaded into the net itself: the model holds {held}."
    if not entry:
        return ""
    return (
        f" The file has the layers of `{entry.builder}` as it was published, the net has others: "
        "leave out the options that change them (such as `attention` or `channels`), or start from "
        "random weights by `weights=None`."
    )


def _adapt_channels(named: NamedWeights, model: keras.Model) -> None:
    """Fit the first convolutions to images of another number of channels."""
    for prefix, net in [("", model), *((f"{path}/", each) for path, each in layers_by_path(model))]:
        if not has_stages(net):
            continue
        first = first_convolution(net)
        path = f"{prefix}{first.name}"
        if path in named:
            named[path] = adapt_convolution(first, named[path], first.kernel.shape[2])


def _by_whole_paths(named: NamedWeights, model: keras.Model) -> NamedWeights:
    """Return weights by the paths in a model, of which Keras's old format leaves out a part.

    It names a layer and the outermost model that it is in, not the models between.
    """
    paths: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in placeholders(model):
        outer, _, inner = path.partition("/")
        paths[outer, inner.rpartition("/")[2]].append(path)
    renamed = {}
    for path, arrays in named.items():
        outer, _, layer = path.partition("/")
        whole = paths[outer, layer] if layer else []
        fits = len(whole) == 1 and whole[0] not in named
        renamed[whole[0] if fits else path] = arrays
    return renamed


def _image_size(entry: Entry | None, address: str) -> tuple[int, int] | None:
    """Return height and width of the images of published weights; None where nothing tells."""
    if entry:
        side = entry.preprocessing.input_size
        return side, side
    return read_image_size(address)


def adapt_positions(
    named: NamedWeights, model: keras.Model, image_size: tuple[int, int] | None
) -> None:
    """Resize the positions of an encoder's tokens to a model's maps.

    Args:
        named: Weights of the same net for images of any size, which are changed.
        model: The net.
        image_size: Height and width of the images that the weights are for. None where they are
            not known: as in timm, as many tokens as the model's then stay as they are, and others
            are taken for a square.
    """
    for path, layer in token_embeddings(model):
        if path in named:
            tokens = named[path]["1"].shape[1] - 1
            old, new = _grid(tokens, image_size or (1, 1)), token_grid(layer)
            # Of another number of tokens the grid is not known: they fit as they are, or not.
            if old and (image_size or tokens != math.prod(new)):
                resize_positions(named, path, old, new)


def _grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of tokens in an image's proportions; None if there are none."""
    height, width = image_size
    rows = math.isqrt(tokens * height // width)
    fits = rows**2 * width == tokens * height and tokens % rows == 0
    return (rows, tokens // rows) if fits else None


def _check(entry: Entry, path: Path) -> None:
    """Check that a file holds weights of the net that its entry says."""
    check_builder(of_one_net(read(path, entry.source)), entry.builder)
