"""Damaged checkpoints and records: the one before counts, and a line says what is wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.full_disk import full_disk
from tests.odd_files import FILES
from tests.training.shards import record, write_shard
from training.data import evaluation_pipeline
from training.loading.corrupt import unreadable
from training.recipe import Recipe
from training.records.checkpoint import (
    DamagedCheckpoint,
    Progress,
    load_progress,
    previous,
    save_checkpoint,
)
from training.run import read_run
from training.sources import open_source
from training.train import main

FLIPS = 60


@pytest.fixture(scope="module")
def net():
    """Return a net and its optimizer."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def saved(net, path):
    """Save after one epoch and after two, the weights full of these numbers; return the file."""
    for epoch in (1.0, 2.0):
        net[0].layers[-1].kernel.assign(np.full((3, 2), epoch))
        save_checkpoint(path, *net, Progress(history=[{"epoch": 1}] * int(epoch)))
    return path.read_bytes()


def loaded(net, path):
    """Return the completed epochs of a run, which are in its weights too."""
    net[0].layers[-1].kernel.assign(np.zeros((3, 2)))
    epochs = load_progress(path, *net).epochs
    np.testing.assert_array_equal(net[0].layers[-1].kernel.numpy(), np.full((3, 2), epochs))
    return epochs


def test_the_checkpoint_before_counts_where_the_last_is_damaged(net, tmp_path, capsys):
    path = tmp_path / "last.npz"
    assert loaded(net, path) == 0
    whole = saved(net, path)
    assert loaded(net, path) == 2
    assert not capsys.readouterr().err
    for damaged in (b"", b"text", whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        assert loaded(net, path) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{path} is damaged (")
        assert line.endswith(f"The one before it counts: {previous(path)}")
    # A process killed between two renamings leaves only this one.
    path.unlink()
    assert loaded(net, path) == 1
    path.write_bytes(whole[:-1])
    previous(path).write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=f"remove {tmp_path} to begin anew"):
        loaded(net, path)


def test_flipped_bits_never_become_weights(net, tmp_path):
    path = tmp_path / "last.npz"
    whole = saved(net, path)
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(FLIPS):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        outcomes.append(loaded(net, path))
    # Some bits, such as those of a file's date, mean nothing.
    assert {*outcomes} <= {1, 2} and outcomes.count(1) > FLIPS // 4


@pytest.fixture
def records(tmp_path):
    """Return a folder of records of which one byte is flipped."""
    (tmp_path / "labels.txt").write_text("a\nb\n")
    for split in ("train", "test"):
        path = tmp_path / f"{split}-0.tfrecord"
        write_shard(path, [record(FILES["png 1"], label) for label in (0, 1, 0)])
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    return tmp_path


def test_a_damaged_record_is_named(records):
    source = open_source(str(records))
    recipe = Recipe(batch_size=1, input_size=8, crop="none")
    with pytest.raises(tf.errors.DataLossError) as caught:
        list(evaluation_pipeline(source, recipe))
    reason = unreadable(caught.value, source)
    # Which of the splits was read, nobody asks: both are damaged.
    assert reason.startswith(f"{records / 'train-0.tfrecord'}, record 1 is damaged: ")
    assert "\n" not in reason
    assert unreadable(ValueError("something else"), source) is None


def test_too_many_unreadable_images_are_told_in_one_line(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(FILES["png 1"])
            (tmp_path / split / name / "2.png").write_bytes(FILES["png 1"][:99])
    source = open_source(str(tmp_path))
    recipe = Recipe(batch_size=1, input_size=8, crop="none", max_corrupt_images=1)
    with pytest.raises(tf.errors.OpError) as caught:
        list(evaluation_pipeline(source, recipe))
    reason = unreadable(caught.value, source)
    assert reason.startswith("2 unreadable images, but only 1 may be skipped")
    assert reason.endswith(f"{tmp_path / 'test' / 'b' / '2.png'}")


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(train, tmp_path, capsys):
    options = ["--epochs", "1", "--epoch-steps", "1", "--warmup-epochs", "0"]
    with full_disk(20_000):
        assert train(tmp_path, *options) == 1
    checkpoint = tmp_path / "checkpoint" / "last.npz"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "training.train" in line]
    assert line == f"training.train: [Errno 27] File too large: '{checkpoint}'"
    assert [*checkpoint.parent.iterdir()] == []
    keras.backend.clear_session(free_memory=False)
    assert train(tmp_path, *options) == 0

    # A run whose record is damaged goes on from its checkpoints.
    record = tmp_path / "run.json"
    whole = read_run(tmp_path)
    record.write_bytes(record.read_bytes()[:-100])
    keras.backend.clear_session(free_memory=False)
    assert train(tmp_path, *options) == 0
    assert f"{record} is damaged" in capsys.readouterr().err
    assert read_run(tmp_path) == whole
    # Both checkpoints damaged: told, and nothing begins anew by itself.
    record.write_text(record.read_text().replace("finished", "running"))
    for path in checkpoint.parent.iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    keras.backend.clear_session(free_memory=False)
    assert train(tmp_path, *options) == 1
    assert f"remove {checkpoint.parent} to begin anew" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told(tiny_recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "run"
    command = ["--recipe", str(tiny_recipe), "--data", "digits", "--output", str(output)]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training.train: ") and str(tmp_path / "file") in line
