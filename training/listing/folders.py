"""Image files in class folders."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.listing.listing import TEST_SPLITS, UNSPLIT, Listing, check_classes, renamed

# Endings of the files that `keras_preact.preprocessing.decode_image` reads, in either case.
IMAGE_FILES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
_ADVICE = (
    f"Every class needs images, which end in one of {', '.join(IMAGE_FILES)}, in each split; "
    "remove the folders of other classes."
)


def list_class_folders(root: Path) -> Listing:
    """List image files in class folders.

    They are `root/{train,test}/{class}/*.jpg`, or, without splits, `root/{class}/*.jpg`. Where
    there are splits, folders in the folder of a class belong to that class. Hidden files and
    folders, which file managers, archives and notebooks leave, are skipped.

    Args:
        root: The folder; `test` may also be called one of `TEST_SPLITS`.

    Returns:
        The listing, of paths in alphabetical order. Of a folder without splits, its only split is
        `UNSPLIT`.

    Raises:
        ValueError: If there are none, a class has none in one of the splits, or a folder without
            splits has folders in those of classes.
    """
    folders = _folders(root)
    named = [folder for folder in folders if folder in ("train", *TEST_SPLITS)]
    splits = {split: _Scan(root / split) for split in named}
    splits = renamed({split: scan for split, scan in splits.items() if scan.num_images})
    in_use = [scan.root.name for scan in splits.values()]
    if not splits:
        splits = {UNSPLIT: _Scan(root)}
        in_use = folders
        _check_unsplit(root, splits[UNSPLIT])
    class_names = tuple(sorted({name for scan in splits.values() for name in scan.images}))
    numbers = {name: number for number, name in enumerate(class_names)}
    ordered = {
        split: sorted(
            (path, numbers[name]) for name, paths in scan.images.items() for path in paths
        )
        for split, scan in splits.items()
    }
    paths = {split: [path for path, _ in examples] for split, examples in ordered.items()}
    labels = {split: [label for _, label in examples] for split, examples in ordered.items()}
    check_classes(str(root), class_names, labels, _ADVICE)
    unused = [f"the folder {_printable(name)}" for name in folders if name not in in_use]
    if UNSPLIT not in splits and (beside := _num_files_in(root)):
        unused.append(f"{beside} files beside the folders of the splits")
    return Listing(
        class_names,
        images=paths,
        names=paths,
        labels=labels,
        left_out=(*_in_words(splits.values()), *unused),
    )


_OTHER_NAMES = "with names that are not UTF-8"


class _Scan:
    """The images of a folder of class folders, and what else is in it.

    Attributes:
        root: The folder.
        images: Paths of the images of each class.
        left_out: How many files there are of each kind that is left out.
        nested: A folder with images in the folder of a class, if there is one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: dict[str, list[str]] = {}
        self.left_out: collections.Counter[str] = collections.Counter()
        self.nested: str | None = None
        for entry in os.scandir(root):
            if is_hidden(entry.name):
                self.left_out["hidden"] += 1
            elif not _is_utf8(entry.name):
                self.left_out[_OTHER_NAMES] += 1
            elif entry.is_dir():
                self.images[entry.name] = list(self._walk(entry.path, {os.path.realpath(root)}))
            else:
                kind = "outside of the folders of classes"
                self.left_out[kind if is_image(entry.name) else _ending(entry.name)] += 1

    @property
    def num_images(self) -> int:
        """Number of images of all classes."""
        return sum(map(len, self.images.values()))

    def _walk(self, folder: str, above: set[str]) -> Iterator[str]:
        """Yield the paths of the images in a folder, and count the other files.

        Args:
            folder: The folder.
            above: The folders that it lies in: a link to one of them is not followed.
        """
        above = above | {os.path.realpath(folder)}
        for entry in os.scandir(folder):
            if is_hidden(entry.name):
                self.left_out["hidden"] += 1
            elif not _is_utf8(entry.name):
                self.left_out[_OTHER_NAMES] += 1
            elif entry.is_dir():
                if os.path.realpath(entry.path) not in above:
                    yield from self._walk(entry.path, above)
            elif not entry.is_file():
                # To read a pipe would wait for ever.
                self.left_out["broken links, pipes or devices"] += 1
            elif is_image(entry.name):
                if len(above) > 2:
                    self.nested = folder
                yield entry.path
            else:
                self.left_out[_ending(entry.name)] += 1


def _check_unsplit(root: Path, scan: _Scan) -> None:
    """Check that a folder without `train` and `test` can be one of class folders.

    Raises:
        ValueError: If it has no images, or those of one class only, or if folders lie in those of
            classes: whether they are classes or splits, nothing tells.
    """
    expected = (
        f"Expected train/CLASS/*.jpg (or {', '.join(IMAGE_FILES[1:])}) and test/CLASS/*.jpg in it, "
        f"where test may be called one of {list(TEST_SPLITS)}; or CLASS/*.jpg, without a split; or "
        f"TFRecord shards. It holds: {sorted(os.listdir(root))[:10]}"
    )
    if not scan.num_images:
        raise ValueError(f"No images found in {str(root)!r}. {expected}")
    if scan.nested:
        raise ValueError(
            f"{str(root)!r} has no train and test, and images lie deeper than in the folders of "
            f"classes: in {scan.nested!r}. {expected}"
        )
    if len(scan.images) == 1:
        raise ValueError(f"Only one folder in {str(root)!r} holds images. {expected}")


def _in_words(scans: Iterable[_Scan]) -> Iterator[str]:
    """Yield how many files of each kind were left out."""
    total = sum((scan.left_out for scan in scans), collections.Counter())
    for kind, count in sorted(total.items()):
        yield f"{count} {kind}"


def _folders(root: Path) -> list[str]:
    return sorted(
        each.name for each in os.scandir(root) if each.is_dir() and not is_hidden(each.name)
    )


def _num_files_in(root: Path) -> int:
    """Return the number of files in a folder itself that are not hidden."""
    return sum(not each.is_dir() and not is_hidden(each.name) for each in os.scandir(root))


def is_image(name: str) -> bool:
    """Return whether the name of a file is that of an image."""
    return name.lower().endswith(IMAGE_FILES)


def _is_utf8(name: str) -> bool:
    """Return whether the bytes of a name are text, which TensorFlow takes only."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    """Return a name as it is, or, where its bytes are no text, with escapes."""
    return name if _is_utf8(name) else ascii(name)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an ending"


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden. macOS writes `__MACOSX` into archives."""
    return name.startswith(".") or name == "__MACOSX"
