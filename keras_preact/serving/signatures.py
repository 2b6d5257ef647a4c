"""Signatures of a SavedModel, as TensorFlow functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras

from keras_preact.features import feature_extractor
from keras_preact.images.preprocessing import Preprocessing
from keras_preact.named_weights import weights_bytes
from keras_preact.ops.choices import enabled
from keras_preact.output_kinds import LABELS, VALUES
from keras_preact.serving.heads import EMBEDDING, ERRORS, Head
from keras_preact.serving.reading import ImageReader
from keras_preact.tensor import Tensor

# Most images that go through the net at a time, so that memory does not grow with a batch.
CHUNK = 32
# Chunks side by side: on a CPU, the additions of one, which wait for memory, fill the gaps that the
# convolutions of another leave between their threads.
STREAMS = 2
# Classes that `classify` gives of one output, of which one is right.
TOP_K = 5
# A graph with its constants is one protocol buffer, which has less than 2 GiB.
_MAX_FROZEN_BYTES = 2**31 - 2**26

Net = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Options:
    """Options of `keras_preact.export_savedmodel`, documented there."""

    image_dtype: str
    any_size: bool
    top_k: int | None
    threshold: float
    max_pixels: int
    freeze: bool
    jit_compile: bool


def with_features(model: keras.Model, heads: Sequence[Head]) -> keras.Model:
    """Build a model that returns all outputs of the signatures, by name.

    Args:
        model: The model that is exported.
        heads: Its outputs.

    Returns:
        A model from the same input to its outputs by their names in the signatures, and, of a net
        of this package, to `{"embedding": …, "stage2": …}` too.

    Raises:
        ValueError: If an output of several has one of those names.
    """
    outputs = {head.name: each for head, each in zip(heads, model.outputs, strict=True)}
    names = {layer.name for layer in model.layers}
    if {"stage2_unit1_conv1", "head_pool"} <= names:
        features = {
            **feature_extractor(model).output,
            EMBEDDING: model.get_layer("head_pool").output,
        }
        if len(heads) > 1 and (taken := sorted(features.keys() & outputs.keys())):
            raise ValueError(
                f"The outputs of `model` must not have the names of features, {sorted(features)}. "
                f"Received: {taken}"
            )
        outputs = features | outputs
    return keras.Model(model.inputs[0], outputs, name=model.name)


def compiled(model: keras.Model, preprocessing: Preprocessing, options: Options) -> Net:
    """Make one TensorFlow function of the net.

    Args:
        model: Result of `with_features`.
        preprocessing: Preprocessing whose normalization comes first.
        options: `freeze` and `jit_compile`.

    Returns:
        A function from images, float32, pixels in 0..255, to float32 outputs by name.

    Raises:
        ValueError: If the weights are too large to be constants.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def net(images: Tensor) -> dict[str, Tensor]:
        outputs = model(preprocessing.normalize(images), training=False)
        return {name: tf.cast(output, tf.float32) for name, output in outputs.items()}

    spec = tf.TensorSpec(model.inputs[0].shape, tf.float32, "images")
    function = tf.function(
        net, input_signature=[spec], jit_compile=options.jit_compile, autograph=False
    )
    if not options.freeze:
        return function
    _check_size(model)
    concrete = tf.function(net, input_signature=[spec], autograph=False).get_concrete_function()
    names = sorted(concrete.structured_outputs)
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)

    def constant_net(images: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, tf.nest.flatten(frozen(images)), strict=True))

    return tf.function(
        constant_net, input_signature=[spec], jit_compile=options.jit_compile, autograph=False
    )


def constants_pay(model: keras.Model) -> bool:
    """Return whether weights that are constants are worth the memory.

    TensorFlow on oneDNN lays constant kernels out once, and holds them several times in every
    signature that is used. It reads variables as they are in float32. In 16 bits, where pairs of
    weights must lie side by side, it lays them out in every request, which takes a third of the
    time of a single image (`benchmarks/serving.py`).

    Args:
        model: Result of `with_features`.
    """
    layers = model._flatten_layers(include_self=False)
    in_16_bits = any(layer.compute_dtype in ("bfloat16", "float16") for layer in layers)
    return in_16_bits and weights_bytes(model) <= _MAX_FROZEN_BYTES


def _check_size(model: keras.Model) -> None:
    size = weights_bytes(model)
    if size > _MAX_FROZEN_BYTES:
        raise ValueError(
            "`freeze` must be False for a net whose weights have more than "
            f"{_MAX_FROZEN_BYTES:,} bytes: a graph holds no more. Received: {size:,} bytes"
        )


def signatures(
    model: keras.Model,
    net: Net,
    preprocessing: Preprocessing,
    heads: Sequence[Head],
    options: Options,
) -> dict[str, Tensor]:
    """Make the signatures of the SavedModel, by name.

    Args:
        model: Result of `with_features`.
        net: Result of `compiled`.
        preprocessing: Preprocessing of the images.
        heads: The outputs of the model that is exported.
        options: Options of inputs and outputs.

    Returns:
        A `tf.function` each, with its input signature.
    """
    import tensorflow as tf

    reader = ImageReader(preprocessing, options.max_pixels)
    files = tf.TensorSpec((None,), tf.string, "image_bytes")
    # Traced once for all signatures.
    read = tf.function(reader.read, input_signature=[files], autograph=False)
    scores = [head.name for head in heads]
    maps = {*model.output} - {*scores, EMBEDDING}
    features = sorted({*maps, EMBEDDING}) if maps else []

    def run(images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        outputs = _in_chunks(net, images, names)
        return {name: tf.ensure_shape(outputs[name], model.output[name].shape) for name in names}

    def score(images: Tensor) -> dict[str, Tensor]:
        if options.any_size:
            images = tf.map_fn(
                preprocessing.resize_and_crop, _with_pixels(images), fn_output_signature=tf.float32
            )
        return run(tf.cast(images, tf.float32), scores)

    def score_at_once(images: Tensor) -> dict[str, Tensor]:
        return _at_once(net, tf.cast(images, tf.float32), scores)

    def read_and_run(files: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        images, errors = read(files)
        outputs = run(images, names)
        # The images of files that could not be read are black, and get scores too: drop them.
        outputs = {name: _zero_where(errors != "", output) for name, output in outputs.items()}
        return {**outputs, ERRORS: errors}

    def score_files(image_bytes: Tensor) -> dict[str, Tensor]:
        return read_and_run(image_bytes, scores)

    def classify(image_bytes: Tensor) -> dict[str, Tensor]:
        outputs = score_files(image_bytes)
        failed = outputs[ERRORS] != ""
        answers = {ERRORS: outputs[ERRORS]}
        for head in filter(_is_classified, heads):
            prefix = "" if len(heads) == 1 else f"{head.name}_"
            classes, best = _best(head, outputs[head.name], options)
            answers[f"{prefix}classes"] = tf.where(failed[:, None], "", classes)
            answers[f"{prefix}scores"] = best
        return answers

    def describe(image_bytes: Tensor) -> dict[str, Tensor]:
        return read_and_run(image_bytes, features)

    channels = preprocessing.channels
    whole = tf.TensorSpec(model.inputs[0].shape, options.image_dtype, "images")
    shape = (None, None, None, channels) if options.any_size else model.inputs[0].shape
    images = tf.TensorSpec(shape, options.image_dtype, "images")
    functions = {
        "serving_default": (score, images),
        "single_pass": (score_at_once, whole),
        "serving_bytes": (score_files, files),
    }
    if any(map(_is_classified, heads)):
        functions["classify"] = (classify, files)
    if features:
        functions["features"] = (describe, files)
    return {
        name: tf.function(function, input_signature=[spec], autograph=False)
        for name, (function, spec) in functions.items()
    }


def _is_classified(head: Head) -> bool:
    return head.kind != VALUES


def _best(head: Head, scores: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Return the names and scores of the best classes of each image, the best first.

    Of several labels these are all above the threshold, followed by empty names and zeros.
    """
    import tensorflow as tf

    several = head.kind == LABELS
    wanted = options.top_k or (len(head.labels) if several else TOP_K)
    if several:
        scores = tf.where(scores > options.threshold, scores, 0.0)
    best, indices = tf.math.top_k(scores, min(wanted, len(head.labels)))
    classes = tf.gather(tf.constant(list(head.labels)), indices)
    return (tf.where(best > 0, classes, "") if several else classes), best


def _in_chunks(net: Net, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute some outputs of the net, for any number of images, also for none."""
    import tensorflow as tf

    count = tf.shape(images)[0]
    images = _one_at_least(images)
    padded = tf.shape(images)[0]
    streams = STREAMS if enabled("streams") else 1
    # A small batch has a share for each stream too.
    size = tf.minimum(CHUNK, (padded + streams - 1) // streams)
    chunks = (padded + size - 1) // size
    arrays = [tf.TensorArray(tf.float32, chunks, infer_shape=False) for _ in names]

    def step(index: Tensor, arrays: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        outputs = net(images[index * size : (index + 1) * size])
        return index + 1, [
            array.write(index, outputs[name]) for array, name in zip(arrays, names, strict=True)
        ]

    _, arrays = tf.while_loop(
        lambda index, _: index < chunks,
        step,
        (tf.constant(0), arrays),
        parallel_iterations=streams,
    )
    # Without the blank one.
    return {name: array.concat()[:count] for name, array in zip(names, arrays, strict=True)}


def _at_once(net: Net, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute some outputs of the net without a loop, which converters to other formats refuse."""
    import tensorflow as tf

    count = tf.shape(images)[0]
    outputs = net(_one_at_least(images))
    return {name: outputs[name][:count] for name in names}


def _with_pixels(images: Tensor) -> Tensor:
    """Return images, or fail in words where they have neither height nor width."""
    import tensorflow as tf

    shape = tf.shape(images)
    has_pixels = (shape[0] == 0) | (tf.size(images) > 0)
    message = ["Images must have a height and a width. Received: shape", shape]
    with tf.control_dependencies([tf.debugging.Assert(has_pixels, message, summarize=4)]):
        return tf.identity(images)


def _one_at_least(images: Tensor) -> Tensor:
    """Return images, or a blank one where there is none.

    TensorFlow's convolution on oneDNN (2.21) gives no images the shape of its input, not of its
    output.
    """
    import tensorflow as tf

    missing = tf.maximum(1 - tf.shape(images)[0], 0)
    return tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])


def _zero_where(failed: Tensor, output: Tensor) -> Tensor:
    import tensorflow as tf

    failed = tf.reshape(failed, [-1] + [1] * (len(output.shape) - 1))
    return tf.where(failed, 0.0, output)
