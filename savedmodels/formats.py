"""A trained net in the formats of other runtimes: ONNX, OpenVINO and LiteRT (TensorFlow Lite)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_preact import transforms
from keras_preact.files import written_whole
from keras_preact.preprocessing import Preprocessing
from keras_preact.serving.card import described
from keras_preact.serving.export import check_input
from keras_preact.serving.heads import heads_of
from keras_preact.tensor import Tensor
from savedmodels.runtimes import FORMATS, Predict

# Probabilities of two runtimes in float32 differ by a thousandth of this; so do larger numbers,
# relative to the largest.
_TOLERANCE = 1e-3


def export_format(
    model: keras.Model,
    path: Path,
    name: str,
    *,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None = None,
    fold: bool = True,
) -> Path:
    """Write a net, from pixels to its one output, through Keras's own exporter.

    Its input `images` is float32 `(batch, height, width, channels)`, pixels in 0..255, at the size
    of the net's input. It computes in float32, also a net trained in mixed precision: its weights
    are float32, no converter writes a file of bfloat16 that a runtime loads, and each runtime has a
    setting for 16 bits. Beside it lie `model.json`, which holds the preprocessing and says what the
    output's numbers are, and, unless they are of no classes, `labels.txt`. Its runtime opens the
    file, and must score an image as Keras does, before it appears.

    Args:
        model: A model with one input of images and one output, of any kind that
            `keras_preact.export_savedmodel` knows.
        path: Folder to create; it appears complete or not at all.
        name: One of `FORMATS`.
        preprocessing: The preprocessing that the model was evaluated with.
        class_names: Name of each class; by default their indices, from `"0"`.
        fold: Whether to write `keras_preact.transforms.fold(model)` in place of the model.

    Returns:
        The file that its runtime loads.

    Raises:
        FileExistsError: If `path` exists.
        ImportError: If a package that writes or runs the format is missing.
        RuntimeError: If the runtime cannot open the file, or gives other scores.
        TypeError: If `model` is not a Keras model or `preprocessing` not a `Preprocessing`.
        ValueError: If there is no such format, the model, its preprocessing and the class names do
            not fit together, or the model has several outputs.
    """
    if name not in FORMATS:
        raise ValueError(f"`name` must be one of {sorted(FORMATS)}. Received: {name!r}")
    if path.exists():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}")
    check_input(model, preprocessing)
    if len(model.outputs) != 1:
        raise ValueError(
            f"A file of {name} has one output: write `keras.Model(model.input, output)` for each. "
            f"Received: outputs {[tuple(each.shape) for each in model.outputs]}"
        )
    heads = heads_of(model, preprocessing, class_names)
    model = _in_float32(model)
    whole = _from_pixels(transforms.fold(model) if fold else model, preprocessing)
    size = preprocessing.input_size
    image = np.random.default_rng(0).uniform(0, 255, (1, size, size, preprocessing.channels))
    image = image.astype("float32")
    if name == "onnx":
        _teach_erfc()
    # Keras writes ONNX only of a model that was called.
    expected = keras.ops.convert_to_numpy(whole(image))
    with written_whole(path) as folder:
        folder.mkdir()
        try:
            file = folder / FORMATS[name].file
            whole.export(str(file), format=name, verbose=False)
            check_scores(name, lambda: FORMATS[name].load(file), image, expected)
        except ImportError as error:
            raise ImportError(f"{error} (pip install {FORMATS[name].requires})") from error
        if labels := heads[0].labels:
            (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
        card = {
            "model": model.name,
            "preprocessing": preprocessing.get_config(),
            "outputs": described(heads),
        }
        (folder / "model.json").write_text(json.dumps(card, indent=2) + "\n")
    return path / FORMATS[name].file


def check_scores(
    name: str,
    load: Callable[[], Predict],
    image: np.ndarray,
    expected: np.ndarray,
    tolerance: float = _TOLERANCE,
) -> None:
    """Open an exported net in its own runtime, and check its scores.

    Args:
        name: Name of the format.
        load: Opens it.
        image: A batch of one image.
        expected: Its scores of the image.
        tolerance: Largest difference of a score; of scores above 1, relative to the largest.

    Raises:
        ImportError: If the runtime is not installed.
        RuntimeError: If it cannot open the file, or gives other scores.
    """
    try:
        received = load()(image)
    except ImportError:
        raise
    # Each runtime has errors of its own.
    except Exception as error:
        raise RuntimeError(f"The {name} file does not run: {error}") from error
    if received.shape != expected.shape:
        raise RuntimeError(
            f"The {name} file gives scores of the shape {received.shape} for an image. Expected: "
            f"{expected.shape}"
        )
    tolerance *= max(1.0, float(np.abs(expected).max()))
    difference = np.abs(received - expected).max()
    # A score that is no number fails too.
    if not difference <= tolerance:
        raise RuntimeError(
            f"The {name} file gives other scores than the net: one differs by {difference:.3g}. "
            f"Expected: {tolerance:g} at most"
        )


@functools.cache
def _teach_erfc() -> None:
    """Let the converter to ONNX know the function in TensorFlow's GELU."""
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """1 - erf(x), which differs by a rounding of 1."""

        @classmethod
        def version_9(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            del cls, kwargs
            ctx.remove_node(node.name)
            erf = ctx.make_node("Erf", node.input)
            one = ctx.make_const(f"{node.name}/one", np.ones((), "float32"))
            ctx.make_node("Sub", [*one.output, *erf.output], name=node.name, outputs=node.output)


def _in_float32(model: keras.Model) -> keras.Model:
    layers = model._flatten_layers(include_self=False)
    if all(layer.compute_dtype == "float32" for layer in layers):
        return model
    return transforms.with_dtype(transforms.unroll(model), "float32")


def _from_pixels(model: keras.Model, preprocessing: Preprocessing) -> keras.Model:
    """Put the normalization of images in front of a model, and its one output behind it.

    The model itself may give its output in a dictionary.
    """
    images = keras.Input(model.inputs[0].shape[1:], name="images", dtype="float32")
    (output,) = keras.tree.flatten(model(_Normalization(preprocessing)(images)))
    return keras.Model(images, output, name=model.name)


class _Normalization(keras.layers.Layer):
    """Normalization of the last axis.

    `keras.layers.Rescaling` takes the axis of the channels from Keras's global setting, which need
    not be that of the net.

    Args:
        preprocessing: Gives the mean and the standard deviation of each channel.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__(dtype="float32")
        std, mean = np.array(preprocessing.std), np.array(preprocessing.mean)
        self.scale, self.offset = (
            values.astype("float32") for values in (1 / (255 * std), -mean / std)
        )

    def call(self, images: Tensor) -> Tensor:
        """Normalize pixels in 0..255, `(batch, height, width, channels)`."""
        return images * self.scale + self.offset
