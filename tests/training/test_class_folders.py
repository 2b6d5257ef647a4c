"""Which folders are classes, and which files their images."""

import numpy as np
import pytest
from PIL import Image

from training.listing.folders import list_class_folders


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
        (["train/owl/barn/a.png"], [], r"\['owl'\] in the train split"),
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
