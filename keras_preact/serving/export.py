"""Export of a Keras model as a TensorFlow SavedModel, ready for TF Serving."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_preact import transforms
from keras_preact.files import written_whole
from keras_preact.images.preprocessing import Preprocessing
from keras_preact.output_kinds import LABELS
from keras_preact.serving.card import ABOUT, memory_of_weights, model_card, write_card
from keras_preact.serving.heads import ClassNames, Head, gray_image, heads_of
from keras_preact.serving.signatures import (
    Options,
    compiled,
    constants_pay,
    signatures,
    with_features,
)
from keras_preact.serving.warm_up import write_warm_up
from keras_preact.spec.rules import is_positive_integer, plain
from keras_preact.transforms.precision import stored_as_computed

IMAGE_DTYPES = ("float32", "uint8")
# Folders of a SavedModel: for files that its graph reads, and for others.
ASSETS, EXTRA = "assets", "assets.extra"
# Probability above which a label is given.
THRESHOLD = 0.5
DTYPES = (None, "float32", "bfloat16", "float16")


def export_savedmodel(
    model: keras.Model,
    path: str | Path,
    *,
    preprocessing: Preprocessing,
    class_names: ClassNames = None,
    image_dtype: str = "float32",
    any_size: bool = False,
    top_k: int | None = None,
    threshold: float = THRESHOLD,
    max_pixels: int = 2**26,
    fold: bool = True,
    winograd: bool = False,
    dtype: str | None = None,
    jit_compile: bool = False,
    freeze: bool | None = None,
    warm_up_batch_sizes: Sequence[int] = (1,),
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a net as a SavedModel that needs neither Keras nor this package to run.

    Its signatures take any number of images, and preprocess them in the graph:

    - `serving_default`: `images`, `image_dtype` `(batch, height, width, channels)`, pixels in
      0..255, to `probabilities`, float32 `(batch, classes)`.
    - `single_pass`: the same in one pass of the net, for converters (tf2onnx, TensorFlow Lite,
      OpenVINO), which refuse the loop of the other signatures. That loop takes parts of a batch,
      two side by side: it is faster for a batch, and needs no more memory for a larger one.
    - `serving_bytes`: `image_bytes`, strings `(batch,)`, each a whole JPEG, PNG, GIF (first
      frame), BMP or WebP file, to `probabilities` and `errors`. The files are decoded, turned as
      their EXIF orientation says, resized, cropped and normalized. TF Serving's REST interface
      takes base64 `b64` values for an input only where its name ends in `_bytes`.
    - `classify`: `image_bytes` to `classes`, strings `(batch, top_k)`, the most probable first,
      `scores`, float32 `(batch, top_k)`, and `errors`. For several labels see below.
    - `features`, for nets of this package: `image_bytes` to `stage2`, `stage3`, …, the maps of
      `keras_preact.feature_extractor`, `embedding`, float32 `(batch, features)`, what the
      classifier sees, or the net's output where that is an embedding, and `errors`.

    The last layer decides how a net is served. The card says which kind it is:

    - a softmax, where one class is right: as above.
    - a sigmoid, where any number of labels is right: each of `probabilities` is that of a label.
      `classify` gives all labels whose probability is above `threshold`, the most probable first.
      Both outputs have a column for each label, whose rest is empty names and zeros.
    - logits (`classifier_activation=None`): `logits` in the place of `probabilities`; the `scores`
      of `classify` are logits.
    - an embedding (`include_top=False, pooling="avg"`), or other numbers: `embedding` in the place
      of `probabilities`, and no `classify`.
    - several outputs: each by its own name in the place of `probabilities`. `classify` gives
      `NAME_classes` and `NAME_scores` for each that has classes.

    `errors`, strings `(batch,)`, is empty for an image that was read. Otherwise it says what is
    wrong with the image, whose numbers are zero and whose classes are empty. The other images get
    their answers.

    `assets/labels.txt` holds the class names, one per line, in the order of the output; of several
    outputs `assets/NAME.labels.txt`.
    `assets.extra/tf_serving_warmup_requests` holds a request of each signature, and
    `assets.extra/model.json` and `README.md` hold the model card.

    Args:
        model: A model with one input of images `(batch, height, width, channels)` and an output
            `(batch, classes)`, or several outputs. Height and width may be `None`.
        path: Folder to create. It appears whole or not at all: all is written under a temporary
            name beside it, which is then renamed.
        preprocessing: The preprocessing with which the model was evaluated.
        class_names: Name of each class; by default their indices, from `"0"`. Of several outputs, a
            dictionary of such names, by output. A dense layer without an activation that is not
            named `predictions` gives logits only if there are names.
        image_dtype: Dtype of the images that `serving_default` and `single_pass` take, `"float32"`
            or `"uint8"`.
        any_size: Whether `serving_default` takes images of any size, and resizes and crops them as
            the other signatures do. Otherwise they have the size of the model's input. Where
            TensorFlow Serving puts requests together (`--enable_batching`), those of different
            sizes fail.
        top_k: Number of classes that `classify` gives at most: by default 5, of labels all.
        threshold: Probability above which `classify` gives a label, of several labels.
        max_pixels: Height times width of the largest image that is decoded. It bounds the memory
            that a small file can ask for.
        fold: Whether to write `keras_preact.transforms.fold(model)` in place of the model.
        winograd: Whether to write `keras_preact.transforms.winograd` of that: on a CPU, in float32,
            faster for batches, and equal but for rounding.
        dtype: `"float32"`, `"bfloat16"` or `"float16"` to compute in, but for the classifier;
            the model's own by default.
        jit_compile: Whether XLA compiles the net, anew for each size of batch.
        freeze: Whether the weights are constants in the graph rather than variables. Variables are
            held once. Constants are held several times, and again for each signature that is used,
            but TensorFlow on oneDNN lays them out once. By default they are constants only in 16
            bits, where single images take 1.5 times as long from variables. A server with
            `TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1` takes as long from either, and holds variables once
            more for each signature that is used. `savedmodels/README.md` has the figures.
        warm_up_batch_sizes: Numbers of images in the warm-up requests; none without any. They need
            `tensorflow-serving-api`.
        about: Entries that the model card shall have besides those known, by the names `training`,
            `metrics`, `licence`, `source`: texts, numbers or mappings of them.

    Returns:
        `path`.

    Raises:
        RuntimeError: If Keras does not run on TensorFlow.
        FileExistsError: If `path` exists.
        TypeError: If `model` is not a Keras model or `preprocessing` not a `Preprocessing`.
        ValueError: If the model, its preprocessing and the class names do not fit together, an
            option is out of its range, or `freeze` is True for weights that are too large.
        ImportError: If warm-up records are wanted and `tensorflow-serving-api` is not installed.
    """
    path = Path(path)
    about = dict(plain(about or {}))
    top_k, threshold, max_pixels, warm_up_batch_sizes = plain(
        (top_k, threshold, max_pixels, [*warm_up_batch_sizes])
    )
    any_size, fold, winograd, jit_compile, freeze = plain(
        (any_size, fold, winograd, jit_compile, freeze)
    )
    _check_target(path)
    check_input(model, preprocessing)
    _check_outputs(model)
    _check_options(image_dtype, top_k, max_pixels, dtype, warm_up_batch_sizes, about)
    heads = heads_of(model, preprocessing, class_names)
    _check_threshold(threshold, heads)
    served = with_features(_for_inference(model, fold, dtype, winograd), heads)
    options = Options(
        image_dtype=image_dtype,
        any_size=any_size,
        top_k=top_k,
        threshold=threshold,
        max_pixels=max_pixels,
        freeze=constants_pay(served) if freeze is None else freeze,
        jit_compile=jit_compile,
    )
    functions = _traced(served, preprocessing, heads, options)
    settings = {"fold": fold, "winograd": winograd, "dtype": dtype, **vars(options)}
    card = model_card(model, preprocessing, heads, functions, settings, about)
    card["memory"] = memory_of_weights(served, options.freeze)
    with written_whole(path) as folder:
        _write_graph(folder, served, functions, options.freeze)
        _write_labels(folder, heads)
        if warm_up_batch_sizes:
            name = path.absolute().parent.name
            size = preprocessing.input_size
            write_warm_up(folder / EXTRA, functions, size, warm_up_batch_sizes, name)
        write_card(folder, card)
    return path


def _traced(
    served: keras.Model, preprocessing: Preprocessing, heads: Sequence[Head], options: Options
) -> dict[str, Any]:
    """Build the signatures of a net, and check what it says of a gray image."""
    net = compiled(served, preprocessing, options)
    functions = signatures(served, net, preprocessing, heads, options)
    outputs = net(keras.ops.convert_to_tensor(gray_image(preprocessing)))
    for head in heads:
        head.check(keras.ops.convert_to_numpy(outputs[head.name]))
    return functions


def _write_graph(
    folder: Path, served: keras.Model, functions: Mapping[str, Any], freeze: bool
) -> None:
    """Write the graph and its weights, and make the folders of the other files."""
    import tensorflow as tf

    module = tf.Module()
    if not freeze:
        # A SavedModel keeps only the variables that it finds on the object saved. TensorFlow's C++
        # loader restores its own variables, not those that Keras wraps around them.
        module.weights = [variable.value for variable in served.variables]
    # TensorFlow would trace the functions a second time, since what they are saved for is part of
    # what it knows a trace by.
    traces = {name: function.get_concrete_function() for name, function in functions.items()}
    # Where weights are constants, TensorFlow cannot write the gradients of quantized layers.
    quantized = any(layer.quantization_mode for layer in served._flatten_layers())
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=not (freeze and quantized))
    tf.saved_model.save(module, str(folder), signatures=traces, options=options)
    (folder / ASSETS).mkdir(exist_ok=True)
    (folder / EXTRA).mkdir()


def _write_labels(folder: Path, heads: Sequence[Head]) -> None:
    for head in heads:
        if head.labels:
            name = "labels.txt" if len(heads) == 1 else f"{head.name}.labels.txt"
            text = "\n".join(head.labels) + "\n"
            (folder / ASSETS / name).write_text(text, encoding="utf-8")


def _for_inference(
    model: keras.Model, fold: bool, dtype: str | None, winograd: bool
) -> keras.Model:
    """Return the model that is written, folded and in the wanted precision."""
    if fold:
        model = transforms.fold(model)
    if dtype is not None:
        policy = dtype if dtype == "float32" else f"mixed_{dtype}"
        model = transforms.with_dtype(model if fold else transforms.unroll(model), policy)
    if winograd:
        model = transforms.winograd(model)
    return stored_as_computed(model) if fold else model


def _check_target(path: Path) -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "A SavedModel is written by Keras on TensorFlow: save the model as a .keras file, and "
            "export that with KERAS_BACKEND=tensorflow. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    if path.exists():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}")


def _check_options(
    image_dtype: str,
    top_k: int | None,
    max_pixels: int,
    dtype: str | None,
    warm_up_batch_sizes: Sequence[int],
    about: Mapping[str, Any],
) -> None:
    for name, value, allowed in (
        ("image_dtype", image_dtype, IMAGE_DTYPES),
        ("dtype", dtype, DTYPES),
    ):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {allowed}. Received: {value!r}")
    for name, values in (
        ("top_k", [] if top_k is None else [top_k]),
        ("max_pixels", [max_pixels]),
        ("warm_up_batch_sizes", warm_up_batch_sizes),
    ):
        if not all(map(is_positive_integer, values)):
            raise ValueError(f"`{name}` must be 1 or more. Received: {values}")
    if unknown := sorted(about.keys() - {*ABOUT}):
        raise ValueError(f"`about` may have the names {ABOUT}. Received: {unknown}")
    try:
        json.dumps(about)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`about` must hold texts, numbers and mappings of them. Received: {about} ({error})"
        ) from error


def check_input(model: keras.Model, preprocessing: Preprocessing) -> None:
    """Check that a model takes the images that its preprocessing gives.

    Args:
        model: The model.
        preprocessing: Preprocessing of its images.

    Raises:
        TypeError: If `model` is not a Keras model or `preprocessing` not a `Preprocessing`.
        ValueError: If the model does not have one input, of those images, channels last.
    """
    import tensorflow as tf

    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if not isinstance(preprocessing, Preprocessing):
        raise TypeError(
            f"`preprocessing` must be a Preprocessing. Received: {type(preprocessing).__name__}"
        )
    # A subclassed model, or one not built yet, has none.
    inputs = [tuple(tensor.shape) for tensor in getattr(model, "inputs", ())]
    expected = (None, preprocessing.input_size, preprocessing.input_size, preprocessing.channels)
    of_any_batch = len(inputs) == 1 and inputs[0][:1] == (None,)
    if not of_any_batch or not tf.TensorShape(inputs[0]).is_compatible_with(expected):
        raise ValueError(
            f"`model` must have one input, of the shape that `preprocessing` gives: {expected}. "
            "(The weights of a channels-first net load into the channels-last one, and those of a "
            "net of a fixed batch size into that of any.) "
            f"Received: inputs {inputs}"
        )


def _check_outputs(model: keras.Model) -> None:
    outputs = [tuple(tensor.shape) for tensor in model.outputs]
    if not outputs or len(outputs) == 1 and len(outputs[0]) != 2:
        raise ValueError(
            "`model` must have one output `(batch, classes)` or `(batch, features)`, or several: "
            'build it with `include_top=True`, or with `pooling="avg"` for embeddings. '
            f"Received: outputs {outputs}"
        )


def _check_threshold(threshold: float, heads: Sequence[Head]) -> None:
    if not 0 <= threshold < 1:
        raise ValueError(f"`threshold` must be in [0, 1). Received: {threshold}")
    if threshold != THRESHOLD and not any(head.kind == LABELS for head in heads):
        raise ValueError(
            "`threshold` is for several labels, the outputs of a sigmoid. Received: "
            f"{threshold} for {', '.join(f'{head.name} ({head.kind})' for head in heads)}"
        )
