"""A SavedModel run by TensorFlow's C API, the loader that TensorFlow Serving calls.

Nothing of the model's Python code takes part, nor does Keras: the graph is read by
`TF_LoadSessionFromSavedModel` from the library that the TensorFlow wheel ships, and run by
`TF_SessionRun`. Of Python's TensorFlow only the protocol buffers are used.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef, TensorInfo

from savedmodels.casts import cast_numbers
from savedmodels.paths import literal

_TAG = b"serve"
_STRING = tf.string.as_datatype_enum
_STRING_BYTES = 24  # of a TF_TString


class ServingError(RuntimeError):
    """Error of TensorFlow: a model cannot be loaded, or a request cannot be answered.

    Attributes:
        code: Status code, as in gRPC: 3 for an invalid argument, and so on.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load TensorFlow's C API and declare the functions that are used."""
    folder = Path(tf.sysconfig.get_lib())
    ctypes.CDLL(str(_newest(folder, "libtensorflow_framework.*")), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(_newest(folder, "libtensorflow_cc.*")), mode=ctypes.RTLD_GLOBAL)
    pointer, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    declarations: dict[str, tuple[Any, list[Any]]] = {
        "TF_NewStatus": (pointer, []),
        "TF_DeleteStatus": (None, [pointer]),
        "TF_GetCode": (integer, [pointer]),
        "TF_Message": (ctypes.c_char_p, [pointer]),
        "TF_NewSessionOptions": (pointer, []),
        "TF_DeleteSessionOptions": (None, [pointer]),
        "TF_SetConfig": (None, [pointer, ctypes.c_char_p, size, pointer]),
        "TF_NewGraph": (pointer, []),
        "TF_DeleteGraph": (None, [pointer]),
        "TF_NewBuffer": (pointer, []),
        "TF_DeleteBuffer": (None, [pointer]),
        "TF_LoadSessionFromSavedModel": (
            pointer,
            [
                pointer,
                pointer,
                ctypes.c_char_p,
                ctypes.POINTER(ctypes.c_char_p),
                integer,
                pointer,
                pointer,
                pointer,
            ],
        ),
        "TF_CloseSession": (None, [pointer, pointer]),
        "TF_DeleteSession": (None, [pointer, pointer]),
        "TF_GraphOperationByName": (pointer, [pointer, ctypes.c_char_p]),
        "TF_SessionRun": (
            None,
            [
                pointer,
                pointer,
                ctypes.POINTER(_Output),
                ctypes.POINTER(pointer),
                integer,
                ctypes.POINTER(_Output),
                ctypes.POINTER(pointer),
                integer,
                pointer,
                integer,
                pointer,
                pointer,
            ],
        ),
        "TF_AllocateTensor": (pointer, [integer, ctypes.POINTER(ctypes.c_int64), integer, size]),
        "TF_DeleteTensor": (None, [pointer]),
        "TF_TensorType": (integer, [pointer]),
        "TF_NumDims": (integer, [pointer]),
        "TF_Dim": (ctypes.c_int64, [pointer, integer]),
        "TF_TensorData": (pointer, [pointer]),
        "TF_TensorByteSize": (size, [pointer]),
        "TF_StringInit": (None, [pointer]),
        "TF_StringCopy": (None, [pointer, ctypes.c_char_p, size]),
        "TF_StringGetDataPointer": (pointer, [pointer]),
        "TF_StringGetSize": (size, [pointer]),
        "TF_StringDealloc": (None, [pointer]),
    }
    for name, (result, arguments) in declarations.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _newest(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise ServingError(5, f"this installation of TensorFlow has no {pattern} in {folder}")
    return found[-1]


def _checked(call: Callable[[int], Any]) -> Any:
    """Make a call that reports to a status, and raise what it reports."""
    library = load_library()
    status = library.TF_NewStatus()
    try:
        result = call(status)
        if code := library.TF_GetCode(status):
            raise ServingError(code, library.TF_Message(status).decode(errors="replace"))
        return result
    finally:
        library.TF_DeleteStatus(status)


class ServedModel:
    """A SavedModel in a session of its own. Several threads may run it at a time.

    In a `with` statement it is closed at its end.

    Args:
        folder: `NAME/VERSION/`.
        config: Settings of the session, such as its numbers of threads.

    Attributes:
        signatures: Inputs and outputs of each signature, by name, as in the SavedModel.

    Raises:
        ServingError: If TensorFlow cannot load it.
    """

    def __init__(self, folder: Path, config: ConfigProto | None = None) -> None:
        self._graph = load_library().TF_NewGraph()
        try:
            self._session, definition = _load(self._graph, folder, config or ConfigProto())
        except BaseException:
            load_library().TF_DeleteGraph(self._graph)
            raise
        self.signatures = {
            # A message in another keeps all of that in memory, here the graph with its constants.
            name: SignatureDef.FromString(signature.SerializeToString())
            for name, signature in definition.signature_def.items()
            if not name.startswith("__")
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self, inputs: Mapping[str, Any], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Answer a request.

        Args:
            inputs: By the names of the signature's inputs arrays of their dtype, lists of bytes,
                or lists of numbers that the dtype holds.
            signature: Name of the signature.

        Returns:
            Arrays by the names of the signature's outputs; strings as arrays of bytes objects.

        Raises:
            ServingError: If there is no such signature, its inputs are others, or TensorFlow fails.
        """
        if signature not in self.signatures:
            raise ServingError(
                5, f"no signature {signature!r}; there are {sorted(self.signatures)}"
            )
        definition = self.signatures[signature]
        if set(inputs) != set(definition.inputs):
            raise ServingError(
                3, f"{signature!r} takes {sorted(definition.inputs)}. Received: {sorted(inputs)}"
            )
        names = sorted(definition.outputs)
        outputs = [self._output(definition.outputs[name]) for name in names]
        feeds = [self._output(definition.inputs[name]) for name in inputs]
        tensors = []
        try:
            for name, value in inputs.items():
                tensors.append(_to_tensor(value, definition.inputs[name], name))
            return dict(zip(names, self._run(feeds, tensors, outputs), strict=True))
        finally:
            for tensor in tensors:
                _delete(tensor)

    def _run(
        self, feeds: list[_Output], tensors: list[int], outputs: list[_Output]
    ) -> Iterable[np.ndarray]:
        library = load_library()
        results = (ctypes.c_void_p * len(outputs))()
        _checked(
            lambda status: library.TF_SessionRun(
                self._session,
                None,
                (_Output * len(feeds))(*feeds),
                (ctypes.c_void_p * len(tensors))(*tensors),
                len(feeds),
                (_Output * len(outputs))(*outputs),
                results,
                len(outputs),
                None,
                0,
                None,
                status,
            )
        )
        try:
            return [_to_array(tensor) for tensor in results]
        finally:
            for tensor in results:
                library.TF_DeleteTensor(tensor)

    def _output(self, info: TensorInfo) -> _Output:
        operation, _, index = info.name.partition(":")
        found = load_library().TF_GraphOperationByName(self._graph, operation.encode())
        return _Output(found, int(index or 0))

    def close(self) -> None:
        """Give the session's memory back."""
        library = load_library()
        _checked(lambda status: library.TF_CloseSession(self._session, status))
        _checked(lambda status: library.TF_DeleteSession(self._session, status))
        library.TF_DeleteGraph(self._graph)


def _load(graph: int, folder: Path, config: ConfigProto) -> tuple[int, MetaGraphDef]:
    """Load a SavedModel into a graph, and return its session and its definition."""
    library = load_library()
    options, buffer = library.TF_NewSessionOptions(), library.TF_NewBuffer()
    try:
        settings = config.SerializeToString()
        _checked(lambda status: library.TF_SetConfig(options, settings, len(settings), status))
        tags = (ctypes.c_char_p * 1)(_TAG)
        with literal(folder) as path:
            session = _checked(
                lambda status: library.TF_LoadSessionFromSavedModel(
                    options, None, str(path).encode(), tags, 1, graph, buffer, status
                )
            )
        content = _Buffer.from_address(buffer)
        return session, MetaGraphDef.FromString(ctypes.string_at(content.data, content.length))
    finally:
        library.TF_DeleteSessionOptions(options)
        library.TF_DeleteBuffer(buffer)


def _to_tensor(value: Any, info: TensorInfo, name: str) -> int:
    """Make a tensor owned by C, with the dtype and shape of a signature's input."""
    library = load_library()
    is_string = info.dtype == _STRING
    array = _array(value, tf.dtypes.as_dtype(info.dtype), name)
    expected = tf.TensorShape(info.tensor_shape)
    if not expected.is_compatible_with(array.shape):
        raise ServingError(3, f"`{name}` must have the shape {expected}. Received: {array.shape}")
    if is_string and not all(isinstance(each, bytes) for each in array.flat):
        raise ServingError(3, f"`{name}` must be bytes. Received: {type(array.flat[0]).__name__}")
    size = array.size * _STRING_BYTES if is_string else array.nbytes
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    tensor = library.TF_AllocateTensor(info.dtype, shape, array.ndim, size)
    data = library.TF_TensorData(tensor)
    if not is_string:
        ctypes.memmove(data, array.ctypes.data, array.nbytes)
        return tensor
    for index, each in enumerate(array.flat):
        place = data + index * _STRING_BYTES
        library.TF_StringInit(place)
        library.TF_StringCopy(place, each, len(each))
    return tensor


def _array(value: Any, dtype: tf.DType, name: str) -> np.ndarray:
    """Return the values of an input in its dtype, strings as an array of objects."""
    try:
        if dtype == tf.string:
            return np.array(value, object)
        wanted = np.dtype(dtype.as_numpy_dtype)
        # TensorFlow Serving converts the numbers of JSON, but no tensors.
        if isinstance(value, np.ndarray) and value.dtype != wanted:
            raise ValueError(f"dtype {value.dtype}")
        return np.require(cast_numbers(value, wanted), requirements="C")
    except ValueError as error:
        raise ServingError(3, f"`{name}` must be {dtype.name}. Received: {error}") from error


def _to_array(tensor: int) -> np.ndarray:
    library = load_library()
    shape = [library.TF_Dim(tensor, axis) for axis in range(library.TF_NumDims(tensor))]
    dtype = tf.dtypes.as_dtype(library.TF_TensorType(tensor))
    data = library.TF_TensorData(tensor)
    if dtype != tf.string:
        content = ctypes.string_at(data, library.TF_TensorByteSize(tensor))
        return np.frombuffer(content, dtype.as_numpy_dtype).reshape(shape)
    places = [data + index * _STRING_BYTES for index in range(int(np.prod(shape)))]
    strings = np.empty(len(places), object)
    strings[:] = [
        ctypes.string_at(library.TF_StringGetDataPointer(place), library.TF_StringGetSize(place))
        for place in places
    ]
    return strings.reshape(shape)


def _delete(tensor: int) -> None:
    library = load_library()
    if library.TF_TensorType(tensor) == _STRING:
        # Longer strings lie elsewhere; whoever copied one must free it.
        data = library.TF_TensorData(tensor)
        for index in range(library.TF_TensorByteSize(tensor) // _STRING_BYTES):
            library.TF_StringDealloc(data + index * _STRING_BYTES)
    library.TF_DeleteTensor(tensor)
