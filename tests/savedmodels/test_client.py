"""Clients, load generator and stand-in server, each against the others, over real sockets."""

import base64
import http.client
import json
import os
import resource
import threading
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
import yaml
from google.protobuf import message_factory, text_format, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from keras_preact.serving.signatures import CHUNK
from savedmodels.c_api import ServingError
from savedmodels.client import GrpcClient, RequestFailed, RestClient, connect
from savedmodels.client import main as client_main
from savedmodels.load import main as load_main
from savedmodels.load import run_load
from savedmodels.server import LocalServer
from tests.savedmodels.files import encoded

OF_FILES = {"signature_name": "classify"}
CONFIGURATION = Path(__file__).parents[2] / "savedmodels" / "serving"
UNKNOWN = "not a JPEG, PNG, GIF, BMP or WebP file"


@pytest.fixture(scope="module")
def server(exported):
    with LocalServer(exported.parent) as server:
        yield server


def targets(server):
    return {"grpc": f"127.0.0.1:{server.port}", "rest": f"http://127.0.0.1:{server.rest_port}"}


@pytest.fixture(params=["grpc", "rest"])
def target(server, request):
    return targets(server)[request.param]


@pytest.fixture
def client(target):
    client = connect(target, "net", timeout_s=60)
    yield client
    client.close()


@pytest.mark.parametrize("signature", ["serving_bytes", "classify", "features"])
def test_answers_are_the_models(server, client, photo, picture, signature):
    files = [photo, encoded(picture, "PNG"), b"no image"]
    answer = client.predict({"image_bytes": files}, signature)
    wanted = server.model.run({"image_bytes": files}, signature)
    assert answer.keys() == wanted.keys()
    for name, array in wanted.items():
        if array.dtype == object:
            assert answer[name].tolist() == [
                [each.decode() for each in row] if isinstance(row, np.ndarray) else row.decode()
                for row in array
            ]
        else:
            np.testing.assert_allclose(answer[name], array, atol=1e-6)


def test_images_as_numbers(server, client):
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    answer = client.predict({"images": images})
    np.testing.assert_allclose(
        answer["probabilities"], server.model.run({"images": images})["probabilities"], atol=1e-6
    )


def test_no_images(client):
    assert client.classify([]) == []


def test_a_name_may_have_any_characters(server, target, monkeypatch):
    monkeypatch.setattr(server, "name", "my pets: 50% größer?")
    client = connect(target, "my pets: 50% größer?", version=1)
    assert client.classify([b""]) == [{"error": UNKNOWN}]
    client.close()


def test_one_version(server, target):
    client = connect(target, "net", version=1)
    for files in ([b""], (b"",), np.array([b""], object), np.array([b"text"])):
        assert client.predict({"image_bytes": files}, "classify")["errors"].tolist() == [UNKNOWN]
    with pytest.raises(RequestFailed, match="NOT_FOUND|404"):
        connect(target, "net", version=2).classify([b""])


@pytest.mark.parametrize(
    ("model", "signature", "inputs", "message"),
    [
        ("another", "classify", {"image_bytes": [b""]}, "Servable not found.*another"),
        ("net", "score", {"image_bytes": [b""]}, "no signature 'score'"),
        ("net", "classify", {"images": [b""]}, "takes .*image_bytes"),
        ("net", "serving_default", {"images": np.zeros((1, 2, 2, 3))}, r"\(None, 32, 32, 3\)"),
    ],
)
def test_requests_that_do_not_fit(target, model, signature, inputs, message):
    with pytest.raises(RequestFailed, match=message):
        connect(target, model).predict(inputs, signature)


def test_a_server_that_is_busy_is_asked_again(server, client, photo, monkeypatch):
    run, refusals = server.model.run, [14, 14]

    def busy(*arguments):
        if refusals:
            raise ServingError(refusals.pop(), "no room")
        return run(*arguments)

    monkeypatch.setattr(server.model, "run", busy)
    (answer,) = client.classify([photo])
    assert len(answer["classes"]) == 5 and not refusals


def test_a_request_that_is_wrong_is_not_sent_again(server, client, photo, monkeypatch):
    calls = []

    def refuse(*arguments):
        calls.append(arguments)
        raise ServingError(3, "wrong")

    monkeypatch.setattr(server.model, "run", refuse)
    with pytest.raises(RequestFailed, match="wrong"):
        client.classify([photo])
    assert len(calls) == 1


@pytest.mark.parametrize(("kind", "code"), [(GrpcClient, "DEADLINE_EXCEEDED"), (RestClient, None)])
def test_a_server_that_does_not_answer(server, photo, monkeypatch, kind, code):
    done = threading.Event()
    monkeypatch.setattr(server.model, "run", lambda *_: done.wait(20) and {})
    target = targets(server)["grpc" if kind is GrpcClient else "rest"]
    monkeypatch.setattr("savedmodels.client.ATTEMPTS", 2)
    with pytest.raises(RequestFailed) as error:
        kind(target, "net", timeout_s=0.3).classify([photo])
    done.set()
    assert error.value.code == code


@pytest.mark.parametrize("target", ["127.0.0.1:9", "http://127.0.0.1:9"])
def test_no_server(target, photo, monkeypatch):
    monkeypatch.setattr("savedmodels.client.ATTEMPTS", 2)
    with pytest.raises(RequestFailed):
        connect(target, "net", timeout_s=0.5).classify([photo])


# As TensorFlow Serving's REST interface documents it, without our client.


def post(server, body, verb="predict"):
    url = f"{targets(server)['rest']}/v1/models/net:{verb}"
    return requests.post(
        url, data=body if isinstance(body, bytes) else json.dumps(body), timeout=60
    )


def test_rows_and_columns(server, photo):
    value = {"b64": base64.b64encode(photo).decode()}
    answers = [
        post(server, {"signature_name": "classify", **body}).json()
        for body in (
            {"instances": [value, value]},
            {"instances": [{"image_bytes": value}, {"image_bytes": value}]},
            {"inputs": [value, value]},
            {"inputs": {"image_bytes": [value, value]}},
        )
    ]
    assert answers[0] == answers[1] and answers[2] == answers[3]
    assert [row["classes"] for row in answers[0]["predictions"]] == answers[2]["outputs"]["classes"]
    single = post(server, {"instances": np.zeros((1, 32, 32, 3)).tolist()}).json()
    assert np.shape(single["predictions"]) == (1, 7)


@pytest.mark.parametrize(
    ("body", "verb", "code"),
    [
        (b"{", "predict", 400),
        ({}, "predict", 400),
        ({"signature_name": "classify", "inputs": [{"b64": "%"}]}, "predict", 400),
        ({"instances": [1]}, "predict", 400),
        ({"instances": [1]}, "regress", 404),
        ([1], "predict", 400),
        (b"[" * 10**5, "predict", 400),
        ({"instances": 5}, "predict", 400),
        ({**OF_FILES, "instances": {"b64": ""}}, "predict", 400),
        ({**OF_FILES, "instances": [{"image_bytes": {"b64": ""}}, {}]}, "predict", 400),
        ({**OF_FILES, "instances": [{"image_bytes": {"b64": ""}}, 1]}, "predict", 400),
        ({**OF_FILES, "inputs": [{"b64": 5}]}, "predict", 400),
        ({**OF_FILES, "inputs": [{"b64": "", "more": ""}]}, "predict", 400),
        ({**OF_FILES, "inputs": {"images": [1]}}, "predict", 400),
        ({"signature_name": {}, "instances": [1]}, "predict", 400),
        ({"signature_name": "score", "instances": [{"image_bytes": 1}]}, "predict", 404),
        ({"inputs": [[1], [1, 2]]}, "predict", 400),
        ({"inputs": [10**400]}, "predict", 400),
        ({"inputs": None}, "predict", 400),
    ],
)
def test_malformed_requests(server, body, verb, code):
    answer = post(server, body, verb)
    assert answer.status_code == code and answer.json()["error"]


def test_a_request_without_its_length_is_the_last_of_its_connection(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    connection.putrequest("POST", "/v1/models/net:predict")
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 400 and answer.headers["Connection"] == "close"
    assert "'Content-Length' must be a number" in json.loads(answer.read())["error"]
    connection.close()


def test_an_error_of_the_server_is_an_answer(server, monkeypatch):
    monkeypatch.setattr(server.model, "run", lambda *_: {}["lost"])
    answer = post(server, {**OF_FILES, "inputs": []})
    assert answer.status_code == 500 and answer.json()["error"] == "KeyError: 'lost'"


def test_outputs_that_a_request_over_grpc_asks_for(server):
    request = PredictRequest(output_filter=["errors"])
    request.model_spec.name, request.model_spec.signature_name = "net", "classify"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([b"no image"]))
    with grpc.insecure_channel(targets(server)["grpc"]) as channel:
        stub = PredictionServiceStub(channel)
        assert [*stub.Predict(request, timeout=60).outputs] == ["errors"]
        request.output_filter.append("probabilities")
        with pytest.raises(grpc.RpcError, match="no output 'probabilities'; there are") as error:
            stub.Predict(request, timeout=60)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        request.inputs["image_bytes"].dtype = 0
        with pytest.raises(grpc.RpcError, match="`image_bytes` is no tensor") as error:
            stub.Predict(request, timeout=60)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    """Return a server that adds two numbers, of 8 bits or of fractions."""
    folder = tmp_path_factory.mktemp("models") / "sums" / "1"

    def add(dtype):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), dtype, "numbers")])
        def added(numbers):
            return {"sum": tf.reduce_sum(tf.cast(numbers, "float64"), axis=1)}

        return added

    signatures = {dtype: add(dtype) for dtype in ("uint8", "float32")}
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
    with LocalServer(folder) as server:
        yield server


ADDED = [
    ("uint8", np.array([[1, 254]], "uint8"), [255]),
    ("uint8", np.array([[1, 254]]), [255]),
    ("float32", np.array([[1, 300]]), [301]),
    ("float32", np.array([[0.1, 2]]), [np.float32(0.1).astype("float64") + 2]),
    ("float32", np.array([[0.5, 2]], "float16"), [2.5]),
]
NOT_ADDED = [
    ("uint8", np.array([[1, 300]]), "`numbers` must be uint8. Received: 300"),
    ("uint8", np.array([[-1, 1]]), "`numbers` must be uint8. Received: -1"),
    ("uint8", np.array([[1.0, 2.0]]), "`numbers` must be uint8. Received: .*float64"),
    ("uint8", np.array([[True, False]]), "`numbers` must be uint8. Received: .*bool"),
    ("float32", np.array([[1e39, 0]]), r"`numbers` must be float32. Received: 1e\+39"),
    ("float32", np.array([[True, False]]), "`numbers` must be float32. Received: .*bool"),
    ("float32", np.array([["1", "2"]]), "`numbers` must be float32. Received: "),
]


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_numbers_of_another_dtype_are_the_same_or_refused(sums, kind):
    client = connect(targets(sums)[kind], "sums", timeout_s=60)
    for signature, numbers, wanted in ADDED:
        answer = client.predict({"numbers": numbers}, signature)
        assert answer["sum"].tolist() == wanted
    for signature, numbers, message in NOT_ADDED:
        with pytest.raises(RequestFailed, match=f"^(400|INVALID_ARGUMENT): {message}"):
            client.predict({"numbers": numbers}, signature)
    client.close()


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_client_follows_the_server_to_another_version(sums, kind, monkeypatch):
    client = connect(targets(sums)[kind], "sums", timeout_s=60)
    numbers = {"numbers": np.array([[1.0, 2.0]], "float32")}
    assert client.predict(numbers, "float32")["sum"].tolist() == [3]
    first = sums.model
    with_total = SignatureDef(inputs=first.signatures["uint8"].inputs)
    with_total.outputs["total"].CopyFrom(first.signatures["uint8"].outputs["sum"])
    second = SimpleNamespace(
        signatures={"float32": with_total},
        run=lambda inputs, name: {"total": first.run(inputs, "uint8")["sum"]},
    )
    monkeypatch.setattr(sums, "model", second)
    numbers = {"numbers": np.array([[1, 2]])}
    assert client.predict(numbers, "float32")["total"].tolist() == [3]
    client.close()


def test_no_numbers(sums):
    none = {"numbers": np.zeros((0, 2), "float32")}
    over_grpc, over_rest = (connect(target, "sums") for target in targets(sums).values())
    assert over_grpc.predict(none, "float32")["sum"].tolist() == []
    with pytest.raises(RequestFailed, match=r"not hold the shape \(0, 2\): send .* over gRPC"):
        over_rest.predict(none, "float32")


def test_status(server):
    url = f"{targets(server)['rest']}/v1/models/net"
    (status,) = requests.get(url, timeout=60).json()["model_version_status"]
    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    assert requests.get(f"{url}s", timeout=60).status_code == 404


# The commands.


def test_classifying_files(server, target, tmp_path, photo, capsys):
    (tmp_path / "photo.jpg").write_bytes(photo)
    (tmp_path / "text").write_text("text")
    arguments = [target, "net", str(tmp_path / "photo.jpg"), str(tmp_path / "text")]
    assert client_main(arguments) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    (wanted,) = connect(target, "net").classify([photo])
    assert first == {"image": str(tmp_path / "photo.jpg"), **wanted}
    assert second["error"] == UNKNOWN
    assert client_main([target, "net", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err


def test_load(target, tmp_path, picture, capsys):
    (tmp_path / "picture.png").write_bytes(encoded(picture, "PNG"))
    arguments = [
        target,
        "net",
        str(tmp_path / "picture.png"),
        "--warm-up",
        "2",
        "--concurrency",
        "4",
    ]
    # The server runs in this process.
    arguments += ["--server-process", str(os.getpid())]
    assert load_main([*arguments, "--requests", "40"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["answered"] == 40 and report["failed"] == {}
    memory = report["server_memory_mb"]
    assert 0 < max(memory["before"], memory["after"]) <= memory["highest"]
    assert 0 < report["p50_ms"] <= report["p90_ms"] <= report["p99_ms"] <= report["max_ms"]
    assert report["requests_per_s"] == pytest.approx(40 / report["seconds"], rel=0.01)


def test_load_counts_failures(target, tmp_path, capsys):
    (tmp_path / "text").write_text("text")
    assert load_main([target, "net", str(tmp_path / "text"), "--requests", "3"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["answered"] == 0 and report["failed"] == {UNKNOWN: 3}


def test_memory_of_no_process(server, tmp_path, capsys):
    (tmp_path / "text").write_text("text")
    arguments = [targets(server)["grpc"], "net", str(tmp_path / "text"), "--warm-up", "0"]
    # Linux gives numbers up to 2**22.
    assert load_main([*arguments, "--server-process", "9999999"]) == 1
    assert "savedmodels.load: no memory of 9999999" in capsys.readouterr().err


@pytest.mark.slow
def test_ten_thousand_requests(server, picture):
    """Eight in flight: none lost, and memory as after the first thousand."""
    files = [encoded(picture, "JPEG"), b"no image", encoded(picture, "PNG")]
    client = GrpcClient(targets(server)["grpc"], "net", timeout_s=120)
    seen = []
    for _ in range(10):
        answers = []

        class Kept:
            def classify(self, files, answers=answers):
                answer = client.classify(files)
                answers.append([each.get("error") for each in answer])
                return [answer[0], answer[2]]

        load = run_load(Kept(), files, 1000, 8)
        assert len(load.latencies_s) == 1000 and not load.failures
        assert answers == [[None, UNKNOWN, None]] * 1000
        seen.append(_resident_bytes())
    assert max(seen[1:]) - seen[0] < 50 * 2**20, seen


def _resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


# The configuration.


def test_models_are_read_by_the_servers_own_definition():
    text = (CONFIGURATION / "models.config").read_text()
    config = text_format.Parse(text, ModelServerConfig()).model_config_list.config
    assert [(each.name, each.base_path) for each in config] == [("digits", "/models/digits")]


# Of tensorflow_serving/servables/tensorflow/session_bundle_config.proto, which its package lacks.
BATCHING_PARAMETERS = {
    "max_batch_size": ".google.protobuf.Int64Value",
    "batch_timeout_micros": ".google.protobuf.Int64Value",
    "max_enqueued_batches": ".google.protobuf.Int64Value",
    "num_batch_threads": ".google.protobuf.Int64Value",
    "pad_variable_length_inputs": None,
    "enable_large_batch_splitting": ".google.protobuf.BoolValue",
    "max_execution_batch_size": ".google.protobuf.Int64Value",
}


def test_batching_splits_what_the_queue_holds():
    file = FileDescriptorProto(name="batching.proto", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    wrappers = FileDescriptorProto.FromString(wrappers_pb2.DESCRIPTOR.serialized_pb)
    message = file.message_type.add(name="BatchingParameters")
    for number, (name, kind) in enumerate(BATCHING_PARAMETERS.items(), 1):
        typed = {"type_name": kind} if kind else {"type": FieldDescriptorProto.TYPE_BOOL}
        message.field.add(name=name, number=number, **typed)
    parameters = message_factory.GetMessages([wrappers, file])["BatchingParameters"]
    config = text_format.Parse((CONFIGURATION / "batching.config").read_text(), parameters())
    part = config.max_execution_batch_size.value
    assert config.enable_large_batch_splitting.value and part == CHUNK
    assert part < config.max_batch_size.value <= part * config.max_enqueued_batches.value
    assert not config.pad_variable_length_inputs


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_every_file_named_is_there(name):
    documents = [*yaml.safe_load_all((CONFIGURATION / name).read_text())]
    if name == "compose.yaml":
        arguments = documents[0]["services"]["serving"]["command"]
    else:
        (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
        arguments = container["args"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"] for volume in documents[0]["spec"]["template"]["spec"]["volumes"]}
        assert mounts == volumes
    files = [each.partition("=/config/")[2] for each in arguments if "=/config/" in each]
    assert files == ["models.config", "batching.config", "monitoring.config"]
    assert all((CONFIGURATION / file).exists() for file in files)
