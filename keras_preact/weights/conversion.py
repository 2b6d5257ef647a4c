"""Conversion of the weights of other sources to files of Keras."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_preact.build import build
from keras_preact.files import replacing
from keras_preact.published import find_net
from keras_preact.weights.identify import identified_model
from keras_preact.weights.in_order import load_in_order
from keras_preact.weights.sources import of_one_net, read


def convert(
    source_file: str | os.PathLike, to: str | os.PathLike, architecture: str | None = None
) -> str:
    """Write weights that another library published as a `.weights.h5` file.

    The file is written under another name first, so that an older one stays until the new one is
    complete.

    Args:
        source_file: A `.safetensors` file of timm, an `.npz` file of BiT, or a file of
            keras.applications, keras_hub or this package in any of Keras's formats (`.h5`,
            `.weights.h5`, `.keras`). A pickle (`.pth`, `.bin`) is never read.
        to: Path of the file to write, which ends in `.weights.h5`.
        architecture: Name of the builder whose net the weights are of; by default it is identified.

    Returns:
        The builder's name.

    Raises:
        ValueError: If the file cannot be read, or its weights are those of no published net, or
            not of the named one.
    """
    to = _target(to, ".weights.h5")
    name, model = identified_model(of_one_net(read(source_file)), architecture)
    with replacing(to) as partial:
        model.save_weights(partial)
    return name


def convert_in_order(
    source_file: str | os.PathLike,
    to: str | os.PathLike,
    architecture: str,
    options: Mapping[str, Any],
) -> keras.Model:
    """Write a net with the weights of a file whose layer names say nothing.

    Args:
        source_file: As for `load_in_order`.
        to: Path of the file to write: `.keras` for the whole net, or `.weights.h5`.
        architecture: Name of the net's builder.
        options: Fields of its `Architecture` in which the net differs from the published one.

    Returns:
        The net, with logits.

    Raises:
        ValueError: If the file does not hold the weights of this net, or a name is wrong.
    """
    to = _target(to, ".keras", ".weights.h5")
    published = find_net(architecture)
    net = build(
        published.architecture.replace(**options),
        include_top=True,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=published.classes,
        classifier_activation=None,
        name=published.model_name,
    )
    load_in_order(net, source_file)
    with replacing(to) as partial:
        net.save(partial) if to.suffix == ".keras" else net.save_weights(partial)
    return net


def _target(to: str | os.PathLike, *endings: str) -> Path:
    """Return the path of a file to write, checked before anything is read.

    Raises:
        ValueError: If it ends otherwise, or its folder does not exist.
    """
    path = Path(to)
    if not path.name.endswith(endings):
        raise ValueError(f"`to` must end in {' or '.join(endings)}. Received: {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"`to` must be in a folder that exists. Received: {str(path)!r}")
    return path
