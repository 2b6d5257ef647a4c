"""A trained net in the formats of other runtimes: ONNX, OpenVINO and LiteRT (TensorFlow Lite)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_preact import transforms
from keras_preact.files import written_whole
from keras_preact.preprocessing import Preprocessing

# From a batch of images, float32, pixels in 0..255, to probabilities.
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Format:
    """File format that Keras writes and another runtime reads.

    Attributes:
        file: Name of the file that is loaded; OpenVINO's weights lie beside it.
        requires: Packages that write and read it.
        load: Maps the path of the file to a function from images to probabilities.
    """

    file: str
    requires: str
    load: Callable[[Path], Predict]


def _load_onnx(file: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    return lambda batch: session.run(None, {images.name: batch})[0]


def load_openvino(file: Path, precision: str = "f32") -> Predict:
    """Read an OpenVINO model for the CPU.

    Args:
        file: The .xml file.
        precision: OpenVINO's name of what it computes in. It would choose 16 bits by itself where
            the processor has them.

    Returns:
        From images to probabilities.
    """
    import openvino

    model = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda batch: model(batch)[0]


def _load_litert(file: Path) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    (images,) = interpreter.get_input_details()
    (probabilities,) = interpreter.get_output_details()

    def predict(batch: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(images["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return predict


FORMATS = {
    "onnx": Format("model.onnx", "onnx onnxruntime tf2onnx", _load_onnx),
    "openvino": Format("model.xml", "openvino", load_openvino),
    "litert": Format("model.tflite", "ai-edge-litert", _load_litert),
}


def export_format(
    model: keras.Model,
    path: Path,
    name: str,
    *,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None = None,
    fold: bool = True,
) -> Path:
    """Write a net, from pixels to probabilities, through Keras's own exporter.

    Its input `images` is float32 `(batch, height, width, channels)`, pixels in 0..255, at the size
    of the net's input. Beside it lie `labels.txt` and `model.json`, which holds the preprocessing.

    Args:
        model: A model with one input of images and one softmax output.
        path: Folder to create; it appears complete or not at all.
        name: One of `FORMATS`.
        preprocessing: The preprocessing that the model was evaluated with.
        class_names: Name of each class; by default their indices, from `"0"`.
        fold: Whether to write `keras_preact.transforms.fold(model)` in place of the model.

    Returns:
        The file that its runtime loads.

    Raises:
        FileExistsError: If `path` exists.
        ImportError: If a package that Keras needs for the format is missing.
        ValueError: If there is no such format, or the names do not fit the classes.
    """
    if name not in FORMATS:
        raise ValueError(f"`name` must be one of {sorted(FORMATS)}. Received: {name!r}")
    if path.exists():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}")
    classes = model.outputs[0].shape[-1]
    labels = [str(index) for index in range(classes)] if class_names is None else class_names
    if len(labels) != classes:
        raise ValueError(
            f"`class_names` must have one name for each of the model's {classes} classes. "
            f"Received: {len(labels)} names"
        )
    whole = _from_pixels(transforms.fold(model) if fold else model, preprocessing)
    # Keras writes ONNX only of a model that was called.
    size = preprocessing.input_size
    whole(np.zeros((1, size, size, preprocessing.channels), "float32"))
    with written_whole(path) as folder:
        folder.mkdir()
        try:
            whole.export(str(folder / FORMATS[name].file), format=name, verbose=False)
        except ImportError as error:
            raise ImportError(f"{error} (pip install {FORMATS[name].requires})") from error
        (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
        card = {"model": model.name, "preprocessing": preprocessing.get_config()}
        (folder / "model.json").write_text(json.dumps(card, indent=2) + "\n")
    return path / FORMATS[name].file


def _from_pixels(model: keras.Model, preprocessing: Preprocessing) -> keras.Model:
    """Put the normalization of images in front of a model."""
    images = keras.Input(model.inputs[0].shape[1:], name="images")
    std, mean = np.array(preprocessing.std), np.array(preprocessing.mean)
    normalize = keras.layers.Rescaling((1 / (255 * std)).tolist(), (-mean / std).tolist())
    return keras.Model(images, model(normalize(images)), name=model.name)
