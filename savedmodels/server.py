"""A small stand-in for TensorFlow Serving, for machines that cannot install it.

Example: `python -m savedmodels.server savedmodels/digits --port 8500 --rest-port 8501`

The model is loaded by TensorFlow's C API, as TensorFlow Serving loads it (`savedmodels.c_api`), and
answers what a client of it asks most: gRPC `Predict`, `GetModelMetadata` and `GetModelStatus`, REST
`:predict`, `/metadata` and the model's status. It serves one version, does no batching, and is no
server for production.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.server
import json
import re
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from savedmodels.c_api import ServedModel, ServingError
from savedmodels.versions import add_model_argument, version_folder

THREADS = 16
MAX_MESSAGE_BYTES = 2**30
# Seconds that calls over gRPC have to end once the server stops.
GRACE_S = 10.0
_AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
_SIGNATURES = "signature_def"
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+))?(?P<verb>:\w+|/metadata)?"
)
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
# REST has no other words for the rest.
_HTTP_CODES = {3: 400, 5: 404, 8: 429, 14: 503}


class LocalServer:
    """Server of one version of one model over gRPC and REST.

    Args:
        folder: `NAME/VERSION/`, or `NAME/` for its highest version.
        port: Port for gRPC; 0 for any free port.
        rest_port: Port for REST, in the same form.
        host: Address to listen on.

    Raises:
        FileNotFoundError: If there is no SavedModel.
        OSError: If it cannot listen on a port.
        ValueError: If the folder's name is not the number of a version.

    Attributes:
        port: Port for gRPC.
        rest_port: Port for REST.
    """

    def __init__(
        self, folder: Path, port: int = 0, rest_port: int = 0, host: str = "127.0.0.1"
    ) -> None:
        folder = version_folder(folder.absolute())
        if not folder.name.isdecimal():
            raise ValueError(
                "a served model lies in NAME/VERSION/, and a version is a number. "
                f"Received: {folder}"
            )
        self.name, self.version = folder.parent.name, int(folder.name)
        with contextlib.ExitStack() as undone:
            self.model = ServedModel(folder)
            undone.callback(self.model.close)
            self._threads = ThreadPoolExecutor(THREADS)
            undone.callback(self._threads.shutdown)
            self._grpc = self._grpc_server()
            undone.callback(self._grpc.stop, None)
            try:
                self.port = self._grpc.add_insecure_port(f"{host}:{port}")
            except RuntimeError as error:
                raise OSError(_no_port(host, port, "--port")) from error
            handler = type("Handler", (_RestHandler,), {"served": self})
            try:
                self._rest = _RestServer((host, rest_port), handler)
            except OSError as error:
                raise OSError(_no_port(host, rest_port, "--rest-port")) from error
            # It listens: `stop` ends it.
            undone.pop_all()
        self.rest_port = self._rest.server_address[1]

    def _grpc_server(self) -> grpc.Server:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Else two servers share a port, and each gets some of the requests.
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.server(self._threads, options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _Predictions(self), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(self), server)
        return server

    def start(self) -> None:
        """Begin to answer."""
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Finish the requests that are being answered, and take no more."""
        stopped = self._grpc.stop(grace=GRACE_S)
        self._rest.shutdown()
        self._rest.server_close()
        stopped.wait()
        # A call that outlasts the grace is not answered, but its thread is still in the session.
        self._threads.shutdown(cancel_futures=True)
        self.model.close()

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check_name(self, name: str, version: int | None) -> None:
        """Raise unless this model and version are the ones served."""
        if name != self.name or version not in (None, self.version):
            raise ServingError(
                5, f"Servable not found for request: {name}, version {version or 'latest'}"
            )


def _no_port(host: str, port: int, option: str) -> str:
    return (
        f"cannot listen on {host}:{port}, which another process may use: give another {option}, "
        "or 0 for any that is free"
    )


@contextlib.contextmanager
def _told(context: grpc.ServicerContext) -> Iterator[None]:
    """Answer a call over gRPC with the error that is raised."""
    try:
        yield
    except ServingError as error:
        context.abort(_GRPC_CODES[error.code], str(error))


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served: LocalServer) -> None:
        self.served = served

    def Predict(  # noqa: N802, D102 - named by the protocol
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        response = predict_pb2.PredictResponse()
        with _told(context):
            self._answer_for(request.model_spec, response.model_spec)
            name = request.model_spec.signature_name or "serving_default"
            outputs = self.served.model.run(_inputs_of(request), name)
            response.model_spec.signature_name = name
            for key in request.output_filter or outputs:
                if key not in outputs:
                    raise ServingError(3, f"no output {key!r}; there are {sorted(outputs)}")
                # An array of no strings does not say that it is one of strings.
                dtype = tf.string if outputs[key].dtype == object else None
                response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key], dtype))
        return response

    def GetModelMetadata(  # noqa: N802, D102 - named by the protocol
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with _told(context):
            self._answer_for(request.model_spec, response.model_spec)
            if {*request.metadata_field} != {_SIGNATURES}:
                raise ServingError(3, f"`metadata_field` must be {_SIGNATURES!r}, and no other")
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, each in self.served.model.signatures.items():
                signatures.signature_def[name].CopyFrom(each)
            response.metadata[_SIGNATURES].Pack(signatures)
        return response

    def _answer_for(self, asked: model_pb2.ModelSpec, answering: model_pb2.ModelSpec) -> None:
        """Check the model that a request names, and name the one that answers."""
        version = asked.version.value if asked.HasField("version") else None
        self.served.check_name(asked.name, version)
        answering.name = self.served.name
        answering.version.value = self.served.version


def _inputs_of(request: predict_pb2.PredictRequest) -> dict[str, np.ndarray]:
    inputs = {}
    for name, value in request.inputs.items():
        try:
            inputs[name] = tf.make_ndarray(value)
        except (TypeError, ValueError) as error:
            raise ServingError(3, f"`{name}` is no tensor: {error}") from error
    return inputs


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, served: LocalServer) -> None:
        self.served = served

    def GetModelStatus(  # noqa: N802, D102 - named by the protocol
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        with _told(context):
            self.served.check_name(request.model_spec.name, None)
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=self.served.version, state=_AVAILABLE)
        return response


class _RestServer(http.server.ThreadingHTTPServer):
    """Server with a thread for each connection, all of which have ended once it is closed.

    Attributes:
        closing: Whether it takes no more requests.
    """

    daemon_threads = False

    def __init__(self, *arguments: Any) -> None:
        self.closing = False
        self._connections: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Wait until the requests that are being answered are, and close every connection."""
        self.closing = True
        for connection in tuple(self._connections):
            # Its thread may be waiting for another request, and may be ending at this moment.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of an error, but not for a client that no longer waits."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _RestHandler(http.server.BaseHTTPRequestHandler):
    """Handler of TensorFlow Serving's REST interface, for one model."""

    served: LocalServer
    server: _RestServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        self._answer(self._description)

    def do_POST(self) -> None:  # noqa: N802
        self._answer(self._prediction)

    def log_message(self, *_: Any) -> None:
        """Keep silent about each request."""

    def _check_path(self, verb: str) -> None:
        match = _PATH.fullmatch(self.path)
        if not match or (match["verb"] or "") != verb:
            raise ServingError(5, f"Malformed request: {self.command} {self.path}")
        name = urllib.parse.unquote(match["name"])
        self.served.check_name(name, int(match["version"]) if match["version"] else None)

    def _description(self) -> dict[str, Any]:
        metadata = self.path.endswith("/metadata")
        self._check_path("/metadata" if metadata else "")
        return self._metadata() if metadata else {"model_version_status": [self._status()]}

    def _status(self) -> dict[str, Any]:
        return {
            "version": str(self.served.version),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }

    def _metadata(self) -> dict[str, Any]:
        signatures = {
            name: json_format.MessageToDict(each, preserving_proto_field_name=True)
            for name, each in self.served.model.signatures.items()
        }
        spec = {"name": self.served.name, "version": str(self.served.version)}
        return {
            "model_spec": {**spec, "signature_name": ""},
            "metadata": {_SIGNATURES: {"signature_def": signatures}},
        }

    def _prediction(self) -> dict[str, Any]:
        request = _parsed(self._content())
        self._check_path(":predict")
        signature = request.get("signature_name", "serving_default")
        if not isinstance(signature, str):
            raise ServingError(3, f"'signature_name' must be a string. Received: {signature}")
        rows = "instances" in request
        values = request.get("instances" if rows else "inputs")
        if values is None:
            raise ServingError(3, "Missing 'inputs' or 'instances' key")
        outputs = self.served.model.run(self._inputs(values, signature, rows), signature)
        columns = {name: _to_json(name, array) for name, array in outputs.items()}
        single = len(columns) == 1
        if not rows:
            return {"outputs": next(iter(columns.values())) if single else columns}
        if single:
            return {"predictions": next(iter(columns.values()))}
        lines = zip(*columns.values(), strict=True)
        return {"predictions": [dict(zip(columns, line, strict=True)) for line in lines]}

    def _content(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            # Nothing tells where the next request begins.
            self.close_connection = True
            raise ServingError(3, f"'Content-Length' must be a number. Received: {length!r}")
        return self.rfile.read(int(length))

    def _inputs(self, values: Any, signature: str, rows: bool) -> dict[str, Any]:
        definition = self.served.model.signatures.get(signature)
        if definition is None:
            # The model says which there are.
            return {}
        names = list(definition.inputs)
        if rows:
            values = _columns(values, names)
        elif not isinstance(values, dict) or "b64" in values:
            values = {name: values for name in names}
        return {name: _from_json(value) for name, value in values.items()}

    def _answer(self, find: Callable[[], dict[str, Any]]) -> None:
        """Send what a function returns, or the error that it raises."""
        try:
            code, value = 200, find()
        except ServingError as error:
            code, value = _HTTP_CODES.get(error.code, 500), {"error": str(error)}
        # Without an answer, a client would ask again.
        except Exception as error:
            code, value = 500, {"error": f"{type(error).__name__}: {error}"}
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.server.closing or self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        request = json.loads(content)
    except (RecursionError, ValueError) as error:
        raise ServingError(3, f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise ServingError(3, f"A request must be an object. Received: {type(request).__name__}")
    return request


def _columns(rows: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values of each input, by name.

    Args:
        rows: The `instances` of a request: values of the one input, or objects that name every one.
        names: Names of the inputs.
    """
    if not isinstance(rows, list):
        raise ServingError(3, f"'instances' must be a list. Received: {type(rows).__name__}")
    if not any(isinstance(row, dict) and set(row) != {"b64"} for row in rows):
        return {name: rows for name in names}
    for row in rows:
        if not isinstance(row, dict) or set(row) != {*names}:
            received = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise ServingError(
                3, f"each of 'instances' must have {sorted(names)}. Received: {received}"
            )
    return {name: [row[name] for row in rows] for name in names}


def _from_json(value: Any) -> Any:
    """Convert the `{"b64": …}` objects in a JSON value to bytes."""
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (TypeError, ValueError) as error:
            raise ServingError(3, f"Unable to base64 decode: {error}") from error
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    return value.encode() if isinstance(value, str) else value


def _to_json(name: str, array: np.ndarray) -> Any:
    """Convert an array to JSON; strings are text unless the output's name ends in `_bytes`."""
    if array.dtype != object:
        return array.tolist()

    def convert(value: bytes) -> Any:
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(value).decode()}
        return value.decode(errors="replace")

    return np.vectorize(convert, otypes=[object])(array).tolist() if array.size else array.tolist()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 2 where the model cannot be loaded.
    """
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.server",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    add_model_argument(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8500, help="for gRPC (default: 8500)")
    parser.add_argument("--rest-port", type=int, default=8501, help="for REST (default: 8501)")
    options = parser.parse_args(argv)
    try:
        server = LocalServer(options.model, options.port, options.rest_port, options.host)
    except (OSError, ServingError, ValueError) as error:
        print(f"savedmodels.server: {error}", file=sys.stderr)
        return 2
    with server:
        print(f"{server.name}: gRPC on {server.port}, REST on {server.rest_port}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
