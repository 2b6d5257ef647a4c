"""Conversion of the weights of other sources to files of Keras."""

from __future__ import annotations

import os
from pathlib import Path

from keras_preact.files import replacing
from keras_preact.weights.identify import identified_model
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
    to = Path(to)
    if not to.name.endswith(".weights.h5"):
        raise ValueError(f"`to` must end in .weights.h5. Received: {str(to)!r}")
    if not to.parent.is_dir():
        raise ValueError(f"`to` must be in a folder that exists. Received: {str(to)!r}")
    name, model = identified_model(of_one_net(read(source_file)), architecture)
    with replacing(to) as partial:
        model.save_weights(partial)
    return name
