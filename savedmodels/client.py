"""Clients of TensorFlow Serving, over gRPC and REST, with time-outs and retries.

Example: `python -m savedmodels.client localhost:8500 digits photo.jpg`

Both clients give the same answers to the same calls. Over REST all fractions are float64, as in
JSON, which does not hold an empty batch of numbers: that is refused. A request that finds the
server gone or full is sent again, after a pause that doubles each time. Over gRPC, a server that is
not there yet is waited for until the time-out is over.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from savedmodels.casts import cast_numbers

ATTEMPTS = 5
FIRST_PAUSE_S = 0.1
MAX_MESSAGE_BYTES = 2**30
# Answers after which another attempt may succeed.
_RETRIED_GRPC = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
_RETRIED_HTTP = (429, 502, 503, 504)


class RequestFailed(RuntimeError):
    """Error of a request without an answer.

    Attributes:
        code: Name of the gRPC status, number of the HTTP status, or None where there was no answer.
    """

    def __init__(self, code: str | int | None, message: str) -> None:
        super().__init__(message if code is None else f"{code}: {message}")
        self.code = code


class _Client:
    """Base of both clients: calls of the signatures of an export."""

    def predict(
        self, inputs: Mapping[str, Any], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Send a request.

        Args:
            inputs: Arrays of numbers, or arrays or lists of bytes, by the names of the signature's
                inputs. Numbers of another dtype are converted to the signature's if it holds them.
            signature: Name of the signature.

        Returns:
            Arrays by the names of the signature's outputs; strings as arrays of str.

        Raises:
            RequestFailed: If there is no answer within the time-out and the attempts.
        """
        raise NotImplementedError

    def classify(self, files: Sequence[bytes]) -> list[dict[str, Any]]:
        """Classify image files, and return the most probable classes.

        Args:
            files: Contents of JPEG, PNG, GIF, BMP or WebP files.

        Returns:
            For each file `{"classes": names, "scores": numbers}`, best first, or `{"error": text}`.
            Of several labels they are those above the threshold of the export, perhaps none. Where
            the net has several outputs, such a dictionary of each that has classes, by its name.

        Raises:
            RequestFailed: If there is no answer within the time-out and the attempts, or the net
                has no classes.
        """
        answer = self.predict({"image_bytes": list(files)}, "classify")
        ends = [name for name in answer if name == "classes" or name.endswith("_classes")]
        found = {
            name.removesuffix("classes").removesuffix("_"): (
                answer[name],
                answer[name.removesuffix("classes") + "scores"],
            )
            for name in ends
        }
        return [
            {"error": error} if error else _best(found, place)
            for place, error in enumerate(answer["errors"])
        ]


def _best(found: Mapping[str, tuple[np.ndarray, np.ndarray]], place: int) -> dict[str, Any]:
    """Return the classes of an image, without the empty names that follow its labels."""
    answers = {}
    for name, (classes, scores) in found.items():
        count = sum(map(bool, classes[place]))
        answers[name] = {
            "classes": [str(each) for each in classes[place][:count]],
            "scores": scores[place][:count].tolist(),
        }
    # The one output has no name.
    return answers.get("", answers)


class GrpcClient(_Client):
    """Client over gRPC, which sends image files as they are.

    Args:
        target: `HOST:PORT`.
        model: Name of the served model.
        version: Number of the version; the server's latest by default.
        timeout_s: Seconds that a request may take, all attempts together.
    """

    def __init__(
        self, target: str, model: str, version: int | None = None, timeout_s: float = 10.0
    ) -> None:
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        policy = {
            "maxAttempts": ATTEMPTS,
            "initialBackoff": f"{FIRST_PAUSE_S}s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": list(_RETRIED_GRPC),
        }
        config = {"methodConfig": [{"name": [{}], "waitForReady": True, "retryPolicy": policy}]}
        options = [
            ("grpc.service_config", json.dumps(config)),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        self._channel = grpc.insecure_channel(target, options=options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model, self._version, self._timeout_s = model, version, timeout_s
        self._dtypes: dict[tuple[str, str], np.dtype] = {}

    def predict(
        self, inputs: Mapping[str, Any], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Send a request; see `_Client.predict`."""
        known = self._dtypes
        try:
            return self._predict(inputs, signature)
        except RequestFailed as error:
            if error.code != "INVALID_ARGUMENT" or not known:
                raise
            # The server may have changed to a version that takes other dtypes.
            self._dtypes = self._input_dtypes()
            if self._dtypes == known:
                raise
        return self._predict(inputs, signature)

    def _predict(self, inputs: Mapping[str, Any], signature: str) -> dict[str, np.ndarray]:
        import tensorflow as tf
        from tensorflow_serving.apis.predict_pb2 import PredictRequest

        request = PredictRequest()
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            if _is_bytes(value):
                tensor = tf.make_tensor_proto(value, tf.string)
            else:
                tensor = tf.make_tensor_proto(self._cast(value, signature, name))
            request.inputs[name].CopyFrom(tensor)
        outputs = self._send(self._stub.Predict, request).outputs
        return {name: _text(tf.make_ndarray(value)) for name, value in outputs.items()}

    def _send(self, call: Callable[..., Any], request: Any) -> Any:
        """Send a request of any kind for the model."""
        import grpc

        request.model_spec.name = self._model
        if self._version is not None:
            request.model_spec.version.value = self._version
        try:
            return call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise RequestFailed(error.code().name, error.details() or "") from error

    def _cast(self, value: Any, signature: str, name: str) -> np.ndarray:
        """Convert numbers to the dtype that an input had when the server was last asked for it."""
        if not self._dtypes:
            self._dtypes = self._input_dtypes()
        dtype = self._dtypes.get((signature, name))
        # The server says what it has in the place of another signature or input.
        if dtype is None or dtype.kind == "O":
            return np.asarray(value)
        try:
            return cast_numbers(value, dtype)
        except ValueError as error:
            message = f"`{name}` must be {dtype}. Received: {error}"
            raise RequestFailed("INVALID_ARGUMENT", message) from error

    def _input_dtypes(self) -> dict[tuple[str, str], np.dtype]:
        """Return the dtypes of all inputs, by their signature and name; object for strings."""
        import tensorflow as tf
        from tensorflow_serving.apis.get_model_metadata_pb2 import (
            GetModelMetadataRequest,
            SignatureDefMap,
        )

        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        response = self._send(self._stub.GetModelMetadata, request)
        found = SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return {
            (signature, name): np.dtype(tf.dtypes.as_dtype(info.dtype).as_numpy_dtype)
            for signature, definition in found.signature_def.items()
            for name, info in definition.inputs.items()
        }

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class RestClient(_Client):
    """Client over REST, which sends image files as base64.

    The name of a signature's one output takes a second request.

    Args:
        url: `http://HOST:PORT`.
        model: Name of the served model.
        version: Number of the version; the server's latest by default.
        timeout_s: Seconds that an attempt may wait for the connection, and then for each part of
            the answer.
    """

    def __init__(
        self, url: str, model: str, version: int | None = None, timeout_s: float = 10.0
    ) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        retry = Retry(
            total=ATTEMPTS - 1,
            backoff_factor=FIRST_PAUSE_S,
            status_forcelist=_RETRIED_HTTP,
            # Predictions change nothing on the server, so that they may be asked for twice.
            allowed_methods=None,
            raise_on_status=False,
        )
        self._session = requests.Session()
        adapter = HTTPAdapter(max_retries=retry, pool_maxsize=64)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        suffix = "" if version is None else f"/versions/{version}"
        self._url = f"{url.rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}{suffix}"
        self._timeout_s = timeout_s

    def predict(
        self, inputs: Mapping[str, Any], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Send a request; see `_Client.predict`."""
        body = {
            "signature_name": signature,
            "inputs": {name: _to_json(value) for name, value in inputs.items()},
        }
        outputs = self._request("POST", ":predict", json=body)["outputs"]
        if not isinstance(outputs, dict):
            # A single output comes without its name.
            outputs = {self._output_name(signature): outputs}
        return {name: np.asarray(value) for name, value in outputs.items()}

    def _request(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        import requests

        try:
            response = self._session.request(
                method, self._url + path, timeout=self._timeout_s, **content
            )
        except requests.RequestException as error:
            raise RequestFailed(None, str(error)) from error
        try:
            answer = response.json()
        except ValueError as error:
            raise RequestFailed(response.status_code, response.text[:200]) from error
        if response.status_code != 200:
            raise RequestFailed(response.status_code, answer.get("error", response.reason))
        return answer

    def _output_name(self, signature: str) -> str:
        """Return the name of the one output of a signature.

        It is asked for each time: the server may have changed to a version that gives another.
        """
        metadata = self._request("GET", "/metadata")["metadata"]
        (name,) = metadata["signature_def"]["signature_def"][signature]["outputs"]
        return name

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _is_bytes(value: Any) -> bool:
    """Return whether an input is of bytes; so is a sequence of nothing."""
    if isinstance(value, list | tuple):
        return all(map(_is_bytes, value))
    return isinstance(value, bytes)


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    array = np.asarray(value)
    if array.ndim > 1 and not array.size:
        raise RequestFailed(
            None, f"JSON does not hold the shape {array.shape}: send an empty batch over gRPC"
        )
    listed = array.tolist()
    # An array of bytes lists them as they are, and anything that is no array gives itself.
    return listed if array.dtype.kind not in "OS" or listed is value else _to_json(listed)


def _text(array: np.ndarray) -> np.ndarray:
    if array.dtype != object:
        return array
    texts = [each.decode(errors="replace") for each in array.flat]
    return np.array(texts, dtype=str).reshape(array.shape)


def connect(
    target: str, model: str, version: int | None = None, timeout_s: float = 10.0
) -> GrpcClient | RestClient:
    """Make the client for an address: REST for `http://…` and `https://…`, gRPC for `HOST:PORT`."""
    kind = RestClient if target.startswith(("http://", "https://")) else GrpcClient
    return kind(target, model, version, timeout_s)


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `connect` takes, and the images."""
    parser.add_argument(
        "target", metavar="TARGET", help="HOST:PORT for gRPC, http://HOST:PORT for REST"
    )
    parser.add_argument("model", metavar="NAME", help="name of the served model")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image file")
    parser.add_argument("--version", type=int, help="version (default: the server's latest)")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds (default: 10)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Classify image files.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, 1 where an image could not be read, 2 where the server did not answer.
    """
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.client",
        description="Print what a server says of image files, one line of JSON each.",
        allow_abbrev=False,
    )
    add_client_arguments(parser)
    options = parser.parse_args(argv)
    client = connect(options.target, options.model, options.version, options.timeout)
    try:
        answers = client.classify([image.read_bytes() for image in options.images])
    except (OSError, RequestFailed) as error:
        print(f"savedmodels.client: {error}", file=sys.stderr)
        return 2
    for image, answer in zip(options.images, answers, strict=True):
        print(json.dumps({"image": str(image), **answer}, ensure_ascii=False))
    return 1 if any("error" in answer for answer in answers) else 0


if __name__ == "__main__":
    sys.exit(main())
