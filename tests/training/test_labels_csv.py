"""`labels.csv`: which images have which labels, in which split, and what is wrong with a table."""

import shutil

import numpy as np
import pytest
from PIL import Image

from training.listing.find import find_listing
from training.listing.listing import summary
from training.sources import open_source


def write(root, table, *files):
    """Write a table, and the same small image under the name of every file."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.csv").write_text(table, encoding="utf-8")
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / file, "PNG")


def read(root, *arguments):
    """Return the labels of each image, by split and by name below the set."""
    listing = find_listing(str(root), *arguments)
    rows = listing.label_sets.astype(bool)
    names = np.array(listing.class_names)
    return {
        split: {
            path[len(f"{root}/") :]: names[rows[number]].tolist()
            for path, number in zip(paths, listing.labels[split], strict=True)
        }
        for split, paths in listing.images.items()
    }


SPLIT = """file,labels,split
a.png,cat|night,train
sub/b.png,,train
c.PNG, night ,train
"d, e.png",cat,validation
f.png,,validation
g.png,cat,test
"""
FILES = ["a.png", "sub/b.png", "c.PNG", "d, e.png", "f.png", "g.png"]
EXPECTED = {
    "train": {"a.png": ["cat", "night"], "c.PNG": ["night"], "sub/b.png": []},
    "test": {"d, e.png": ["cat"], "f.png": []},
}


def test_a_column_tells_the_split(tmp_path):
    # As spreadsheets write it: with a byte order mark and Windows' ends of lines.
    write(tmp_path, "\ufeff" + SPLIT.replace("\n", "\r\n"), *FILES, ".hidden.png", ".trash/h.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert read(tmp_path) == EXPECTED
    assert summary(open_source(str(tmp_path))) == (
        f"{tmp_path}: 2 labels, images: 3 for training and 2 for testing. "
        "Left out: 1 images of the split test."
    )


def test_each_split_may_have_a_table_of_its_own(tmp_path):
    table = "labels,file\ncat|night,a.png\n,b.png\ncat|night,c.png\n"
    write(tmp_path / "train", table, "a.png", "b.png", "c.png")
    write(tmp_path / "val", "file,labels\na.png,night\n", "a.png")
    assert read(tmp_path) == {
        "train": {
            **{f"train/{name}.png": ["cat", "night"] for name in "ac"},
            "train/b.png": [],
        },
        "test": {"val/a.png": ["night"]},
    }
    # The labels of a contest's test images are withheld.
    (tmp_path / "val").rename(tmp_path / "test")
    (tmp_path / "test" / "labels.csv").unlink()
    source = open_source(str(tmp_path), None, 0.5)
    assert source.left_out == ("the folder test",)
    write(tmp_path, "file,labels\n")
    with pytest.raises(ValueError, match="Only one of .*labels.csv.*train.*: remove one"):
        find_listing(str(tmp_path))


def test_a_part_of_a_table_without_splits_is_held_out(tmp_path):
    root = tmp_path / "set"
    rare = {3: "rare", 4: "rare|odd"}
    labels = {f"{n}.png": rare.get(n) or ("odd" if n % 2 else "") for n in range(100)}
    table = "".join(f"{file},{each}\n" for file, each in labels.items())
    write(root, f"file,labels\n{table}", *labels)
    before = read(root)
    assert 5 < len(before["test"]) < 40
    # Both sides have images with each label, and some with none.
    for split in before.values():
        assert {tuple(each) for each in split.values()} > {(), ("odd",)}
        assert any("rare" in each for each in split.values())
    source = open_source(str(root))
    assert source.held_out == 0.2
    shutil.move(root, tmp_path / "moved")
    assert read(tmp_path / "moved") == before
    assert set(read(tmp_path / "moved", 1)) == {"test"}


@pytest.mark.parametrize(
    ("table", "files", "said"),
    [
        ("file,label\na.png,x\n", ["a.png"], r"unknown columns \['label'\]. Did you mean 'labels'"),
        ("file;labels\na.png;x\n", ["a.png"], r"\['file;labels'\].*separated by commas"),
        ("labels\nx\n", [], "has no column 'file'"),
        ("file,file,labels\na,a,x\n", [], "has a column twice"),
        ("", [], "has no column 'file'"),
        ("file,labels\n", [], "names no images"),
        ("file,labels\na.png,x\na.png,y\n", ["a.png"], "line 3: 'a.png' is named a second time"),
        ("file,labels\n./a.png,x\na.png,y\n", ["a.png"], "line 3: 'a.png' is named a second time"),
        ("file,labels\nb.png,x\n", ["a.png"], "not there: 'b.png'"),
        ("file,labels\ndogs.png,x\n", ["dogs1.png"], "not there: 'dogs.png'.*mean 'dogs1.png'"),
        (
            "file,labels\na.png,x\n",
            ["a.png", "b/c.png"],
            "without a row in .*: 'b/c.png'. An image",
        ),
        ("file,labels\na.png,x\n", ["a.png", *"1234567"], None),
        ("file,labels\n../a.png,x\n", [], "line 2: a file below .* is expected, not '../a.png'"),
        ("file,labels\n/a.png,x\n", [], "line 2: a file below .* is expected, not '/a.png'"),
        ("file,labels\n,x\n", [], "line 2: a file below .* is expected, not ''"),
        ("file,labels\na.txt,x\n", [], "line 2: 'a.txt' does not end in one of .jpg"),
        ("file,labels\na.png,x||y\n", ["a.png"], r"line 2: one of the labels 'x\|\|y' is empty"),
        ("file,labels\na.png,x|y|x\n", ["a.png"], r"line 2: a label stands twice in 'x\|y\|x'"),
        ("file,labels\na.png,x,y\n", ["a.png"], "line 2: it has another number of cells"),
        ("file,labels\na.png\n", ["a.png"], "line 2: it has another number of cells"),
        ("file,labels,split\na.png,x,tests\n", ["a.png"], "not 'tests'. Did you mean 'test'"),
        ('file,labels\n"a.png,x\n', ["a.png"], "cannot be read as UTF-8 CSV"),
        ("file,labels\na.png,\nb.png,\n", ["a.png", "b.png"], "No image in .* has a label"),
        (
            "file,labels,split\na.png,x,train\nb.png,x|y,test\n",
            ["a.png", "b.png"],
            r"Labels without training images in .*: \['y'\]",
        ),
        (
            "file,labels,split\na.png,Cat,train\nb.png,cat,test\n",
            ["a.png", "b.png"],
            "differ in case or Unicode form only: 'Cat', 'cat'",
        ),
        (
            "file,labels,split\na.png,x,train\nb.png,,test\n",
            ["a.png", "b.png"],
            "No image in the test split of .* has a label",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told(tmp_path, table, files, said):
    write(tmp_path, table, *files)
    if said is None:
        # Files without an image's ending are none.
        assert len(open_source(str(tmp_path), None, 1).class_names) == 1
        return
    with pytest.raises(ValueError, match=said):
        find_listing(str(tmp_path))


def test_other_encodings_are_told(tmp_path):
    (tmp_path / "labels.csv").write_bytes("file,labels\nä.png,x\n".encode("latin-1"))
    with pytest.raises(ValueError, match="labels.csv' cannot be read as UTF-8 CSV"):
        find_listing(str(tmp_path))
    folder = tmp_path / "train"
    write(folder, "file,labels,split\na.png,x,train\n", "a.png")
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(ValueError, match="must have no column 'split': its folder tells it"):
        find_listing(str(tmp_path))


def test_many_files_are_not_all_named(tmp_path):
    rows = "".join(f"{n}.png,x\n" for n in range(8))
    write(tmp_path, f"file,labels\n{rows}")
    with pytest.raises(ValueError, match="'0.png', .*'4.png' and 3 more"):
        find_listing(str(tmp_path))
