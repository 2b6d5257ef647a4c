"""Model card of a net on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_preact.output_kinds import VALUES, output_kind
from keras_preact.weights.hugging_face import library

# The Hub's names of what nets do, by the kind of their output; any other classifies.
_TASK = "image-classification"
_TASKS = {VALUES: "image-feature-extraction"}


def card(
    config: Mapping[str, Any],
    model: keras.Model,
    weights: Path,
    *,
    metrics: Mapping[str, float],
    dataset: str | None,
    licence: str,
    training: str | None,
) -> str:
    """Return the text of a `README.md`. The arguments are those of `to_config_folder`.

    Args:
        config: Content of `config.json`.
        model: The net.
        weights: The file of weights.
        metrics: What was measured, by name.
        dataset: The images that it was measured on.
        licence: SPDX identifier of the weights' license.
        training: How it was trained, in Markdown.

    Returns:
        YAML that the Hub reads, and Markdown.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
    """
    sections = [
        f"# {model.name}",
        _facts(config, model, weights, licence),
        f"## Use\n\n{_use(config)}",
    ]
    if metrics:
        rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in metrics.items())
        sections.append(f"## Metrics\n\nOn {dataset}:\n\n| metric | value |\n| --- | --- |\n{rows}")
    if training:
        sections.append(f"## Training\n\n{training.strip()}")
    header = _header(config, model, metrics, dataset, licence)
    return f"---\n{header}\n---\n\n" + "\n\n".join(sections) + "\n"


def _header(
    config: Mapping[str, Any],
    model: keras.Model,
    metrics: Mapping[str, float],
    dataset: str | None,
    licence: str,
) -> str:
    hub = library("to_config_folder")
    kind = output_kind(model.outputs[0], named=config["keras_preact"]["class_names"] is not None)
    task = _TASKS.get(kind or "", _TASK)
    results = [
        hub.EvalResult(
            task_type=task,
            dataset_type=re.sub(r"\W+", "-", str(dataset).lower()),
            dataset_name=dataset,
            metric_type=name,
            metric_value=float(value),
        )
        for name, value in metrics.items()
    ]
    data = hub.ModelCardData(
        library_name=config["library_name"],
        tags=[task, "keras", *(["timm"] if "architecture" in config else [])],
        pipeline_tag=task,
        license=licence,
        model_name=model.name,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _facts(config: Mapping[str, Any], model: keras.Model, weights: Path, licence: str) -> str:
    own = config["keras_preact"]
    builder, names = own["builder"], own["class_names"]
    values = own["preprocessing"]
    size = values["input_size"]
    return f"""- Net: {f"`keras_preact.{builder}`" if builder else "layers of keras_preact"}, \
{model.count_params():,} parameters
- Classes: {"not named" if names is None else f"{len(names)}: {', '.join(names)}"}
- Images: {size} x {size} pixels after a crop of {values["crop_fraction"]:.1%}, \
{values["interpolation"]}, scaled to 0..1, less {list(values["mean"])}, divided by \
{list(values["std"])}
- Weights: `{weights.name}`, {weights.stat().st_size:,} bytes, SHA-256 \
`{hashlib.sha256(weights.read_bytes()).hexdigest()}`
- License: {licence}
- Written by keras_preact {own["version"]}, keras {own["keras_version"]}"""


def _use(config: Mapping[str, Any]) -> str:
    """Return code that loads the net, where `user/repo` stands for the repository."""
    text = """With the address of this repository in the place of `user/repo`:

```python
import keras_preact

model = keras_preact.from_config_folder("hf://user/repo")
images = keras_preact.Preprocessor("hf://user/repo")(["photo.jpg"])
scores = model.predict(images)
```"""
    if "architecture" in config:
        text += """

```python
import timm

model = timm.create_model("hf-hub:user/repo", pretrained=True)
```"""
    return text
