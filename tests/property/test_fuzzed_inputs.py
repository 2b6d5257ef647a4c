"""Inputs changed at random: each is taken as it is, or refused in words, and stops no others.

All draws are seeded. `make test` tries as many as `TRIED` says, `-m slow` tries `SLOWLY` times as
many.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

tf = pytest.importorskip("tensorflow")

from keras_preact.preprocessing import Preprocessing, Preprocessor  # noqa: E402
from keras_preact.serving.reading import ImageReader  # noqa: E402
from keras_preact.tuning import SearchSpace  # noqa: E402
from tests.odd_files import FILES, tolerance  # noqa: E402
from training.listing.find import find_listing  # noqa: E402
from training.listing.folders import IMAGE_FILES  # noqa: E402
from training.recipe import Recipe, load_recipe  # noqa: E402
from training.search import load_space  # noqa: E402

TRIED = {"images": 640, "recipes": 300, "spaces": 300, "folders": 100}
SLOWLY = 20

PREPROCESSING = Preprocessing(input_size=16, mean=(0.0,) * 3, std=(1 / 255,) * 3)
# One of each kind; the other orientations go through the same code.
KINDS = sorted({*FILES} - {f"{kind} {n}" for kind in ("jpeg", "png", "webp") for n in range(1, 9)})
# In this part of a file are its headers, with the EXIF data; a GIF's frame follows its palette.
HEADERS = {"gif": 1024}
GOOD = FILES["png 3"]


def changed(file: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with bits flipped, its end cut off, or another beginning."""
    content = bytearray(file)
    kind = rng.integers(4)
    if kind == 0:
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        del content[rng.integers(len(content)) :]
    elif kind == 2:
        for place in rng.integers(min(len(content), 64), size=rng.integers(1, 6)):
            content[place] = rng.integers(256)
    else:
        length = rng.integers(4, 64)
        content[:length] = FILES[KINDS[rng.integers(len(KINDS))]][:length]
    return bytes(content)


@pytest.fixture(scope="module")
def read():
    """Return the reader of an export's signatures."""
    spec = tf.TensorSpec((None,), tf.string)
    return tf.function(ImageReader(PREPROCESSING, 10**6).read, input_signature=[spec])


def check_images(read: Any, count: int, seed: int) -> Counter:
    """Read changed files in batches, each behind one that is whole."""
    rng = np.random.default_rng(seed)
    preprocessor = Preprocessor(PREPROCESSING, data_format="channels_last")
    whole = preprocessor(GOOD)
    outcomes: Counter = Counter()
    for _ in range(count // 64):
        kinds = [KINDS[each] for each in rng.integers(len(KINDS), size=64)]
        files = [changed(FILES[kind], rng) for kind in kinds]
        images, errors = (each.numpy() for each in read(tf.constant([GOOD, *files])))
        np.testing.assert_allclose(images[0], whole, atol=1e-3)
        assert not errors[0]
        for kind, file, image, error in zip(kinds, files, images[1:], errors[1:], strict=True):
            assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255
            assert not (error and image.any())
            try:
                expected = preprocessor(file)
            except ValueError as refused:
                assert "Not a readable image" in str(refused)
                expected = None
            outcome = ("read", "refused")[bool(error)], ("read", "refused")[expected is None]
            outcomes[outcome] += 1
            # What is left of damaged headers, two libraries may understand in two ways.
            headers = max([256, *(HEADERS[each] for each in HEADERS if each in kind)])
            if outcome == ("read", "read") and file[:headers] == FILES[kind][:headers]:
                outcomes["compared"] += 1
                # The rounding of CMYK counts twice, as that of pixels beyond the scale.
                np.testing.assert_allclose(
                    image, expected, atol=2 * tolerance(kind) + 1e-3, err_msg=kind
                )
    return outcomes


def test_changed_images(read):
    outcomes = check_images(read, TRIED["images"], seed=0)
    # All happen often, so that no part of the test is empty.
    assert outcomes["compared"] > TRIED["images"] // 20
    assert outcomes["refused", "refused"] > TRIED["images"] // 10


@pytest.mark.slow
def test_many_changed_images(read):
    print(check_images(read, SLOWLY * TRIED["images"], seed=1))


NAMES = [each.name for each in dataclasses.fields(Recipe)]
VARIED = [each.name for each in dataclasses.fields(SearchSpace)]
SCALARS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.sampled_from([0, 1, 2, 3, 8, 16, 32, 0.1, 0.5, 0.9, 1.0]),
    st.floats(),
    st.booleans(),
    st.sampled_from(["", "none", "random", "PreActResNet20", "cosine", "basic", "é\n", "relu"]),
)
LISTS = st.lists(SCALARS, max_size=4)
TABLES = st.dictionaries(
    st.sampled_from(["units", "channels", "attention", "drop_path", "", "no such"]),
    SCALARS | LISTS,
    max_size=3,
)


def tables(names: list[str]) -> st.SearchStrategy:
    """Draw tables of TOML with some of the names, and some that are none."""
    keys = st.sampled_from([*names, "no_such_name", "epoch"])
    return st.dictionaries(keys, SCALARS | LISTS | TABLES | st.lists(LISTS, max_size=3), max_size=4)


def loaded(load: Any, values: dict[str, Any]) -> Any:
    """Load what a file of TOML says; None if it is refused with the name of the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drawn.toml"
        file.write_text(tomli_w.dumps(values), encoding="utf-8")
        try:
            return load(file)
        except ValueError as error:
            assert str(error).startswith(f"{file}: ")
            return None


def check_recipe(values: dict[str, Any]) -> None:
    """Load a recipe, which may be refused."""
    recipe = loaded(load_recipe, values)
    if recipe is None:
        return
    for name, value in dataclasses.asdict(recipe).items():
        numbers = value if isinstance(value, tuple) else [value]
        assert all(math.isfinite(each) for each in numbers if isinstance(each, float)), name
    assert loaded(load_recipe, dataclasses.asdict(recipe)) == recipe


def check_space(values: dict[str, Any]) -> None:
    """Load a search space, which may be refused."""
    space = loaded(load_space, values)
    if space is not None:
        assert any(getattr(space, name) for name in VARIED)


PARTS = st.sampled_from(
    [
        *("train", "test", "val", "validation", "Train", "cat", "Cat", "dog", "a b", "[x]*"),
        # One character, and a letter with an accent of its own.
        *("caf\u00e9", "cafe\u0301", ".hidden", "__MACOSX"),
    ]
)
LEAVES = st.sampled_from(
    ["1.jpg", "2.PNG", "3.webp", "._1.jpg", "4.tiff", "notes.txt", "README", "5.jpeg", "a[1].bmp"]
)
PATHS = st.lists(st.tuples(st.lists(PARTS, max_size=4), LEAVES), max_size=12)


def hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or what macOS writes into archives."""
    return name.startswith(".") or name == "__MACOSX"


def check_folder(paths: list[tuple[list[str], str]], split: float | None) -> None:
    """List a folder of image files, which may be refused; every file is accounted for."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for parts, leaf in paths:
            root.joinpath(*parts).mkdir(parents=True, exist_ok=True)
            root.joinpath(*parts, leaf).touch()
        try:
            listing = find_listing(str(root), split)
        except (ValueError, FileNotFoundError) as error:
            assert str(root) in str(error)
            return
        assert listing is not None
        listed = [path for paths in listing.images.values() for path in paths]
        assert len(set(listed)) == len(listed)
        for name, images in listing.images.items():
            labels = listing.labels[name]
            assert len(images) == len(labels)
            for path, label in zip(images, labels, strict=True):
                parts = Path(path).relative_to(root).parts
                assert Path(path).suffix.lower() in IMAGE_FILES
                assert listing.class_names[label] in parts
                assert not any(map(hidden, parts))
            # Chance may leave a part of a few images without one of the classes.
            assert split or {*range(len(listing.class_names))} == {*map(int, labels)}
        visible = [
            os.path.join(folder, file)
            for folder, _, files in os.walk(root)
            for file in files
            if not any(map(hidden, Path(folder, file).relative_to(root).parts))
        ]
        assert listing.left_out or {*visible} <= {*listed}


def bounded(count: int) -> Any:
    """Return settings that try so many examples, the same ones every time."""
    return settings(max_examples=count, derandomize=True, deadline=None, database=None)


@bounded(TRIED["recipes"])
@given(tables(NAMES))
def test_drawn_recipes(values):
    check_recipe(values)


@bounded(TRIED["spaces"])
@given(tables(VARIED))
def test_drawn_spaces(values):
    check_space(values)


@bounded(TRIED["folders"])
@given(PATHS, st.sampled_from([None, 0.2]))
def test_drawn_folders(paths, split):
    check_folder(paths, split)


@pytest.mark.slow
@bounded(SLOWLY * TRIED["recipes"])
@given(tables(NAMES), tables(VARIED), PATHS, st.sampled_from([None, 0.2, 1.0]))
def test_many_drawn_recipes_spaces_and_folders(recipe, space, paths, split):
    check_recipe(recipe)
    check_space(space)
    check_folder(paths, split)
