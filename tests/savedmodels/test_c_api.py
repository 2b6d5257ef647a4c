"""An export in TensorFlow's C API, which is what TensorFlow Serving loads models with.

Every signature gives what the Keras model gives, and every kind of file has its answer.
"""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import keras_preact
from keras_preact.serving.export import export_savedmodel
from savedmodels.c_api import ServedModel, ServingError, load_library
from savedmodels.check import WARM_UP, main, warm_up_requests
from tests.savedmodels.files import CLASS_NAMES, PREPROCESSING, claiming, encoded, exif, pixels

OF_IMAGES = {"serving_default", "single_pass"}
SIGNATURES = {*OF_IMAGES, "serving_bytes", "classify", "features"}
DAMAGED, UNKNOWN = b"the image is damaged", b"not a JPEG, PNG, GIF, BMP or WebP file"
ZEROS = np.zeros((1, 8, 8, 3), "float32")
TOO_LARGE = b"the image has more than 10000000 pixels"


@pytest.fixture(scope="module")
def served(exported):
    model = ServedModel(exported)
    yield model
    model.close()


@pytest.fixture(scope="module")
def everything(net):
    """Return the Keras model with its features, from normalized images."""
    outputs = {
        "probabilities": net.output,
        "embedding": net.get_layer("head_pool").output,
        **keras_preact.feature_extractor(net).output,
    }
    return keras.Model(net.input, outputs)


def expected(everything, files):
    return everything.predict(PREPROCESSING.normalize(pixels(files)), verbose=0)


def test_every_signature_without_keras(without_keras, everything):
    """In a process that cannot import Keras or this package."""
    received = {
        name: np.load(without_keras.folder / f"{name}.npz", allow_pickle=True)
        for name in SIGNATURES
    }
    wanted = expected(everything, without_keras.files[:2])
    close = {"rtol": 1e-4, "atol": 1e-4}
    for name in OF_IMAGES:
        np.testing.assert_allclose(
            received[name]["probabilities"], wanted["probabilities"], **close
        )
    np.testing.assert_allclose(
        received["serving_bytes"]["probabilities"][:2], wanted["probabilities"], **close
    )
    for name in ("embedding", "stage2", "stage3"):
        np.testing.assert_allclose(received["features"][name][:2], wanted[name], **close)
        assert not received["features"][name][2].any()
    order = np.argsort(-wanted["probabilities"])[:, :5]
    classes, scores = received["classify"]["classes"], received["classify"]["scores"]
    assert [[CLASS_NAMES[index].encode() for index in row] for row in order] == [
        *map(list, classes[:2])
    ]
    np.testing.assert_allclose(
        scores[:2], np.take_along_axis(wanted["probabilities"], order, 1), **close
    )
    assert [*classes[2]] == [b""] * 5 and not scores[2].any()
    for name in SIGNATURES - OF_IMAGES:
        assert [*received[name]["errors"]] == [b"", b"", UNKNOWN]


def test_warm_up_requests_are_answered(exported, capsys):
    requests = [*warm_up_requests(exported)]
    assert {request.model_spec.signature_name for request in requests} == SIGNATURES
    assert {request.model_spec.name for request in requests} == {"net"}
    assert main([str(exported.parent)]) == 0
    output = capsys.readouterr().out.splitlines()
    assert len(output) == len(requests)
    assert "classify: image_bytes [1] -> classes [1, 5], errors [1], scores [1, 5]" in output


def test_a_model_without_warm_up_requests_does_not_pass(exported, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "1"
    copy.mkdir()
    for name in ("saved_model.pb", "variables"):
        (copy / name).symlink_to(exported / name)
    closed = []
    close = ServedModel.close
    monkeypatch.setattr(ServedModel, "close", lambda model: closed.append(model) or close(model))
    assert main([str(copy)]) == 1
    assert len(closed) == 1
    assert "no warm-up request for ['classify', 'features'" in capsys.readouterr().err


@pytest.mark.parametrize("record", [None, b"no request"])
def test_damaged_warm_up_requests_are_told_in_one_line(record, exported, tmp_path, capsys):
    copy, requests = tmp_path / "1", tmp_path / "1" / WARM_UP
    requests.parent.mkdir(parents=True)
    for name in ("saved_model.pb", "variables"):
        (copy / name).symlink_to(exported / name)
    if record is None:
        requests.write_bytes((exported / WARM_UP).read_bytes()[:99])
    else:
        with tf.io.TFRecordWriter(str(requests)) as writer:
            writer.write(record)
    assert main([str(copy)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{requests} is damaged: " in line


def test_a_folder_without_a_model(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert f"no SavedModel in {tmp_path}" in capsys.readouterr().err
    with pytest.raises(ServingError, match="Could not find SavedModel"):
        ServedModel(tmp_path)


def test_no_graph_is_left_of_a_model_that_does_not_load(tmp_path, monkeypatch):
    library, graphs = load_library(), []
    new, delete = library.TF_NewGraph, library.TF_DeleteGraph
    monkeypatch.setattr(library, "TF_NewGraph", lambda: graphs.append(new()) or graphs[-1])
    monkeypatch.setattr(library, "TF_DeleteGraph", lambda each: graphs.remove(each) or delete(each))
    with pytest.raises(ServingError, match="Could not find SavedModel"):
        ServedModel(tmp_path)
    assert not graphs


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("score", {}, "no signature 'score'; there are"),
        ("classify", {"images": [b""]}, r"takes \['image_bytes'\]. Received: \['images'\]"),
        ("classify", {"image_bytes": ["text"]}, "`image_bytes` must be bytes. Received: str"),
        ("classify", {"image_bytes": b"one"}, r"must have the shape \(None,\). Received: \(\)"),
        ("serving_default", {"images": "text"}, "`images` must be float32"),
        ("serving_default", {"images": ["1.5"]}, "`images` must be float32. Received: .*<U3"),
        ("serving_default", {"images": [[True]]}, "`images` must be float32. Received: .*bool"),
        ("serving_default", {"images": [[1], [1, 2]]}, "`images` must be float32. Received: "),
        ("serving_default", {"images": np.zeros((1, 32, 32, 3))}, "Received: dtype float64"),
        ("serving_default", {"images": np.zeros((1, 32, 32, 3), "uint8")}, "dtype uint8"),
        ("serving_default", {"images": ZEROS}, r"\(None, 32, 32, 3\). Received"),
        ("serving_default", {"images": ZEROS.tolist()}, r"\(None, 32, 32, 3\). Received"),
    ],
)
def test_requests_that_do_not_fit(served, signature, inputs, message):
    with pytest.raises(ServingError, match=message) as error:
        served.run(inputs, signature)
    assert error.value.code in (3, 5)


def test_weights_that_are_variables(net, everything, picture, tmp_path):
    folder = export_savedmodel(
        net, tmp_path / "net" / "1", preprocessing=PREPROCESSING, freeze=False
    )
    model = ServedModel(folder)
    files = [encoded(picture, "PNG")]
    np.testing.assert_allclose(
        model.run({"image_bytes": files}, "serving_bytes")["probabilities"],
        expected(everything, files)["probabilities"],
        atol=1e-4,
    )
    model.close()


# Files that a client may send.


def faulty(photo, picture):
    """Return files that cannot be scored, and what is said of them."""
    huge = {
        f"{kind} of 20,000 x 20,000": (claiming(encoded(picture, kind), 20000, 20000), TOO_LARGE)
        for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")
    }
    lossless = claiming(encoded(picture, "WEBP", lossless=True), 16000, 16000)
    return {
        **huge,
        "lossless WebP of 16,000 x 16,000": (lossless, TOO_LARGE),
        "truncated JPEG": (photo[: len(photo) // 2], DAMAGED),
        "JPEG header alone": (photo[:4], DAMAGED),
        "truncated PNG": (encoded(picture, "PNG")[:-200], DAMAGED),
        "GIF header alone": (b"GIF89a", DAMAGED),
        "zero bytes": (b"", UNKNOWN),
        "one byte": (b"\xff", UNKNOWN),
        "text": (b"To whom it may concern", UNKNOWN),
        "TIFF": (encoded(picture, "TIFF"), UNKNOWN),
        "PNG of no width": (claiming(encoded(picture, "PNG"), 0, 5), DAMAGED),
    }


def test_one_faulty_file_does_not_fail_the_others(served, everything, photo, picture):
    faults = faulty(photo, picture)
    files = [photo, *(file for file, _ in faults.values()), encoded(picture, "PNG")]
    answer = served.run({"image_bytes": files}, "serving_bytes")
    said = dict(zip(faults, answer["errors"][1:-1], strict=True))
    assert said == {name: error for name, (_, error) in faults.items()}
    assert not answer["probabilities"][1:-1].any()
    assert answer["errors"][0] == answer["errors"][-1] == b""
    np.testing.assert_allclose(
        answer["probabilities"][[0, -1]],
        expected(everything, [files[0], files[-1]])["probabilities"],
        atol=1e-4,
    )


def test_every_kind_of_image(served, everything, picture):
    """Each scored as the same picture converted to RGB by Pillow."""
    gray = picture.convert("L")
    deep = Image.fromarray(np.asarray(gray).astype("uint16") * 257)
    images = [
        (encoded(gray, "PNG"), gray.convert("RGB")),
        (encoded(picture.convert("RGBA"), "PNG"), picture),
        (encoded(deep, "PNG"), gray.convert("RGB")),
        (encoded(picture.quantize(), "PNG"), picture.quantize().convert("RGB")),
        (encoded(picture, "BMP"), picture),
        (encoded(picture.quantize(), "GIF"), picture.quantize().convert("RGB")),
        (encoded(picture, "WEBP", lossless=True), picture),
    ]
    animation = encoded(
        picture.quantize(), "GIF", save_all=True, append_images=[gray.quantize()], duration=50
    )
    images.append((animation, picture.quantize().convert("RGB")))
    answer = served.run({"image_bytes": [file for file, _ in images]}, "serving_bytes")
    assert not any(answer["errors"])
    wanted = expected(everything, [encoded(image, "PNG") for _, image in images])
    np.testing.assert_allclose(answer["probabilities"], wanted["probabilities"], atol=1e-4)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colors(served, everything, picture, mode):
    file = encoded(picture.convert(mode), "JPEG", quality=95)
    answer = served.run({"image_bytes": [file]}, "serving_bytes")
    assert [*answer["errors"]] == [b""]
    reread = encoded(Image.open(io.BytesIO(file)).convert("RGB"), "PNG")
    wanted = expected(everything, [reread])
    # Decoders of JPEG differ by a few gray levels.
    np.testing.assert_allclose(answer["probabilities"], wanted["probabilities"], atol=0.02)


def test_a_picture_is_turned_upright(served, photo):
    picture = Image.open(io.BytesIO(photo)).crop((0, 0, 640, 300))
    file = encoded(picture, "JPEG", exif=exif(6), quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    answer = served.run({"image_bytes": [file, encoded(upright, "PNG")]}, "serving_bytes")
    assert not any(answer["errors"])
    np.testing.assert_allclose(*answer["probabilities"], atol=0.01)


@pytest.mark.parametrize("signature", sorted(SIGNATURES))
def test_an_empty_batch(served, signature):
    images = signature in OF_IMAGES
    empty = np.zeros((0, 32, 32, 3), "float32")
    inputs = {"images": empty} if images else {"image_bytes": []}
    assert {len(each) for each in served.run(inputs, signature).values()} == {0}


def test_a_thousand_images(served, everything, picture):
    jpeg = encoded(picture, "JPEG")
    files = [jpeg, b"", encoded(picture, "PNG"), encoded(picture, "GIF")] * 250
    answer = served.run({"image_bytes": files}, "serving_bytes")
    assert [*answer["errors"]] == [b"", UNKNOWN, b"", b""] * 250
    wanted = expected(everything, [jpeg, files[2], files[3]])["probabilities"]
    np.testing.assert_allclose(answer["probabilities"][::4], wanted[[0] * 250], atol=1e-4)
    np.testing.assert_allclose(answer["probabilities"][2::4], wanted[[1] * 250], atol=1e-4)
    np.testing.assert_allclose(answer["probabilities"][3::4], wanted[[2] * 250], atol=1e-4)
