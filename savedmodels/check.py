"""Load an exported model as TensorFlow Serving does, and send it its warm-up requests.

Example: `python -m savedmodels.check savedmodels/digits`

TensorFlow's C API loads the model (`savedmodels.c_api`): no Keras and none of the model's Python
code take part. Every signature must have a request, and every request an answer without an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from savedmodels.c_api import ServedModel, ServingError
from savedmodels.versions import add_model_argument, version_folder

WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"


def warm_up_requests(folder: Path) -> Iterator[PredictRequest]:
    """Yield the requests that TensorFlow Serving sends a model before it takes others.

    Args:
        folder: `NAME/VERSION/`.

    Yields:
        The requests, in their order.

    Raises:
        ServingError: If their file is damaged.
    """
    path = folder / WARM_UP
    if not path.exists():
        return
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield PredictionLog.FromString(record).predict_log.request
    except (tf.errors.OpError, DecodeError) as error:
        raise ServingError(15, f"{path} is damaged: {' '.join(str(error).split())}") from error


def check(folder: Path) -> list[str]:
    """Run a model's warm-up requests.

    Args:
        folder: `NAME/VERSION/`.

    Returns:
        A line for each request: its signature, inputs and outputs.

    Raises:
        ServingError: If the model cannot be loaded, or a request cannot be read or is not answered
            without an error, or a signature has no request.
    """
    with ServedModel(folder) as model:
        return [line for _, line in answers(model, folder)]


def answers(model: ServedModel, folder: Path) -> Iterator[tuple[str, str]]:
    """Send a model its warm-up requests.

    Args:
        model: The model.
        folder: `NAME/VERSION/`, from which it was loaded.

    Yields:
        After each answer, the signature and the line that `check` gives.

    Raises:
        ServingError: As by `check`.
    """
    missing = set(model.signatures)
    for request in warm_up_requests(folder):
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        outputs = model.run(inputs, name)
        if any(outputs.get("errors", ())):
            raise ServingError(3, f"{name!r} answers with errors: {list(outputs['errors'])}")
        missing.discard(name)
        yield name, f"{name}: {_shapes(inputs)} -> {_shapes(outputs)}"
    if missing:
        raise ServingError(5, f"no warm-up request for {sorted(missing)} in {folder / WARM_UP}")


def _shapes(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(arrays.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 1 if the model does not pass.
    """
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.check",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    add_model_argument(parser)
    options = parser.parse_args(argv)
    try:
        print("\n".join(check(version_folder(options.model))))
    except (OSError, ServingError) as error:
        print(f"savedmodels.check: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
