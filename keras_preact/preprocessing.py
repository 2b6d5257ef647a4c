"""Preprocessing of images for the nets, and names for their classes."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.images.decoding import JPEG_DCT, decode_image, rgb_to_channels
from keras_preact.images.levels import is_numeric, to_levels_in_graph
from keras_preact.images.pillow import is_symbolic, is_tensorflow, to_array
from keras_preact.images.preprocessing import CIFAR10, IMAGENET, INTERPOLATIONS, Preprocessing
from keras_preact.tensor import Tensor
from keras_preact.weights.catalogue import find_entry
from keras_preact.weights.hugging_face import CONFIG, is_address, read_preprocessing

__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "INTERPOLATIONS",
    "JPEG_DCT",
    "Preprocessing",
    "Preprocessor",
    "decode_image",
    "decode_predictions",
    "preprocess_input",
    "rgb_to_channels",
]

CLASSES_FILE = Path(__file__).parent / "data" / "imagenet_classes.tsv"
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def _preprocessing_of(weights: str | os.PathLike | Preprocessing) -> Preprocessing:
    """Return the preprocessing itself, or that of an entry, a folder or a repository."""
    if isinstance(weights, Preprocessing):
        return weights
    if weights == "cifar10":
        return CIFAR10
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(
            "`weights` must be the name of an entry in keras_preact.weights, or a Preprocessing. "
            f"Received: {weights!r} (of type {type(weights).__name__})"
        )
    if is_address(weights) or (Path(weights) / CONFIG).is_file():
        return read_preprocessing(weights)
    return find_entry(os.fspath(weights)).preprocessing


def preprocess_input(
    x: Tensor,
    data_format: str | None = None,
    *,
    weights: str | os.PathLike | Preprocessing = "imagenet",
) -> Tensor:
    """Normalize images for a net, as the function of this name in `keras.applications` does.

    The images must have the net's size already; `Preprocessor` brings them to it.

    Args:
        x: RGB image `(height, width, channels)` or batch `(batch, height, width, channels)`
            with pixels in 0..255, of any numeric dtype: an array, a tensor of the backend, a
            `keras.KerasTensor`, or a TensorFlow tensor on any backend. It is left as it is.
        data_format: `"channels_last"`, or `"channels_first"` for `(channels, height, width)`.
            `keras.config.image_data_format()` by default.
        weights: The weights that the net has: the name of an entry in `keras_preact.weights`, or
            `"imagenet"` or `"cifar10"` for what a builder loads for those. For a net of your own
            training its `Preprocessing`.

    Returns:
        Normalized images of the same shape, in `keras.config.floatx()`: an array for an array, a
        tensor for a tensor.

    Raises:
        ValueError: If the shape or the data format is another, or there is no such entry.
        TypeError: If `x` does not hold numbers, or `weights` is of another type.
    """
    preprocessing = IMAGENET if weights == "imagenet" else _preprocessing_of(weights)
    data_format = data_format or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last' or 'channels_first'. (The entry is named by "
            f"keyword: `weights=...`.) Received: {data_format!r}"
        )
    is_tensor = ops.is_tensor(x) or keras.backend.is_keras_tensor(x) or is_tensorflow(x)
    images = x if is_tensor else np.asarray(x)
    if is_tensorflow(x) and x.shape.rank is None:
        raise ValueError(
            "The rank of `x` must be known: use `keras_preact.preprocessing.decode_image`, or say "
            "it by `tf.ensure_shape(x, (None, None, 3))`. Received: a tensor of unknown shape"
        )
    shape = tuple(images.shape)
    if len(shape) not in (3, 4):
        raise ValueError(f"`x` must be one image or a batch of images. Received: shape {shape}")
    channels = shape[-1 if data_format == "channels_last" else -3]
    if channels not in (None, preprocessing.channels):
        raise ValueError(
            f"`x` must have {preprocessing.channels} channel(s) in {data_format!r} order. "
            f"Received: shape {shape}"
        )
    if is_tensor:
        return preprocessing.normalize(images, data_format=data_format)
    if not is_numeric(images.dtype):
        raise TypeError(f"`x` must hold numbers in 0..255. Received: dtype {images.dtype}")
    return ops.convert_to_numpy(preprocessing.normalize(images, data_format=data_format))


def decode_predictions(
    preds: Tensor, top: int = 5, *, weights: str = "imagenet"
) -> list[list[tuple[str, str, float]]]:
    """Name the best classes of each image, as `keras.applications` does.

    The names ship with the package: nothing is downloaded.

    Args:
        preds: Probabilities, or any scores, `(batch, classes)`: what a net returns.
        top: Number of classes to name for each image.
        weights: Weights that the net was built with: `"imagenet"`, for the 1000 classes of
            ImageNet-1k, or `"cifar10"`.

    Returns:
        For each image its best classes, best first, each as `(identifier, name, score)`. An
        identifier is WordNet's, or a class's index in CIFAR-10.

    Raises:
        ValueError: If `preds` has another shape or holds NaN, `top` is not in 1..classes, or
            `weights` is another.
    """
    preds = ops.convert_to_numpy(preds)
    classes = _classes_of(weights)
    if preds.ndim != 2 or preds.shape[1] != len(classes):
        raise ValueError(
            f"`preds` must have the shape (batch, {len(classes)}), a score for each class that "
            f"`weights={weights!r}` knows. Received: shape {preds.shape}"
        )
    if not 1 <= top <= len(classes):
        raise ValueError(f"`top` must be in 1..{len(classes)}. Received: {top}")
    if np.isnan(preds).any():
        raise ValueError("`preds` must be numbers that can be ordered. Received: NaN among them")
    # Integers and booleans are not to be negated: -128 has no opposite in 8 bits.
    backwards = np.argsort(preds[:, ::-1], axis=1, kind="stable")[:, ::-1]
    best = len(classes) - 1 - backwards[:, :top]
    return [
        [(*classes[index], float(scores[index])) for index in indices]
        for scores, indices in zip(preds, best, strict=True)
    ]


def _classes_of(weights: str) -> tuple[tuple[str, str], ...]:
    """Return identifier and name of each class, in the order of a net's outputs."""
    if weights == "imagenet":
        return _imagenet_classes()
    if weights == "cifar10":
        return tuple((str(index), name) for index, name in enumerate(CIFAR10_CLASSES))
    raise ValueError(f"`weights` must be 'imagenet' or 'cifar10'. Received: {weights!r}")


@functools.cache
def _imagenet_classes() -> tuple[tuple[str, str], ...]:
    lines = CLASSES_FILE.read_text(encoding="utf-8").splitlines()
    return tuple((identifier, name) for identifier, name in (line.split("\t") for line in lines))


@keras.saving.register_keras_serializable(package="keras_preact")
class Preprocessor:
    """Conversion of images of any size to the input of a net, as its weights were evaluated.

    The shorter side is resized, the center cropped, and the pixels are normalized. Pillow resizes,
    so that the result is the same on every backend and equal to timm's transform for evaluation.

    ```python
    preprocessor = Preprocessor("timm/resnetv2_50.a1h_in1k")
    probabilities = model.predict(preprocessor(["cat.jpg", "dog.png"]))
    ```

    Args:
        weights: The name of an entry in `keras_preact.weights`, `"cifar10"`, the address
            `hf://user/repo` of a net of this package or of timm on the Hugging Face Hub, a folder
            of `keras_preact.to_config_folder`, or the `Preprocessing` of a net of your own
            training.
        data_format: Order of the result's axes: `"channels_last"` or `"channels_first"`.
            `keras.config.image_data_format()` by default.

    Attributes:
        preprocessing: The `Preprocessing` that it applies.

    Raises:
        ValueError: If there is no such entry, or the data format is another.
        TypeError: If `weights` is of another type.
    """

    def __init__(
        self, weights: str | os.PathLike | Preprocessing, *, data_format: str | None = None
    ) -> None:
        if weights == "imagenet":
            raise ValueError(
                "Input size, crop and interpolation of the ImageNet entries differ: name the "
                "entry (keras_preact.weights.list_weights() has them). Received: 'imagenet'"
            )
        self.preprocessing = _preprocessing_of(weights)
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                "`data_format` must be 'channels_last' or 'channels_first'. "
                f"Received: {self.data_format!r}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Preprocess one image or several.

        Args:
            images: One of

                - the path of a JPEG, PNG, GIF, BMP or WebP file, or the file's bytes. The picture
                  is turned as its EXIF orientation says; of a GIF or PNG the first frame is taken;
                - a `PIL.Image.Image` of any mode, taken as it is;
                - an array or tensor `(height, width, channels)` of whatever library, pixels in
                  0..255, of any numeric dtype; fractions of a gray level are rounded;
                - a list of any of these, or an array or tensor `(batch, height, width, channels)`;
                - in a `tf.data` pipeline or a `tf.function`, a tensor of one image or a batch. One
                  of unknown rank is one image.

        Returns:
            For one image an array `(input_size, input_size, channels)`, for several
            `(batch, input_size, input_size, channels)`; with `"channels_first"` the channels come
            before height and width. In `keras.config.floatx()`. A tensor for a tensor of a graph.

        Raises:
            ImportError: If Pillow is not installed.
            FileNotFoundError: If there is no such file.
            ValueError: If a file cannot be read as an image, or an array's shape or range is
                another. The message says which of several it is.
            TypeError: If an image is none of these.
            tf.errors.InvalidArgumentError: In a graph, if the values of a tensor are no image.
        """
        if is_symbolic(images):
            return self._normalize(self._resize_and_crop_in_graph(images))
        if len(getattr(images, "shape", ())) == 4:
            images = list(to_array(images))
        if not isinstance(images, (list, tuple)):
            return ops.convert_to_numpy(self._normalize(self.resize_and_crop(images)))
        if not images:
            raise ValueError("`images` must be one image or more. Received: none")
        batch = []
        for place, image in enumerate(images):
            try:
                batch.append(self.resize_and_crop(image))
            except (TypeError, ValueError) as error:
                raise type(error)(f"Image {place} of {len(images)}: {error}") from error
        return ops.convert_to_numpy(self._normalize(np.stack(batch)))

    def get_config(self) -> dict[str, Any]:
        """Return the preprocessing and the data format as plain JSON values."""
        return {**self.preprocessing.get_config(), "data_format": self.data_format}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Preprocessor:
        """Build the preprocessor that `get_config` described."""
        values = {**config}
        return cls(data_format=values.pop("data_format"), weights=Preprocessing(**values))

    def resize_and_crop(self, image: Tensor) -> np.ndarray:
        """Resize and crop an image, before its pixels are normalized; see `Preprocessing.prepared`.

        Args:
            image: One image, as in a call.

        Returns:
            uint8 `(input_size, input_size, channels)`.
        """
        return self.preprocessing.prepared(image)

    def _resize_and_crop_in_graph(self, images: Tensor) -> Tensor:
        """Resize and crop a tensor of one image or a batch in a TensorFlow graph."""
        import tensorflow as tf

        def prepare(image: Any) -> Any:
            levels = to_levels_in_graph(image, self.preprocessing.channels)
            return self.preprocessing.resize_and_crop(levels)

        if images.shape.rank != 4:
            return prepare(images)
        values = self.preprocessing
        shape = (values.input_size, values.input_size, values.channels)
        return tf.map_fn(prepare, images, fn_output_signature=tf.TensorSpec(shape, tf.float32))

    def _normalize(self, images: Tensor) -> Tensor:
        """Normalize images, and bring their axes into the order of `data_format`."""
        if self.data_format == "channels_last":
            return self.preprocessing.normalize(images)
        last = len(images.shape) - 1
        order = [*range(last - 2), last, last - 2, last - 1]
        if is_tensorflow(images):
            import tensorflow as tf

            images = tf.transpose(images, order)
        else:
            images = np.transpose(images, order)
        return self.preprocessing.normalize(images, data_format=self.data_format)
