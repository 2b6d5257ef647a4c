"""Runtimes of other formats. No library is imported but the runtime whose file is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.cores import usable_cores

# From a batch of images, float32, pixels in 0..255, to probabilities, or what else a net gives.
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

    # It would take one thread; the other runtimes take all cores by themselves.
    interpreter = Interpreter(str(file), num_threads=usable_cores())
    (images,) = interpreter.get_input_details()
    (probabilities,) = interpreter.get_output_details()
    prepared: tuple[int, ...] | None = None

    def predict(batch: np.ndarray) -> np.ndarray:
        nonlocal prepared
        if batch.shape != prepared:
            interpreter.resize_tensor_input(images["index"], batch.shape)
            interpreter.allocate_tensors()
            prepared = batch.shape
        interpreter.set_tensor(images["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return predict


FORMATS = {
    "onnx": Format("model.onnx", "onnx onnxruntime tf2onnx", _load_onnx),
    "openvino": Format("model.xml", "openvino", load_openvino),
    "litert": Format("model.tflite", "ai-edge-litert", _load_litert),
}
