"""Folder of a net as the Hugging Face Hub expects it: weights, configuration and model card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_preact.files import written_whole
from keras_preact.hub.card import card
from keras_preact.images.preprocessing import Preprocessing
from keras_preact.loss_scaling import scaling_when_compiled
from keras_preact.messages import require
from keras_preact.named_weights import NamedWeights, named_weights, set_named_weights
from keras_preact.output_kinds import check_class_names
from keras_preact.published import NETS
from keras_preact.version import __version__
from keras_preact.weights import safetensors_file
from keras_preact.weights.hugging_face import (
    CONFIG,
    WEIGHTS,
    fetch,
    is_address,
    read_config,
    timm_preprocessing,
)
from keras_preact.weights.identify import builder_of
from keras_preact.weights.sources import read
from keras_preact.weights.timm_export import TimmNet, adapted_modules, timm_entries


def to_config_folder(
    model: keras.Model,
    folder: str | os.PathLike,
    preprocessing: Preprocessing,
    *,
    class_names: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    licence: str = "apache-2.0",
    training: str | None = None,
) -> None:
    """Write the folder of a net that the Hugging Face Hub expects.

    It has `model.safetensors`, `config.json` with the architecture, the preprocessing and the
    classes, and a model card, `README.md`. Where timm has the net (`weights.export_timm`), the
    weights have timm's names and `config.json` has timm's entries too, so that
    `timm.create_model("hf-hub:user/repo", pretrained=True)` loads it; otherwise the weights have
    this package's names.

    Args:
        model: A net of this package, or a model that consists of its layers and Keras's: whatever
            `model.save` writes without code of its own.
        folder: The folder, which must not exist.
        preprocessing: Preprocessing of its images; that of published weights is
            `Preprocessor(name).preprocessing`.
        class_names: Names of the classes in the order of the scores, of a model with one output.
        metrics: What was measured, by name, such as `{"accuracy": 0.93}`.
        dataset: Name of the images that it was measured on; needed with `metrics`.
        licence: SPDX identifier of the weights' license, as the Hub writes it.
        training: How it was trained, in Markdown, for the card.

    Raises:
        ImportError: If the package huggingface_hub or safetensors is not installed.
        TypeError: If `preprocessing` is not a `Preprocessing`.
        ValueError: If the folder exists, the arguments do not fit each other or the model, or the
            model cannot be built from its configuration.
    """
    folder = Path(folder)
    require(not folder.exists(), "folder", "a path that does not exist", str(folder))
    _check(model, preprocessing, class_names)
    require(not metrics or dataset is not None, "dataset", "a name, for `metrics`", dataset)
    named = named_weights(model)
    net, tensors = _timm_form(model, named)
    config = _config(model, named, preprocessing, class_names, net)
    with written_whole(folder) as partial:
        partial.mkdir()
        safetensors_file.save(tensors, partial / WEIGHTS)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (partial / CONFIG).write_text(text, encoding="utf-8")
        text = card(
            config,
            model,
            partial / WEIGHTS,
            metrics=metrics or {},
            dataset=dataset,
            licence=licence,
            training=training,
        )
        (partial / "README.md").write_text(text, encoding="utf-8")
        # Whatever the reader would be refused is refused here.
        from_config_folder(partial)


def from_config_folder(folder: str | os.PathLike) -> keras.Model:
    """Build the net in a folder that `to_config_folder` wrote, with its weights.

    Args:
        folder: The folder, or the address of a repository on the Hugging Face Hub,
            `hf://user/repo`. `keras_preact.Preprocessor` takes both too.

    Returns:
        The model, not compiled.

    Raises:
        ImportError: If the package huggingface_hub or safetensors is not installed.
        ValueError: If it is no such folder, or a file in it is damaged.
        keras_preact.weights.DownloadError: If a file cannot be downloaded.
    """
    config = read_config(folder)
    weights = fetch(str(folder), WEIGHTS) if is_address(folder) else Path(folder) / WEIGHTS
    if weights is None:
        raise ValueError(f"{str(folder)!r} has no {WEIGHTS}")
    named = read(weights)
    # Code in a configuration is refused: `safe_mode` is on.
    model = keras.saving.deserialize_keras_object(config["model"])
    set_named_weights(model, named)
    return scaling_when_compiled(model)


def _check(
    model: keras.Model, preprocessing: Preprocessing, class_names: Sequence[str] | None
) -> None:
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            f"`preprocessing` must be a Preprocessing. Received: {type(preprocessing).__name__}"
        )
    require(len(model.inputs) == 1, "model", "a model with one input", model.name)
    sides = [side for side in model.input_shape[1:] if side is not None]
    values = (preprocessing.input_size, preprocessing.channels)
    if not set(sides) <= {*values}:
        raise ValueError(
            f"`preprocessing` must make images for the input {model.input_shape} of "
            f"{model.name!r}. Received: images of {values[0]} x {values[0]} pixels in {values[1]} "
            "channels"
        )
    if class_names is None:
        return
    outputs = len(model.outputs)
    require(outputs == 1, "class_names", f"None for a model with {outputs} outputs", class_names)
    check_class_names(class_names, model.outputs[0])


def _timm_form(
    model: keras.Model, named: NamedWeights
) -> tuple[TimmNet | None, dict[str, np.ndarray]]:
    """Return timm's form of a net, if timm has it, and the entries of its file of weights."""
    try:
        return timm_entries(model, named)
    except ValueError:
        return None, safetensors_file.entries(named)


def _config(
    model: keras.Model,
    named: NamedWeights,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    net: TimmNet | None,
) -> dict[str, Any]:
    graph = keras.saving.serialize_keras_object(model)
    graph.pop("compile_config", None)
    builder = builder_of(model, named)
    own = {
        "version": __version__,
        "keras_version": keras.__version__,
        "builder": builder,
        "architecture": NETS[builder].architecture.get_config() if builder else None,
        "preprocessing": preprocessing.get_config(),
        "class_names": None if class_names is None else list(class_names),
        "model": graph,
    }
    theirs = _timm_config(net, named, preprocessing, class_names) if net else {}
    return {**theirs, "library_name": "keras_preact", "keras_preact": own}


def _timm_config(
    net: TimmNet,
    named: NamedWeights,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the entries of timm's own `config.json`."""
    arguments = {**net.arguments}
    classes = arguments.pop("num_classes")
    config: dict[str, Any] = {
        "architecture": net.name,
        "num_classes": classes,
        "model_args": arguments,
        "pretrained_cfg": {
            **timm_preprocessing(preprocessing),
            "num_classes": classes,
            **adapted_modules(net, named),
        },
    }
    if class_names is not None:
        config["label_names"] = list(class_names)
    return config
