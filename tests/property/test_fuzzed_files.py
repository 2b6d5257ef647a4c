"""Files of training changed at random: read as they were, or refused in words that name them.

All draws are seeded; `make test` tries as many as `TRIED` says, `-m slow` tries `SLOWLY` times as
many.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from tests.training.shards import record, write_shard  # noqa: E402
from training.listing.arrays import list_arrays  # noqa: E402
from training.loading.corrupt import unreadable  # noqa: E402
from training.loading.reading import ImageReader, pixels_of  # noqa: E402
from training.recipe import load_recipe  # noqa: E402
from training.records.checkpoint import (  # noqa: E402
    CheckpointError,
    Progress,
    load_progress,
    previous,
    save_checkpoint,
)
from training.run import read_run  # noqa: E402
from training.search import load_space  # noqa: E402
from training.sources import open_source  # noqa: E402

TRIED = {"records": 192, "shards": 40, "checkpoints": 200, "arrays": 200, "texts": 400}
SLOWLY = 20


def changed(content: bytes, rng: random.Random) -> bytes:
    """Return a file with bytes changed, put in or left out, or with its end cut off."""
    file = bytearray(content)
    kind = rng.randrange(5)
    place = rng.randrange(len(file))
    if kind == 0:
        file[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for each in range(place, min(place + 8, len(file))):
            file[each] = rng.randrange(256)
    elif kind == 2:
        file[place:place] = rng.randbytes(rng.randrange(1, 5))
    elif kind == 3:
        del file[place : place + rng.randrange(1, 9)]
    else:
        del file[place:]
    return bytes(file)


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), np.uint8)
IMAGES = [tf.io.encode_png(pixels).numpy() for pixels in PIXELS]


def read_all(folder: Path, corrupt: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read the training images of a folder, and the names of those that could not be read."""
    reader = ImageReader(open_source(str(folder)), "train", corrupt)
    spec = tf.TensorSpec([6, 5, 3], tf.uint8)
    batches = [*reader.read_all(lambda file: tf.ensure_shape(pixels_of(file, 3), [6, 5, 3]), spec)]
    images, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    return images, labels, reader.corrupt.names


@pytest.fixture
def shards(tmp_path):
    """Return a folder for shards of eight classes."""
    (tmp_path / "labels.txt").write_text("\n".join("abcdefgh"))
    return tmp_path


def check_records(folder: Path, count: int, seed: int) -> Counter:
    """Read records whose content was changed before its checksum was written, among whole ones."""
    rng = random.Random(seed)
    whole = [record(image, label) for label, image in enumerate(IMAGES)]
    outcomes: Counter = Counter()
    drawn = [rng.randrange(8) for _ in range(count)]
    records = [changed(whole[label], rng) for label in drawn]
    pairs = [(each, whole[0]) for each in records]
    write_shard(folder / "train-0.tfrecord", [each for pair in pairs for each in pair])
    images, labels, names = read_all(folder, corrupt=count)
    lost = {int(name.rpartition(" ")[2]) for name in names}
    kept = [place for place in range(2 * count) if place not in lost]
    assert len(images) == len(labels) == len(kept)
    # No whole record is lost, and what is read of it is right.
    assert not any(place % 2 for place in lost)
    for place, pixels, label in zip(kept, images, labels, strict=True):
        if place % 2:
            assert label == 0
            np.testing.assert_array_equal(pixels, PIXELS[0])
            continue
        assert 0 <= label < 8
        outcomes["same" if (pixels == PIXELS[drawn[place // 2]]).all() else "other"] += 1
    outcomes["lost"] = len(lost)
    return outcomes


def test_changed_records_are_named_and_no_others_are_lost(shards):
    outcomes = check_records(shards, TRIED["records"], seed=0)
    assert outcomes["lost"] > TRIED["records"] // 3
    # The content of a PNG file has checksums.
    assert outcomes["other"] < TRIED["records"] // 20


def check_shards(folder: Path, count: int, seed: int) -> Counter:
    """Read a shard that was changed after its checksums were written."""
    rng = random.Random(seed)
    shard = folder / "train-0.tfrecord"
    records = [record(image, label) for label, image in enumerate(IMAGES)]
    write_shard(shard, records)
    whole = shard.read_bytes()
    outcomes: Counter = Counter()
    for _ in range(count):
        shard.write_bytes(changed(whole, rng))
        try:
            source = open_source(str(folder))
        except ValueError as error:
            assert f"'{shard}' is not a complete" in str(error) and "\n" not in str(error)
            outcomes["refused when opened"] += 1
            continue
        damage = source.split("train").damage()
        if damage is None:
            # Only what follows the last record may be gone.
            read = [*tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()]
            assert read == records[: len(read)] and len(read) == source.num_examples("train")
            outcomes["cut between records"] += 1
            continue
        assert damage.startswith(f"{shard}, record ") and "\n" not in damage
        with pytest.raises(tf.errors.DataLossError) as caught:
            list(source.split("train").examples())
        assert unreadable(caught.value, source) == damage
        outcomes["named"] += 1
    return outcomes


def test_changed_shards_are_refused_or_named(shards):
    outcomes = check_shards(shards, TRIED["shards"], seed=0)
    assert min(outcomes["refused when opened"], outcomes["named"]) > TRIED["shards"] // 10


@pytest.fixture(scope="module")
def net() -> tuple[keras.Model, keras.Optimizer]:
    """Return a net and its optimizer."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def check_checkpoints(folder: Path, net: Any, count: int, seed: int) -> Counter:
    """Load a run whose last checkpoint, or both, were changed."""
    rng = random.Random(seed)
    path, (model, optimizer) = folder / "last.npz", net
    for epoch in (1, 2):
        for variable in model.variables + optimizer.variables:
            variable.assign(keras.ops.full(variable.shape, epoch, variable.dtype))
        save_checkpoint(path, model, optimizer, Progress(history=[{"epoch": 1}] * epoch))
    last, before = path.read_bytes(), previous(path).read_bytes()
    outcomes: Counter = Counter()
    for _ in range(count):
        both = rng.random() < 0.25
        path.write_bytes(changed(last, rng))
        previous(path).write_bytes(changed(before, rng) if both else before)
        for variable in model.variables + optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        try:
            epochs = load_progress(path, model, optimizer).epochs
        except CheckpointError as error:
            assert both and str(path.parent) in str(error)
            epochs = 0
        assert epochs in (0, 1, 2)
        for variable in model.variables + optimizer.variables:
            assert (variable.numpy() == epochs).all()
        outcomes[epochs] += 1
    return outcomes


def test_changed_checkpoints_cost_one_save_and_never_become_weights(net, tmp_path, capsys):
    outcomes = check_checkpoints(tmp_path, net, TRIED["checkpoints"], seed=0)
    assert outcomes[1] > TRIED["checkpoints"] // 3 and outcomes[0] > TRIED["checkpoints"] // 20
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= outcomes[1]
    assert all("The one before it counts" in line for line in lines)


def check_arrays(folder: Path, count: int, seed: int) -> Counter:
    """List arrays of images from a file that was changed."""
    rng = random.Random(seed)
    path = folder / "set.npz"
    wholes = []
    for save in (np.savez, np.savez_compressed):
        save(path, x_train=PIXELS, y_train=np.arange(8), x_test=PIXELS, y_test=np.arange(8))
        wholes.append(path.read_bytes())
    outcomes: Counter = Counter()
    for _ in range(count):
        path.write_bytes(changed(rng.choice(wholes), rng))
        try:
            listing = list_arrays([path])
        except ValueError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
            continue
        np.testing.assert_array_equal(listing.images["train"], PIXELS)
        assert [*listing.labels["train"]] == [*range(8)]
        outcomes["same"] += 1
    return outcomes


def test_changed_arrays_are_refused_or_the_same(tmp_path):
    outcomes = check_arrays(tmp_path, TRIED["arrays"], seed=0)
    assert outcomes["refused"] > TRIED["arrays"] // 2 and outcomes["same"]


RECIPE = """# Ünique
model = "PreActResNet20"
epochs = 3
mean = [0.5, 0.5, 0.5]
patience = 2
step_epochs = [1, 2.5]

[model_options]
units = [1, 1]
"""
SPACE = """units = [1, 2, 3]
widen = [0.5, 1.0]
learning_rate = [0.1, 0.2]

[choices]
attention = ["none", "se"]
"""
CLASSES = json.dumps({"names": ["cat", "chien à poil"], "first_label": 1}, ensure_ascii=False)
RUN = json.dumps({"status": "running", "history": [{"epoch": 1, "val_top1": 0.5}]})


def check_texts(folder: Path, count: int, seed: int) -> Counter:
    """Read recipes, spaces, names of classes and records of runs that were changed."""
    rng = random.Random(seed)
    write_shard(folder / "train-0.tfrecord", [record(IMAGES[0], 1)])
    readers = [
        ("recipe.toml", RECIPE, lambda path: load_recipe(path)),
        ("space.toml", SPACE, lambda path: load_space(path)),
        ("classes.json", CLASSES, lambda path: open_source(str(path.parent)).class_names),
        ("labels.txt", "cat\nchien à poil\n", lambda path: open_source(str(path.parent))),
        ("run.json", RUN, lambda path: read_run(path.parent)),
    ]
    outcomes: Counter = Counter()
    for turn in range(count):
        name, text, read = readers[turn % len(readers)]
        path = folder / name
        path.write_bytes(changed(text.encode(), rng))
        try:
            read(path)
        except (ValueError, FileNotFoundError) as error:
            assert str(path) in str(error), (path.read_bytes(), error)
            outcomes[name, "refused"] += 1
        else:
            outcomes[name, "read"] += 1
        path.unlink()
    return outcomes


def test_changed_texts_are_refused_by_name_or_read(tmp_path):
    outcomes = check_texts(tmp_path, TRIED["texts"], seed=0)
    assert {name for name, outcome in outcomes if outcome == "refused"} == {
        *("recipe.toml", "space.toml", "classes.json", "labels.txt", "run.json")
    }


@pytest.mark.slow
def test_many_changed_files(shards, net):
    folder = shards / "others"
    folder.mkdir()
    print(check_records(shards, SLOWLY * TRIED["records"], seed=1))
    print(check_shards(shards, SLOWLY * TRIED["shards"], seed=1))
    print(check_checkpoints(folder, net, SLOWLY * TRIED["checkpoints"], seed=1))
    print(check_arrays(folder, SLOWLY * TRIED["arrays"], seed=1))
    print(check_texts(folder, SLOWLY * TRIED["texts"], seed=1))
