"""Which folders are classes, which files their images, and which of them are held out."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from training.evaluate import open_for
from training.listing.find import find_listing
from training.listing.folders import list_class_folders
from training.listing.listing import summary
from training.sources import open_source


def write(root, *paths):
    """Write the same small image under every path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / path, "PNG")


def names(listing):
    return {
        split: [path.rsplit("/", 2)[1:] for path in paths] for split, paths in listing.names.items()
    }


@pytest.fixture
def root(tmp_path):
    write(tmp_path, *(f"{split}/{name}/a.png" for split in ("train", "val") for name in "xy"))
    return tmp_path


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", ".DS_Store", "._x"])
@pytest.mark.parametrize("place", ["", "train", "val", "train/x"])
def test_hidden_folders_are_no_classes(root, hidden, place):
    before = list_class_folders(root)
    write(root / place, f"{hidden}/b.png", f"{hidden}/z/c.png")
    assert list_class_folders(root) == before
    assert before.class_names == ("x", "y")


def test_empty_hidden_folders_are_no_classes(root):
    (root / "train" / ".ipynb_checkpoints").mkdir()
    assert list_class_folders(root).class_names == ("x", "y")


def test_hidden_files_are_no_images(root):
    write(root, "train/x/._a.png", "val/y/.b.png", "train/x/_c.png")
    assert names(list_class_folders(root)) == {
        "train": [["x", "_c.png"], ["x", "a.png"], ["y", "a.png"]],
        "test": [["x", "a.png"], ["y", "a.png"]],
    }


def test_what_is_no_file_is_not_waited_for(root):
    before = names(list_class_folders(root))
    os.mkfifo(root / "train" / "x" / "pipe.png")
    (root / "val" / "y" / "link.png").symlink_to(root / "nothing.png")
    (root / "val" / "y" / "folder.png").mkdir()
    (root / "val" / "y" / os.fsdecode(b"\xff.png")).touch()
    listing = list_class_folders(root)
    assert names(listing) == before
    assert listing.left_out == (
        "2 broken links, pipes or devices",
        "1 with names that are not UTF-8",
    )
    (root / "nothing.png").write_bytes((root / "val" / "y" / "a.png").read_bytes())
    assert ["y", "link.png"] in names(list_class_folders(root))["test"]


def test_folders_in_splits_not_in_use_are_no_classes(root):
    write(root, "test/unknown/a.png", "drafts/z/a.png")
    listing = list_class_folders(root)
    assert listing.class_names == ("x", "y")
    assert set(listing.names) == {"train", "test"}


@pytest.mark.parametrize(
    ("paths", "folders", "said"),
    [
        (["train/Cat/a.png"], [], r"\['Cat'\] in the test split"),
        (["val/Cat/a.png"], [], r"\['Cat'\] in the train split"),
        ([], ["train/owl"], r"\['owl'\] in the train split; \['owl'\] in the test split"),
        ([], ["val/owl", "val/eel"], r"\['eel', 'owl'\] in the train split"),
        (["train/owl/barn/a.png"], [], r"\['owl'\] in the test split"),
        (["train/CAT/a.png", "val/Cat/a.png"], [], "case or Unicode form only: 'CAT', 'Cat'"),
        (
            ["train/caf\u00e9/a.png", "val/cafe\u0301/a.png"],
            [],
            r"only: 'cafe\\u0301', 'caf\\xe9'",
        ),
        (["train/owl/a.xyz", "val/owl/a.png"], [], r": \['owl'\] in the train split\. Every"),
    ],
)
def test_a_class_without_images_in_a_split_is_named(root, paths, folders, said):
    write(root, *paths)
    for folder in folders:
        (root / folder).mkdir()
    with pytest.raises(ValueError, match=f"Classes without images in .*{said}"):
        list_class_folders(root)


def test_one_split_alone_needs_its_own_classes_only(tmp_path):
    write(tmp_path, "test/x/a.png", "test/y/b.png")
    assert names(list_class_folders(tmp_path)) == {"test": [["x", "a.png"], ["y", "b.png"]]}
    (tmp_path / "test" / "z").mkdir()
    with pytest.raises(ValueError, match=r"\['z'\] in the test split"):
        list_class_folders(tmp_path)


def test_every_kind_of_file_that_can_be_decoded_is_an_image(root):
    files = ["b.JPG", "c.Jpeg", "d.gif", "e.BMP", "f.webp", "g.PNG"]
    write(root, *(f"train/x/{file}" for file in files))
    source = open_source(str(root))
    assert source.num_examples("train") == 2 + len(files)
    assert [path.rsplit("/", 1)[1] for path in list_class_folders(root).names["train"]][:7] == [
        "a.png",
        *files,
    ]


def test_sub_folders_belong_to_their_class(root):
    write(root, "train/x/2024/may/c.png", "train/x/2023/b.png", "train/x/.cache/d.png")
    (root / "train/x/2023/loop").symlink_to(root / "train/x")
    assert names(list_class_folders(root))["train"] == [
        ["2023", "b.png"],
        ["may", "c.png"],
        ["x", "a.png"],
        ["y", "a.png"],
    ]


def test_what_is_left_out_is_counted(root):
    write(root, "train/x/._a.png", "train/.hidden/b.png", "train/lone.png", "drafts/z/a.png")
    for file in ("train/x/notes.txt", "val/y/scan.TIFF", "val/y/more.txt", "train/LICENSE"):
        (root / file).write_text("no image")
    assert summary(open_source(str(root))) == (
        f"{root}: 2 classes, images: 2 for training and 2 for testing. Left out: 1 .tiff, 2 .txt, "
        "2 hidden, 1 outside of the folders of classes, 1 without an ending, the folder drafts."
    )


def test_a_folder_whose_name_is_no_text_is_named(root):
    (root / os.fsdecode(b"old\xff")).mkdir()
    left_out = list_class_folders(root).left_out
    assert left_out == (r"the folder 'old\udcff'",)
    assert left_out[0].encode()


@pytest.fixture
def unsplit(tmp_path):
    write(tmp_path, *(f"{name}/{place}.png" for name in "xy" for place in range(50)))
    return tmp_path


def sides(root, *arguments):
    """Return on which side each image is, by its path within the set."""
    listing = find_listing(str(root), *arguments)
    start = len(f"{root}/")
    return {path[start:]: side for side, paths in listing.names.items() for path in paths}


def test_a_part_of_a_set_without_a_split_is_held_out(unsplit):
    before = sides(unsplit)
    for name in "xy":
        tested = [path for path, side in before.items() if side == "test" and path[0] == name]
        # A fifth of 50, give or take three deviations of a binomial.
        assert 2 <= len(tested) <= 18
    source = open_source(str(unsplit))
    assert source.held_out == 0.2
    assert "(20% held out, by the hashes of their names)." in summary(source)
    # More images, fewer and another place: every image stays on its side.
    write(unsplit, *(f"{name}/new {place}.png" for name in "xyz" for place in range(20)))
    (unsplit / "x" / "7.png").unlink()
    shutil.move(unsplit, unsplit.with_name("moved"))
    after = sides(unsplit.with_name("moved"))
    assert len(after) == 159
    assert all(after[path] == side for path, side in before.items() if path != "x/7.png")


def test_the_share_may_be_chosen(unsplit):
    half, fifth = sides(unsplit, 0.5), sides(unsplit, 0.2)
    assert 20 < list(half.values()).count("test") < 80
    # Those of a smaller share are among those of a larger one.
    assert all(half[path] == "test" for path, side in fifth.items() if side == "test")
    assert {*sides(unsplit, 1).values()} == {"test"}
    assert "(there is no split: all of them)" in summary(open_source(str(unsplit), None, 1))
    for share in (0, -0.5, 1.5):
        with pytest.raises(ValueError, match=rf"in \(0, 1\]. Received: {share}"):
            find_listing(str(unsplit), share)


def test_classes_of_few_images_are_on_both_sides(tmp_path):
    write(tmp_path, *(f"{number}/{place}.png" for number in range(9) for place in range(2)))
    listing = find_listing(str(tmp_path))
    assert listing.labels["train"] == listing.labels["test"] == [*range(9)]
    write(tmp_path, "single/a.png")
    with pytest.raises(ValueError, match=r"\['single'\] in the test split. .*two images or more"):
        find_listing(str(tmp_path))


def test_training_images_are_held_out_only_where_it_is_asked_for(unsplit):
    for name in "xy":
        (unsplit / "train").mkdir(exist_ok=True)
        (unsplit / name).rename(unsplit / "train" / name)
    with pytest.raises(ValueError, match="no 'test' split.*--validation-split 0.2"):
        open_source(str(unsplit)).split("test")
    assert {*sides(unsplit, 0.2).values()} == {"train", "test"}
    (unsplit / "train").rename(unsplit / "test")
    with pytest.raises(ValueError, match="has a test split only.*validation_split=0.2"):
        find_listing(str(unsplit), 0.2)
    with pytest.raises(ValueError, match="CIFAR's and .npz files only"):
        open_source("cifar10", None, 0.2)


def test_a_test_split_is_set_aside_where_training_images_are_held_out(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, *(f"{split}/{name}/{n}.png" for name in "xy" for n in range(9)))
    own, held_out = find_listing(str(tmp_path)), find_listing(str(tmp_path), 0.3)
    assert len(own.images["test"]) == 18 and own.held_out is None
    train = {*own.images["train"]}
    assert {*held_out.images["train"]} | {*held_out.images["test"]} == train
    assert held_out.held_out == 0.3 and "18 images of its own test split" in held_out.left_out
    record = {"source": str(tmp_path), "validation_split": 0.3}
    assert open_for(record, str(tmp_path)).num_examples("test") == len(held_out.images["test"])
    assert open_for(record, str(tmp_path), None, 0).num_examples("test") == 18


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["Train/x/a.png", "Test/x/a.png"], "images lie deeper.*T[a-z]+/x"),
        (["set/x/a.png", "set/y/a.png"], "no train and test, and images lie deeper"),
        (["x/a.png", "x/b.png"], "Only one folder in .* holds images. Expected train/CLASS"),
        (["x/a.png", "y/.a.png"], r"without images in .*\['y'\]"),
        (["x/a.txt"], r"No images found in .*It holds: \['x'\]"),
    ],
)
def test_a_folder_that_may_be_something_else_is_refused(tmp_path, paths, said):
    write(tmp_path, *paths)
    with pytest.raises(ValueError, match=said):
        find_listing(str(tmp_path))


def test_arrays_are_held_out_by_their_pixels(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(60, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(60) % 2)
    listing = find_listing(str(tmp_path / "set.npz"))
    assert listing.held_out == 0.2
    tested = {image.tobytes() for image in listing.images["test"]}
    assert 3 < len(tested) < 25
    np.savez(tmp_path / "set.npz", images=images[::-1], labels=(np.arange(60) % 2)[::-1])
    again = find_listing(str(tmp_path / "set.npz"))
    assert {image.tobytes() for image in again.images["test"]} == tested
    assert len(again.images["train"]) + len(tested) == 60
