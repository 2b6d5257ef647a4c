"""Shards whose images are resized once."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.savedmodels.files import exif
from tests.training.shards import record, write_shard
from training import data, prepare
from training.evaluate import open_for
from training.loading.reading import pixels_of
from training.prepare import main, resized
from training.recipe import Recipe
from training.sources import open_source

RNG = np.random.default_rng(0)


def picture(height, width, kind="JPEG", gray=False, **options):
    pixels = RNG.integers(256, size=(height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    pixels[..., 1:] = pixels[..., :1] if gray else pixels[..., 1:]
    content = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(content, kind, **options)
    return content.getvalue()


def decoded(content):
    return np.asarray(pixels_of(tf.constant(content), 3))


def test_larger_images_are_resized_upright():
    content = picture(60, 40, gray=True, exif=exif(6))
    result = resized(content, 16, 95)
    assert result.startswith(b"\xff\xd8")
    expected = Image.fromarray(decoded(content)).resize((24, 16), Image.Resampling.BICUBIC)
    # JPEG steps of quality 95 are 2 to 20 gray levels in a coefficient.
    np.testing.assert_allclose(decoded(result).astype(float), np.asarray(expected), atol=12)
    assert len(resized(content, 16, 30)) < len(result)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_files_of_smaller_images_stay_as_they_are(kind):
    content = picture(16, 30, kind)
    assert resized(content, 16, 95) is content


@pytest.mark.parametrize("kind", ["BMP", "GIF", "WEBP"])
def test_other_smaller_images_become_png_files_without_loss(kind):
    content = picture(9, 12, kind, **({"lossless": True} if kind == "WEBP" else {}))
    result = resized(content, 16, 95)
    assert result.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decoded(result), decoded(content))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_become_png_files_without_loss(channels):
    pixels = RNG.integers(256, size=(6, 8, channels), dtype=np.uint8)
    result = resized(tf.constant(pixels), 8, 95)
    np.testing.assert_array_equal(tf.io.decode_png(result), pixels)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five shards of photographs in two classes: large, small, and one that is damaged."""
    monkeypatch.setattr(prepare, "SHARD_IMAGES", 4)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            path = tmp_path / "set" / split / name
            path.mkdir(parents=True)
            for number in range(count):
                content = picture(30, 20) if number % 2 else picture(12, 9, "PNG")
                (path / f"{number}.jpg").write_bytes(content)
    (tmp_path / "set" / "train" / "cat" / "3.jpg").write_bytes(b"no image")
    return tmp_path / "set"


def run(folder, *options):
    arguments = ["--data", str(folder), "--size", "16", "--output", str(folder.with_name("out"))]
    return main([*arguments, "--processes", "1", *options])


def contents(source, split):
    """Label and pixels of each readable image."""
    examples = source.split(split)
    found = []
    for _, item in examples.examples():
        image, label = examples.read(item)
        try:
            found.append((int(label), decoded(image).tobytes()))
        except tf.errors.InvalidArgumentError:
            continue
    return sorted(found)


def test_the_shards_are_a_source_with_the_same_images(folder, capsys):
    assert run(folder) == 0
    printed = capsys.readouterr().out
    assert "2 classes, images: 12 for training and 4 for testing" in printed
    assert "4 of 4 shards" in printed and "ETA 00:00:00" in printed
    output = folder.with_name("out")
    assert sorted(path.name for path in output.iterdir()) == [
        "classes.json",
        "prepare.json",
        "train-00000-of-00003.tfrecord",
        "train-00001-of-00003.tfrecord",
        "train-00002-of-00003.tfrecord",
        "validation-00000-of-00001.tfrecord",
    ]
    record = json.loads((output / "prepare.json").read_text())
    assert [*record["unreadable"]["train"]] == [str(folder / "train" / "cat" / "3.jpg")]
    source, before = open_source(str(output)), open_source(str(folder))
    assert source.class_names == ("cat", "dog")
    for split, count in (("train", 11), ("test", 4)):
        assert source.num_examples(split) == count
        example = before.split(split)
        expected = []
        for _, item in example.examples():
            image, label = example.read(item)
            if image != b"no image":
                expected.append((int(label), decoded(resized(image.numpy(), 16, 95)).tobytes()))
        assert contents(source, split) == sorted(expected)
    # Every class is in every shard that can hold it: the images are shuffled.
    values = Recipe(input_size=12, batch_size=4, crop="random_resized")
    images, labels = next(iter(data.training_pipeline(source, values)))
    assert images.shape == (4, 12, 12, 3) and labels.shape == (4, 2)

    # A source of shards may be prepared, too: one shard of each.
    again = ["--data", str(output), "--size", "8", "--output", str(folder.with_name("small"))]
    assert main([*again, "--processes", "1"]) == 0
    small = open_source(str(folder.with_name("small")))
    assert small.num_examples("train") == 11
    assert [label for label, _ in contents(small, "train")] == [
        label for label, _ in contents(source, "train")
    ]


def test_a_net_trained_on_shards_is_tested_on_what_was_held_out_when_they_were_written(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(9):
            (tmp_path / "set" / name / f"{number}.png").write_bytes(picture(4, 4, "PNG"))
    folder, output = tmp_path / "set", str(tmp_path / "out")
    assert run(folder) == 0
    source, expected = open_source(output), open_source(str(folder))
    assert source.held_out == expected.held_out == 0.2
    # As `run.json` records it, and as an earlier version did.
    for share in (source.held_out, None):
        record = {"source": output, "validation_split": share}
        for name in (output, str(folder)):
            assert contents(open_for(record, name), "test") == contents(expected, "test")
    with pytest.raises(ValueError, match="must not be given for .*Received: 0.3"):
        open_source(output, None, 0.3)


def test_it_goes_on_where_an_earlier_version_noted_no_share_of_shards(folder):
    output = folder.with_name("out") / "prepare.json"
    assert run(folder, "--validation-split", "0.2") == 0
    values = json.loads(output.read_text())
    output.write_text(json.dumps(values | {"validation_split": None}))
    assert run(folder, "--validation-split", "0.2") == 0
    assert json.loads(output.read_text()) == values


def test_it_goes_on_after_the_shards_that_are_there(folder, capsys, monkeypatch):
    output = folder.with_name("out")
    written = prepare.write_shard

    def stops(source, shard, *arguments):
        if shard.number == 2:
            raise KeyboardInterrupt
        return written(source, shard, *arguments)

    monkeypatch.setattr(prepare, "write_shard", stops)
    assert run(folder) == 130
    assert "goes on" in capsys.readouterr().out
    shard = output / "train-00001-of-00003.tfrecord"
    then = shard.stat().st_mtime_ns
    with pytest.raises(ValueError, match="still missing.*training.prepare"):
        open_source(str(output))
    monkeypatch.setattr(prepare, "write_shard", written)
    assert run(folder, "--quality", "90") == 2
    assert "quality: 95 then, 90 now" in capsys.readouterr().err
    assert run(folder) == 0
    assert "2 of 4 shards are there." in capsys.readouterr().out
    assert shard.stat().st_mtime_ns == then
    assert open_source(str(output)).num_examples("train") == 11
    assert json.loads((output / "prepare.json").read_text())["unreadable"]["train"]


def test_images_of_a_shard_that_nobody_wrote_down_are_counted_again(folder, monkeypatch, capsys):
    """Its shard was written by another process while this one was interrupted."""
    written = prepare.write_shard

    def interrupted(*arguments):
        result = written(*arguments)
        if result.unreadable:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(prepare, "write_shard", interrupted)
    assert run(folder) == 130
    monkeypatch.setattr(prepare, "write_shard", written)
    assert run(folder, "--max-corrupt-images", "0") == 2
    assert "1 unreadable images, but only 0 may be skipped" in capsys.readouterr().err
    assert run(folder) == 0
    record = folder.with_name("out") / "prepare.json"
    values = json.loads(record.read_text())
    assert len(values["unreadable"]["train"]) == 1 and len(values["shards"]) == 4
    # A record of an earlier revision does not name the shards: those that are there count.
    del values["shards"]
    record.write_text(json.dumps(values))
    capsys.readouterr()
    assert run(folder) == 0
    assert "4 of 4 shards are there." in capsys.readouterr().out


def test_a_damaged_record_is_named(tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "labels.txt").write_text("cat\n")
    shard = folder / "train-0.tfrecord"
    write_shard(shard, [record(picture(9, 9), 0)] * 2)
    # The last byte is of the second record's checksum.
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run(folder) == 2
    assert f"prepare: {shard}, record 1 is damaged: its checksum" in capsys.readouterr().err
    assert not [*folder.with_name("out").glob("*train*")]


def test_what_cannot_be_done_is_said(folder, capsys):
    assert run(folder, "--max-corrupt-images", "0") == 2
    assert "1 unreadable images, but only 0 may be skipped" in capsys.readouterr().err
    # It is remembered, though its shard is there now.
    assert run(folder, "--max-corrupt-images", "0") == 2
    capsys.readouterr()
    for options, said in (
        (["--size", "0"], "--size must be 1 or more"),
        (["--quality", "101"], "--quality must be in 1..100"),
        (["--processes", "0"], "--processes must be 1 or more"),
        (["--max-corrupt-images", "-1"], "--max-corrupt-images must be 0 or more. Received: -1"),
        (["--output", str(folder)], "has no prepare.json"),
        (["--data", "nowhere/set"], "nowhere"),
    ):
        assert run(folder, *options) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_write_the_same_shards(folder, tmp_path):
    assert run(folder) == 0
    several = tmp_path / "several"
    assert run(folder, "--processes", "2", "--output", str(several)) == 0
    for path in folder.with_name("out").glob("*.tfrecord"):
        assert (several / path.name).read_bytes() == path.read_bytes()
