"""Nets of runs before the first step: new, or with pretrained weights."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_preact
from keras_preact import transforms
from keras_preact.applications import Builder
from keras_preact.architecture import Architecture
from keras_preact.blocks.norms import NORMS
from keras_preact.messages import did_you_mean
from keras_preact.ops.device import is_tensorflow_on_cpu
from keras_preact.preprocessing import CIFAR10_CLASSES, Preprocessing
from keras_preact.weights import Entry, find_entry, list_weights
from keras_preact.weights.catalogue import DATASETS, best_weights
from keras_preact.weights.hugging_face import fetch_weights, is_address, read_config
from keras_preact.weights.sources import is_weights_file, read
from training.recipe import Recipe, differences
from training.run import read_run
from training.task import LABELS, ONE_CLASS, Task

# Values that a recipe inherits from the net it starts from, unless it gives them itself.
INHERITED = (
    "model",
    "model_options",
    "channels",
    "input_size",
    "mean",
    "std",
    "interpolation",
    "crop_fraction",
)
# Fields of an architecture that its weights fit whatever their values.
_FREE_FIELDS = (
    "output_stride",
    "norm_momentum",
    "dropout",
    "drop_path",
    "zero_init_residual",
    "scan_units",
    "rematerialize",
)
# Height and width, in pixels, from which maps are most of the memory that training takes.
LARGE_IMAGES = 128
# Fields that a net may have more of than the one that it grows from.
_SIZES = ("units", "channels", "stem_channels")


@dataclass(frozen=True)
class Pretrained:
    """Weights to fine-tune, with the facts that are known about them.

    Attributes:
        weights: The argument `weights` of a builder: the path of a file, or a published name.
        values: Values of a recipe that belong to the weights, as far as they are known.
        class_names: The classes that its head tells apart, where they are known.
        classes: Their number; None where nothing but the file says it.
        activation: That of its head, where a run, a `.keras` file or the Hub says it; else a
            softmax's.
    """

    weights: str
    values: dict[str, Any]
    class_names: tuple[str, ...] | None = None
    classes: int | None = None
    activation: str = ONE_CLASS.activation

    def predicts(self, class_names: Sequence[str], task: Task = ONE_CLASS) -> bool:
        """Return whether its head tells these classes for that task, as far as can be known."""
        if self.activation != task.activation:
            return False
        if self.class_names is not None:
            return self.class_names == tuple(class_names)
        if self.classes is not None:
            return self.classes == len(class_names)
        head = read(self.weights).get("predictions", {})
        return any(array.shape[-1] == len(class_names) for array in head.values())


def find_pretrained(init: str, model: str | None = None) -> Pretrained:
    """Find what `init` of a recipe names.

    Args:
        init: `"imagenet"` or `"cifar10"`, which mean what they mean to a builder; the name of an
            entry of `keras_preact.weights.list_weights()`; the folder of a run (its
            `model.keras`); a file of weights; or `hf://user/repo`, a repository of this package's
            on the Hugging Face Hub.
        model: Name of the builder, where it is chosen already. Without it, `"imagenet"` and
            `"cifar10"` are for the default net of recipes, or, where that has no such weights,
            for the net with the highest published accuracy.

    Returns:
        Facts about the weights, none of which is loaded yet. In a run's folder its `run.json`
        says how the net was built and what its images went through.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are no published weights of that name, or the repository is not of this
            package.
        keras_preact.weights.DownloadError: If a file of the repository cannot be downloaded.
    """
    if init in DATASETS:
        return _published(_of_dataset(init, model))
    if is_address(init):
        return _from_hub(init)
    path = file_of(init)
    if path and path.is_file():
        return _from_file(path)
    if is_weights_file(init):
        raise FileNotFoundError(f"`init`: there is no file {init!r}.")
    if path:
        raise FileNotFoundError(
            f"`init`: there is no {path}. Give the folder of a finished run, or a file, such "
            "as the best.keras of an unfinished one."
        )
    try:
        return _published(find_entry(init))
    except ValueError as error:
        hint = did_you_mean(init, DATASETS, quote="'")
        raise ValueError(f"`init`: there is no folder {init!r}. {error}{hint}") from error


def file_of(init: str) -> Path | None:
    """Return the file of weights that `init` of a recipe names, as `find_pretrained` reads it.

    Args:
        init: See `find_pretrained`.

    Returns:
        The file, which need not exist; in a run's folder its `model.keras`. None where `init` is
        no path, but a name.
    """
    if init in DATASETS or is_address(init):
        return None
    path = Path(init).expanduser()
    if path.is_dir():
        return path / "model.keras"
    return path if path.is_file() or is_weights_file(path) else None


def _of_dataset(dataset: str, model: str | None) -> Entry:
    """Find the entry that `weights="imagenet"` or `"cifar10"` means for a builder."""
    models = [model] if model else [Recipe.model, "*"]
    entry = next(filter(None, (best_weights(name, dataset) for name in models)), None)
    if entry is None:
        others = {each.builder for each in list_weights() if best_weights(each.builder, dataset)}
        raise ValueError(
            f"`init`: there are no weights trained on {DATASETS[dataset].title} for {model}, of "
            "pixels as `preprocess_input` makes them. There are some for: "
            + ", ".join(sorted(others))
        )
    return entry


def _published(entry: Entry) -> Pretrained:
    preprocessing = entry.preprocessing
    values = {**preprocessing.get_config(), "channels": preprocessing.channels}
    return Pretrained(
        entry.name,
        _inherited({**values, "model": entry.builder}),
        CIFAR10_CLASSES if entry.classes == len(CIFAR10_CLASSES) else None,
        # Some are published without a head.
        classes=entry.classes or 0,
    )


def _from_hub(address: str) -> Pretrained:
    config = read_config(address)
    preprocessing = Preprocessing(**config["preprocessing"])
    values = {**preprocessing.get_config(), "channels": preprocessing.channels}
    # None for a net that no builder makes by itself: the recipe names it.
    if config["builder"]:
        values["model"] = config["builder"]
    names = config["class_names"]
    return Pretrained(
        str(fetch_weights(address)),
        _inherited(values),
        None if names is None else tuple(names),
        activation=_activation_in(config["model"]),
    )


def _from_file(path: Path) -> Pretrained:
    try:
        record = read_run(path.parent)
    except FileNotFoundError:
        return Pretrained(str(path), {}, activation=_saved_activation(path))
    except ValueError as error:
        raise ValueError(
            f"{path.parent / 'run.json'} is not the record of a run: {error}"
        ) from error
    return Pretrained(
        str(path),
        _inherited(record["recipe"]),
        tuple(record["class_names"]),
        activation=record.get("activation", ONE_CLASS.activation),
    )


def _saved_activation(path: Path) -> str:
    """Return the activation of the head in a file, of which only a `.keras` file tells it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _activation_in(json.loads(archive.read("config.json")))
    # A file that is damaged is named where its weights are read.
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return ONE_CLASS.activation


def _activation_in(model: dict[str, Any]) -> str:
    """Return the activation of the head in a model's configuration, as Keras serializes it.

    Logits are taken for those of a softmax.
    """
    heads = (
        each["config"] for each in _layers(model) if each["config"].get("name") == "predictions"
    )
    several = any(head.get("activation") == LABELS.activation for head in heads)
    return (LABELS if several else ONE_CLASS).activation


def _layers(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the configurations of a model's layers, and of those of models in it."""
    for layer in model["config"].get("layers", ()):
        yield layer
        yield from _layers(layer)


def _inherited(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in INHERITED if name in values}


def build_net(recipe: Recipe, classes: int, **options: Any) -> keras.Model:
    """Build the net of a recipe.

    Args:
        recipe: Names the builder and its options.
        classes: Number of classes.
        **options: Further arguments of the builder, such as `weights`.

    Returns:
        An uncompiled model from images `(batch, size, size, channels)` to probabilities.

    Raises:
        ValueError: If there is no such builder, or it refuses an option.
    """
    return _builder(recipe.model)(
        **{
            "weights": None,
            "input_shape": (recipe.input_size, recipe.input_size, recipe.channels),
            "classes": classes,
            "data_format": "channels_last",
            "dtype": recipe.dtype_policy,
            **_computed_again(recipe),
            **recipe.model_options,
            **options,
        }
    )


def _computed_again(recipe: Recipe) -> dict[str, Any]:
    """Return the option with which training keeps fewer maps, where that costs next to nothing.

    Weights, layers' names and so checkpoints are the same with it and without. Of nets of 50 layers
    at 224 pixels it saves a sixth to a quarter of all memory on TensorFlow without a GPU, where
    steps are between 5% slower and 2% faster (`benchmarks.train_step`). The first step takes up to
    1.7 times as long, since the graph is larger. Small images have small maps beside everything
    else that training takes. Elsewhere its time is not measured.
    """
    architecture = _builder(recipe.model).architecture
    if recipe.input_size < LARGE_IMAGES or architecture.rematerialize or not is_tensorflow_on_cpu():
        return {}
    norm = NORMS.get(recipe.model_options.get("norm", architecture.norm))
    return {"rematerialize": "norms"} if norm and norm.layer else {}


def prepare_net(recipe: Recipe, class_names: Sequence[str], task: Task = ONE_CLASS) -> keras.Model:
    """Build the net of a recipe in the state before its first step.

    With `init` it has those weights, the first convolution's adapted to the channels; its head is
    new unless it told the same classes apart. With `grow` it has the function of that smaller net
    instead. With `freeze` its first parts will not be trained.

    Args:
        recipe: The values of the run.
        class_names: Names of the classes.
        task: What the net is to tell, which decides its last activation.

    Returns:
        An uncompiled model; see `build_net`.

    Raises:
        ValueError: If there is one class only to tell, the recipe gives another last activation, or
            its net is not the one that the weights are of, cannot grow from it, or has no such part
            to freeze.
        FileNotFoundError: If there is no such file of weights.
    """
    classes, activation = len(class_names), task.activation
    if task == ONE_CLASS and classes < 2:
        raise ValueError(
            "The images must be of two classes or more; of folders, train/CLASS/*.jpg, those in "
            f"`train` are the classes, not the ones in them. Received: {list(class_names)}"
        )
    _check_activation(recipe, activation)
    if not recipe.init:
        return build_net(recipe, classes, classifier_activation=activation)
    pretrained = find_pretrained(recipe.init, recipe.model)
    _check_architecture(pretrained, recipe)
    keep_head = pretrained.predicts(class_names, task)
    channels = pretrained.values.get("channels", recipe.channels)
    sizes = _sizes(_architecture(pretrained.values)) if recipe.grow else {}
    source = _of_size(recipe, sizes)
    net = build_net(
        source,
        classes,
        weights=pretrained.weights,
        include_top=keep_head,
        classifier_activation=activation,
        input_shape=(recipe.input_size, recipe.input_size, channels),
    )
    if channels != recipe.channels:
        net = transforms.adapt_input_channels(net, recipe.channels)
    if not keep_head:
        net = transforms.replace_head(net, classes, activation)
    if recipe.grow:
        net = _grown(net, source, recipe, activation)
    if recipe.freeze != "none":
        transforms.freeze(net, _frozen_stage(recipe))
    return net


def recipe_architecture(recipe: Recipe) -> Architecture:
    """Return the architecture of the net of a recipe.

    Args:
        recipe: Names the builder and its options.

    Returns:
        The architecture that the builder builds.

    Raises:
        ValueError: If there is no such builder, or an option is no field or out of its range.
    """
    return _architecture(vars(recipe))


def _builder(name: str) -> Builder:
    builders = keras_preact.BUILDERS
    if name not in builders:
        hint = did_you_mean(name, builders, quote="")
        raise ValueError(f"`model` must be one of {', '.join(builders)}. Received: {name!r}.{hint}")
    return builders[name]


def _check_activation(recipe: Recipe, activation: str) -> None:
    """Check that the recipe gives no other last activation than the images need."""
    given = recipe.model_options.get("classifier_activation", activation)
    if given != activation:
        raise ValueError(
            f"`classifier_activation` must be {activation!r}, or not be in `model_options`: a set "
            "with one class per image trains a softmax, one with labels.csv a sigmoid for each "
            f"label. Received: {given!r}"
        )


def _check_architecture(pretrained: Pretrained, recipe: Recipe) -> None:
    """Check what the shapes of weights do not show, such as strides, and name what differs."""
    values = pretrained.values
    if "model" not in values:
        if recipe.grow:
            raise ValueError(
                "`grow` must know how the net of `init` was built: give the folder of a run, a "
                f"file in one, or published weights. Received: {recipe.init!r}"
            )
        return
    may_differ = (*_FREE_FIELDS, *_SIZES) if recipe.grow else _FREE_FIELDS
    theirs, ours = (
        {name: value for name, value in each.get_config().items() if name not in may_differ}
        for each in (_architecture(values), recipe_architecture(recipe))
    )
    changes = differences(theirs, ours)
    if changes:
        raise ValueError(
            f"`init` {recipe.init!r} holds the weights of another net, a {values['model']}. The "
            f"recipe's is a {recipe.model}:\n  " + "\n  ".join(changes)
        )
    if recipe.grow:
        _check_growth(
            _sizes(_architecture(values)), _sizes(recipe_architecture(recipe)), recipe.init
        )


def _architecture(values: dict[str, Any]) -> Architecture:
    builder = _builder(values["model"])
    # Of the options of a net some are arguments of its builder, such as `classifier_activation`.
    arguments = inspect.signature(builder).parameters
    options = values.get("model_options", {})
    fields = {name: options[name] for name in options if name not in arguments}
    return builder.architecture.replace(**fields)


def _sizes(architecture: Architecture) -> dict[str, Any]:
    return {name: getattr(architecture, name) for name in _SIZES}


def _of_size(recipe: Recipe, sizes: dict[str, Any]) -> Recipe:
    """Return the recipe of the same net with some of `_SIZES` changed."""
    return recipe.replace(model_options={**recipe.model_options, **sizes})


def _check_growth(theirs: dict[str, Any], ours: dict[str, Any], init: str) -> None:
    if ours == theirs:
        raise ValueError(
            f"`grow` needs more units or channels than `init` {init!r} has. Received the same: "
            + ", ".join(f"{name}={size}" for name, size in ours.items())
        )
    shrunk = [name for name in _SIZES if np.any(np.less(ours[name], theirs[name]))]
    changes = differences(*({name: sizes[name] for name in shrunk} for sizes in (theirs, ours)))
    if changes:
        raise ValueError(
            f"`grow` needs at least the units and channels of `init` {init!r}:\n  "
            + "\n  ".join(changes)
        )


def _grown(net: keras.Model, source: Recipe, recipe: Recipe, activation: str) -> keras.Model:
    """Build the net of a recipe with the function of a net that has fewer units or channels.

    Args:
        net: The smaller net.
        source: Its recipe.
        recipe: The values of the run.
        activation: That of the classifier.

    Returns:
        An uncompiled model; see `build_net`.

    Raises:
        ValueError: If the recipe's net cannot have that function.
    """
    head = {"classes": net.output_shape[-1], "classifier_activation": activation}
    units = source.model_options["units"]
    wider = build_net(_of_size(recipe, {"units": units}), **head)
    try:
        return transforms.deepen(transforms.widen(net, wider), build_net(recipe, **head))
    except ValueError as error:
        raise ValueError(
            f"`grow`: the recipe's net cannot start with the function of `init` {recipe.init!r}. "
            f"{error}"
        ) from error


def _frozen_stage(recipe: Recipe) -> int:
    """Return the number of the last frozen stage; the stem is 1."""
    if recipe.freeze == "stem":
        return 1
    if recipe.freeze == "body":
        return 1 + len(recipe_architecture(recipe).units)
    return int(recipe.freeze.removeprefix("stage"))
