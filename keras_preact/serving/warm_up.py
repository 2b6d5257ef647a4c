"""Warm-up requests, which TensorFlow Serving sends a model before it takes others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "tf_serving_warmup_requests"


def write_warm_up(
    folder: Path, functions: Mapping[str, Any], size: int, batch_sizes: Sequence[int], name: str
) -> None:
    """Write `PredictionLog` records, one per signature and batch size.

    Args:
        folder: `assets.extra` of a SavedModel.
        functions: The signatures by name, each a `tf.function` of one input.
        size: Height and width of the images, in pixels.
        batch_sizes: Numbers of images in a request.
        name: Name of the served model.

    Raises:
        ImportError: If `tensorflow-serving-api` is not installed.
    """
    import tensorflow as tf

    try:
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    except ImportError as error:
        raise ImportError(
            "The warm-up records need TensorFlow Serving's protocol buffers: "
            "`pip install tensorflow-serving-api`, or pass `warm_up_batch_sizes=()`."
        ) from error

    with tf.io.TFRecordWriter(str(folder / FILE)) as records:
        for signature, function in functions.items():
            (spec,) = function.input_signature
            for batch_size in batch_sizes:
                log = PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                images = _images(spec, size, batch_size)
                request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(images))
                records.write(log.SerializeToString())


def _images(spec: Any, size: int, batch_size: int) -> Any:
    """Return images for an input: a gradient from black to white, as pixels or JPEG files."""
    import tensorflow as tf

    row = tf.linspace(0.0, 255.0, size)
    channels = 3 if spec.dtype == tf.string else spec.shape[-1]
    image = tf.cast(tf.tile(row[None, :, None], [size, 1, channels]), tf.uint8)
    image = tf.io.encode_jpeg(image) if spec.dtype == tf.string else tf.cast(image, spec.dtype)
    return tf.stack([image] * batch_size).numpy()
