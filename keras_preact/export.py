"""A Keras model as a TensorFlow SavedModel, ready for TF Serving."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_preact.preprocessing import Preprocessing, decode_image


def export_savedmodel(
    model: keras.Model,
    path: str | Path,
    *,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Write a classifier as a SavedModel that needs neither Keras nor this package to run.

    It has two signatures, both for any batch size, both with the one output `probabilities`,
    float32 `(batch, classes)`:

    - `serving_default` takes `images`, float32 `(batch, height, width, channels)`: pixels in
      0..255, already at the size of the model's input.
    - `serving_bytes` takes `image_bytes`, strings `(batch,)`: each a whole JPEG, PNG, GIF (first
      frame), BMP or WebP file. They are decoded to the model's channels, resized, cropped and
      normalised in the graph. One that cannot be decoded fails the call with
      `tf.errors.InvalidArgumentError`. TF Serving's REST interface takes base64 `b64` values for
      an input only where its name ends in `_bytes`.

    `assets/labels.txt` holds the class names, one a line, in the order of the output;
    `assets.extra/model.json` the name of the model, its preprocessing and the Keras version.

    Args:
        model: A model with one input of images `(batch, height, width, channels)` and one softmax
            output `(batch, classes)`. Height and width may be `None`.
        path: Folder to create. It appears complete or not at all: everything is written under a
            temporary name beside it, which is then renamed.
        preprocessing: What the model was evaluated with.
        class_names: Name of each class; by default their indices, from `"0"`.

    Returns:
        `path`.

    Raises:
        RuntimeError: If Keras does not run on TensorFlow.
        FileExistsError: If `path` exists.
        TypeError: If `model` is not a Keras model or `preprocessing` not a `Preprocessing`.
        ValueError: If the model, its preprocessing and the class names do not fit together.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "A SavedModel is written by Keras on TensorFlow: save the model as a .keras file, and "
            "export that with KERAS_BACKEND=tensorflow. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    import tensorflow as tf

    path = Path(path)
    if path.exists():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}")
    _check_model(model, preprocessing)
    labels = _labels(model, class_names)

    signatures = _signatures(model, preprocessing)
    _check_probabilities(signatures["serving_default"], preprocessing)
    module = tf.Module()
    # A SavedModel keeps only the variables that it finds on the object saved.
    module.weights = model.variables
    with _written_whole(path) as folder:
        tf.saved_model.save(module, str(folder), signatures=signatures)
        (folder / "assets" / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
        card = {
            "model": model.name,
            "preprocessing": preprocessing.get_config(),
            "keras_version": keras.__version__,
        }
        (folder / "assets.extra").mkdir()
        (folder / "assets.extra" / "model.json").write_text(json.dumps(card, indent=2) + "\n")
    return path


def _check_model(model: keras.Model, preprocessing: Preprocessing) -> None:
    import tensorflow as tf

    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            f"`preprocessing` must be a Preprocessing. Received: {type(preprocessing).__name__}"
        )
    # A subclassed model, or one not built yet, has neither.
    inputs = [tuple(tensor.shape) for tensor in getattr(model, "inputs", ())]
    outputs = [tuple(tensor.shape) for tensor in getattr(model, "outputs", ())]
    expected = (None, preprocessing.input_size, preprocessing.input_size, preprocessing.channels)
    if len(inputs) != 1 or not tf.TensorShape(inputs[0]).is_compatible_with(expected):
        raise ValueError(
            f"`model` must have one input, of the shape that `preprocessing` gives: {expected}. "
            "(The weights of a channels-first net load into the channels-last one.) "
            f"Received: inputs {inputs}"
        )
    if len(outputs) != 1 or len(outputs[0]) != 2:
        raise ValueError(
            "`model` must have one output `(batch, classes)`: build it with `include_top=True`. "
            f"Received: outputs {outputs}"
        )


def _labels(model: keras.Model, class_names: Sequence[str] | None) -> list[str]:
    classes = model.outputs[0].shape[-1]
    if class_names is None:
        return [str(index) for index in range(classes)]
    if len(class_names) != classes:
        raise ValueError(
            f"`class_names` must have one name for each of the model's {classes} classes. "
            f"Received: {len(class_names)} names"
        )
    for name in class_names:
        if not name or len(name.splitlines()) != 1:
            raise ValueError(f"Each of `class_names` must be one line of text. Received: {name!r}")
    return list(class_names)


def _signatures(model: keras.Model, preprocessing: Preprocessing) -> dict[str, Any]:
    """The functions of the SavedModel, by the names they are served under."""
    import tensorflow as tf

    def prepare(encoded: tf.Tensor) -> tf.Tensor:
        return preprocessing.resize_and_crop(decode_image(encoded, preprocessing.channels))

    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": model(preprocessing.normalize(images), training=False)}

    def classify_encoded(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return classify(tf.map_fn(prepare, image_bytes, fn_output_signature=tf.float32))

    images = tf.TensorSpec(model.inputs[0].shape, tf.float32, "images")
    image_bytes = tf.TensorSpec((None,), tf.string, "image_bytes")
    return {
        "serving_default": tf.function(classify, input_signature=[images]),
        "serving_bytes": tf.function(classify_encoded, input_signature=[image_bytes]),
    }


def _check_probabilities(serving_default: Any, preprocessing: Preprocessing) -> None:
    """Raise unless the output for one grey image is a probability distribution."""
    size, channels = preprocessing.input_size, preprocessing.channels
    grey = keras.ops.full((1, size, size, channels), 127.5, dtype="float32")
    output = keras.ops.convert_to_numpy(serving_default(grey)["probabilities"]).astype("float32")
    # Half-precision outputs of a thousand classes sum to 1 within about a hundredth.
    if not (output.min() >= 0 and abs(output.sum() - 1) < 0.02):
        raise ValueError(
            "`model` must give probabilities: build it with `classifier_activation='softmax'`. "
            f"Received: outputs from {output.min():.4g} to {output.max():.4g} that sum to "
            f"{output.sum():.4g} for a grey image"
        )


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: renamed to it if the block succeeds, removed if not."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
