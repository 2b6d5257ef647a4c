"""One set of odd image files through every reader: all give the pixels that Pillow gives."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_preact.preprocessing import Preprocessing, Preprocessor

tf = pytest.importorskip("tensorflow")

from keras_preact.images.bitmap import UNSUPPORTED as OTHER_BITMAP  # noqa: E402
from keras_preact.images.exif import (  # noqa: E402
    _find_orientation,
    exif_orientation,
    file_orientation,
)
from keras_preact.images.kinds import ANIMATED, UNKNOWN_FORMAT  # noqa: E402
from keras_preact.preprocessing import decode_image  # noqa: E402
from keras_preact.serving.export import export_savedmodel  # noqa: E402
from keras_preact.serving.reading import TOO_LARGE, ImageReader  # noqa: E402
from savedmodels.quantize import read_images  # noqa: E402
from tests.odd_files import (  # noqa: E402
    DAMAGED,
    FILES,
    GRAY,
    PICTURE,
    UNSUPPORTED,
    tolerance,
    upright,
)
from tests.savedmodels.files import encoded, exif  # noqa: E402
from tests.training.shards import record, write_shard  # noqa: E402
from training import data  # noqa: E402
from training.loading import reading  # noqa: E402
from training.loading.decoded import DecodedImages  # noqa: E402
from training.loading.image_set import load_image_set  # noqa: E402
from training.recipe import Recipe, preprocessing_of  # noqa: E402
from training.sources import open_source  # noqa: E402


@functools.cache
def decode(channels):
    """Return `decode_image`, traced once for all files."""
    spec = tf.TensorSpec((), tf.string)
    return tf.function(lambda file: decode_image(file, channels), input_signature=[spec])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_whole_images_are_those_of_pillow(name, channels):
    expected = upright(FILES[name], channels)
    pixels = decode(channels)(FILES[name]).numpy()
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(int), expected, atol=tolerance(name))
    if name[-1] in "5678":
        assert pixels.shape == (64, 48, channels)


@functools.cache
def part_of(size):
    """Return a function from a file to the shape of its image and a part, traced once."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def shape_and_part(file):
        # The part is chosen within branches of the graph.
        def choose(shape):
            with tf.control_dependencies([seen.assign(shape[:2])]):
                return tf.constant([16, 8, 24, 32])

        part = reading.part_of(file, choose, size, 3)
        with tf.control_dependencies([part]):
            return seen.read_value(), part

    seen = tf.Variable([0, 0], trainable=False)
    return shape_and_part


# Even places, at which a JPEG's colors, of which each has four pixels, are not mixed anew.
@pytest.mark.parametrize("size", [24, 8])
@pytest.mark.parametrize("name", FILES)
def test_parts_lie_in_the_upright_image(name, size):
    shape, part = (each.numpy() for each in part_of(size)(FILES[name]))
    whole = upright(FILES[name]).astype(float)
    assert tuple(shape[:2]) == whole.shape[:2]
    expected = whole[16:40, 8:40]
    scale = {24: 1, 8: 2}[size]
    expected = expected.reshape(24 // scale, scale, 32 // scale, scale, 3).mean(axis=(1, 3))
    part = part.astype(float)
    assert part.shape == expected.shape
    is_jpeg = "jpeg" in name
    # Decoders smooth colors across the border of the part, and shrink by their own transform.
    np.testing.assert_allclose(part, expected, atol=16 if is_jpeg else 0.5)
    assert np.abs(part - expected).mean() < (2 if is_jpeg else 0.51)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each file as a class of its own, in both splits; a reader goes by content, not by ending."""
    root = tmp_path_factory.mktemp("odd")
    for split in ("train", "test"):
        for name, content in FILES.items():
            path = root / split / name / "image.jpg"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
    return root


RECIPE = Recipe(
    batch_size=1,
    epochs=1,
    input_size=32,
    crop="none",
    mean=(0.0,) * 3,
    std=(1 / 255,) * 3,
    crop_fraction=0.8,
    flip=False,
)
PREPROCESSING = preprocessing_of(RECIPE)


def by_class(batches):
    """Return the pixels by the name of the class."""
    names = sorted(FILES)
    return {names[int(np.argmax(labels[0]))]: np.asarray(images[0]) for images, labels in batches}


def evaluation(folder):
    return by_class(data.evaluation_pipeline(open_source(str(folder)), RECIPE))


def training(folder):
    source = open_source(str(folder))
    return by_class(data.training_pipeline(source, RECIPE).take(len(FILES)))


def device(folder):
    images = load_image_set(str(folder), PREPROCESSING)
    places = images.places("test")
    return {
        images.class_names[images.labels[place]]: images.images[place].astype(float)
        for place in places
    }


@functools.cache
def serving_reader():
    spec = tf.TensorSpec((None,), tf.string)
    return tf.function(ImageReader(PREPROCESSING, 10**6).read, input_signature=[spec])


def served(files):
    """Return images and errors as the signatures that take files see them."""
    images, errors = serving_reader()(tf.constant([*files.values()]))
    return images.numpy(), errors.numpy()


def serving(folder):
    del folder
    images, errors = served(FILES)
    assert not any(errors)
    return dict(zip(FILES, images, strict=True))


def quantization(folder):
    paths = [folder / "test" / name / "image.jpg" for name in FILES]
    batches = read_images(paths, PREPROCESSING)
    return dict(zip(FILES, np.concatenate(batches), strict=True))


def preprocessor(folder):
    del folder
    return dict(zip(FILES, Preprocessor(PREPROCESSING)([*FILES.values()]), strict=True))


@pytest.mark.parametrize(
    "read", [evaluation, training, device, serving, quantization, preprocessor]
)
def test_every_reader_prepares_the_pixels_of_pillow(read, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    prepared = read(folder)
    assert set(prepared) == set(FILES)
    for name, file in FILES.items():
        expected = Preprocessor(PREPROCESSING)(Image.fromarray(upright(file)))
        np.testing.assert_allclose(
            prepared[name], expected, atol=tolerance(name) + 1e-3, err_msg=name
        )


def test_every_signature_of_an_export_scores_the_pixels_of_pillow(small_net, tmp_path):
    model = small_net(input_shape=(32, 32, 3), classes=5, name="odd")
    options = {"warm_up_batch_sizes": (), "image_dtype": "float32", "top_k": 5}
    export_savedmodel(model, tmp_path / "odd", preprocessing=PREPROCESSING, **options)
    signatures = tf.saved_model.load(str(tmp_path / "odd")).signatures
    preprocessor = Preprocessor(PREPROCESSING)
    prepared = preprocessor([Image.fromarray(upright(file)) for file in FILES.values()])
    expected = np.asarray(model(PREPROCESSING.normalize(prepared)))
    # Scores of different images differ, or any reader would do.
    assert np.abs(expected[:, None] - expected).max(-1).max() > 0.01
    for name in ("serving_default", "single_pass"):
        scores = signatures[name](images=tf.constant(prepared))["probabilities"]
        np.testing.assert_allclose(scores, expected, atol=1e-5, err_msg=name)

    files = tf.constant([*FILES.values(), *DAMAGED.values(), *UNSUPPORTED.values()])
    scored, classified = (signatures[each](files) for each in ("serving_bytes", "classify"))
    for answer in (scored, classified):
        errors = answer["errors"].numpy() != b""
        assert errors.tolist() == [False] * len(FILES) + [True] * (len(files) - len(FILES))
    # A gray level moves a score by less than this.
    read = scored["probabilities"].numpy()[: len(FILES)]
    np.testing.assert_allclose(read, expected, atol=1e-3)
    same = [tolerance(name) == 0 for name in FILES]
    np.testing.assert_allclose(read[same], expected[same], atol=1e-5)
    best = classified["scores"].numpy()[: len(FILES)]
    np.testing.assert_allclose(best, -np.sort(-read, axis=1), atol=1e-6)


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """One image that can be read, and all that cannot be, in each split."""
    root = tmp_path_factory.mktemp("refused")
    for split in ("train", "test"):
        (root / split / "good").mkdir(parents=True)
        for name, content in {"good": FILES["png 1"], **DAMAGED, **UNSUPPORTED}.items():
            (root / split / "good" / f"{name}.jpg").write_bytes(content)
    return root


def test_what_cannot_be_read_is_named_and_the_rest_is_read(refused, tmp_path, capsys, monkeypatch):
    names = {*DAMAGED, *UNSUPPORTED}
    source = open_source(str(refused))
    reader = reading.ImageReader(source, "train", max_corrupt_images=len(names))
    spec = tf.TensorSpec([32, 32, 3], tf.float32)
    ((images, labels),) = reader.read_all(
        lambda file: PREPROCESSING.resize_and_crop(reading.pixels_of(file, 3)), spec
    )
    assert images.shape == (1, 32, 32, 3) and labels.tolist() == [0]
    assert {Path(name).stem for name in reader.corrupt.names} == names

    paths = [refused / "test" / "good" / f"{name}.jpg" for name in sorted(names)]
    with pytest.raises(ValueError, match=f"none of the {len(names)} images can be read"):
        read_images(paths, PREPROCESSING)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" is left out")[0] for line in told] == [
        f"savedmodels.quantize: {path}" for path in paths
    ]

    _, errors = served({**DAMAGED, **UNSUPPORTED})
    errors_by_name = dict(zip([*DAMAGED, *UNSUPPORTED], errors.astype(str), strict=True))
    for name, error in errors_by_name.items():
        if name in ("empty", "text", "pixmap") or "tiff" in name:
            assert error == UNKNOWN_FORMAT
        elif name == "gif of a huge canvas":
            assert error == TOO_LARGE.format(max_pixels=10**6)
        elif "webp" in name and name in UNSUPPORTED:
            assert error == ANIMATED
        else:
            other = name in UNSUPPORTED or name == "two bytes"
            assert error == (OTHER_BITMAP if other else "the image is damaged"), name

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    images = load_image_set(str(refused), PREPROCESSING, max_corrupt_images=len(names))
    assert images.num_examples("test") == images.num_examples("train") == 1
    for name, file in {**DAMAGED, **UNSUPPORTED}.items():
        for source in (file, refused / "test" / "good" / f"{name}.jpg"):
            with pytest.raises(ValueError, match="Not a readable image") as caught:
                Preprocessor(PREPROCESSING)(source)
            if name in UNSUPPORTED:
                assert errors_by_name[name] in str(caught.value)
    # Who opens another kind with Pillow may give the image.
    np.testing.assert_array_equal(
        Preprocessor(PREPROCESSING)(Image.open(io.BytesIO(UNSUPPORTED["tiff"]))),
        Preprocessor(PREPROCESSING)(PICTURE),
    )


def test_random_crops_are_upright_in_and_out_of_memory(folder):
    """A crop of nearly the whole image, resized, is close to the whole image, resized."""
    source = open_source(str(folder))
    for gib in (1, 0):
        recipe = RECIPE.replace(crop="random_resized", min_area=0.98, cache_gib=gib)
        crops = by_class(data.training_pipeline(source, recipe).take(len(FILES)))
        for name, file in FILES.items():
            whole = tf.image.resize(upright(file), [32, 32], "bicubic").numpy()
            turned = [whole[::rows, ::columns] for rows in (1, -1) for columns in (1, -1)]
            turned += [image.transpose(1, 0, 2) for image in turned]
            distances = [np.abs(crops[name] - image).mean() for image in turned]
            assert np.argmin(distances) == 0, (name, gib, distances)


def test_tfrecords_are_read_upright(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(sorted(FILES)))
    for split in ("train", "test"):
        records = [record(FILES[name], label) for label, name in enumerate(sorted(FILES))]
        write_shard(tmp_path / f"{split}-0.tfrecord", records)
    for read in (evaluation, training):
        for name, pixels in read(tmp_path).items():
            expected = Preprocessor(PREPROCESSING)(Image.fromarray(upright(FILES[name])))
            np.testing.assert_allclose(pixels, expected, atol=tolerance(name) + 1e-3)


def test_images_kept_decoded_are_upright(folder):
    images = DecodedImages.of(reading.ImageReader(open_source(str(folder)), "test", 0), 3, 2**30)
    read = images.read(
        images.examples().enumerate(),
        lambda image, place: tf.cast(PREPROCESSING.resize_and_crop(image), tf.uint8),
        tf.TensorSpec([32, 32, 3], tf.uint8),
    )
    for pixels, label in read:
        expected = Preprocessor(PREPROCESSING)(
            Image.fromarray(upright(FILES[sorted(FILES)[label]]))
        )
        np.testing.assert_allclose(pixels.numpy().astype(float), expected, atol=1.001)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_turn_nothing_and_stop_nothing(kind):
    whole = encoded(PICTURE, kind, exif=exif(6))
    rng = np.random.default_rng(0)
    orientation = tf.function(exif_orientation, input_signature=[tf.TensorSpec((), tf.string)])
    assert orientation(whole) == file_orientation(whole) == 6
    for length in (0, 1, 2, 3, 8, 12, 20, 25, 33, 40, 60, 64, 70):
        assert 1 <= orientation(whole[:length]) == file_orientation(whole[:length]) <= 8
    found = set()
    for turn in range(200):
        file = bytearray(whole)
        # The data are near the beginning, or near the end of a WebP file.
        for place in rng.integers(len(file), size=6) % 120:
            file[place if turn % 2 else -1 - place] = rng.integers(256)
        found.add(file_orientation(bytes(file)))
        assert orientation(bytes(file)) == file_orientation(bytes(file))
    assert {1, 6} <= found <= {*range(1, 9)}


def odd_jpegs():
    """JPEG files whose EXIF data are where they are looked for last, or nowhere."""
    whole = encoded(PICTURE, "JPEG", exif=exif(6))
    place = whole.index(b"\xff\xe1")
    length = 2 + int.from_bytes(whole[place + 2 : place + 4], "big")
    start, jfif, segment = whole[:2], whole[2:place], whole[place : place + length]
    rest = whole[place + length :]
    comment, color = b"\xff\xfe\0\x06note", b"\xff\xe2\0\x04ab"
    yield from (whole, start + jfif + rest, start + rest, start + comment + rest)
    yield from (start + color + color + rest, start + jfif + color + segment + rest)
    yield from (start + comment + segment + rest, start + color + comment + segment + rest)
    yield start + comment * 40 + segment + rest
    # Another segment of the same kind, and one that is cut short.
    xmp = b"\xff\xe1\0\x10http://ns.ado"
    yield from (start + xmp + segment + rest, start + comment + xmp + segment + rest)
    yield from (start + b"\0" + segment[1:] + rest, start + comment + b"\0" + segment[1:] + rest)


def test_the_first_parts_of_a_file_tell_whether_to_look_on():
    """In a graph most files are not looked through, and the answer is the same."""
    signature = [tf.TensorSpec((), tf.string)]
    quick = tf.function(exif_orientation, input_signature=signature)
    thorough = tf.function(_find_orientation, input_signature=signature)
    files = [*odd_jpegs(), encoded(PICTURE, "PNG", exif=exif(5)), encoded(PICTURE, "PNG")]
    files += [encoded(PICTURE, "WEBP", exif=exif(3)), encoded(PICTURE, "WEBP"), b"", b"GIF89a"]
    rng = np.random.default_rng(0)
    for whole in files:
        assert quick(whole) == thorough(whole)
        for _ in range(30):
            file = bytearray(whole)
            for place in rng.integers(max(len(file), 1), size=2) % 42:
                file[place : place + 1] = rng.choice([*b"\0\xff\xe1\xe0\xfe\x0dIR", 7], 1).tolist()
            file = bytes(file[: rng.integers(20, 400)])
            assert quick(file) == thorough(file) == file_orientation(file)
    found = [int(quick(file)) for file in files]
    assert found[:6] == [6, 1, 1, 1, 1, 6] and found.count(6) > 5


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_no_length_of_a_part_leads_astray(kind):
    """Four bytes tell lengths that 32 bits with a sign do not hold."""
    whole = encoded(PICTURE, kind, exif=exif(6))
    place = whole.index(b"eXIf") - 4 if kind == "PNG" else whole.index(b"EXIF") + 4
    order = "big" if kind == "PNG" else "little"
    orientation = tf.function(exif_orientation, input_signature=[tf.TensorSpec((), tf.string)])
    length = int.from_bytes(whole[place : place + 4], order)
    found = {}
    for number in (0, length - 1, length, 2**31 - 9, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1):
        file = whole[:place] + number.to_bytes(4, order) + whole[place + 4 :]
        found[number] = int(orientation(file))
        assert found[number] == file_orientation(file)
    assert found.pop(length) == 6 and found.pop(length - 1) == 6 and {*found.values()} == {1}


def test_preprocessing_without_exif_is_unchanged():
    small = Preprocessing(input_size=16, mean=(0.0,), std=(1 / 255,))
    plain = small.resize_and_crop(decode_image(encoded(GRAY, "PNG"), 1))
    said = small.resize_and_crop(decode_image(encoded(GRAY, "PNG", exif=exif(1)), 1))
    np.testing.assert_array_equal(said, plain)
