"""Image files with several labels each, which a table names: `labels.csv`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from keras_preact.messages import did_you_mean
from training.listing.folders import IMAGE_FILES, is_hidden, is_image
from training.listing.listing import TEST_SPLITS, UNSPLIT, Listing, check_label_sets, renamed

TABLE = "labels.csv"
SEPARATOR = "|"
COLUMNS = ("file", "labels", "split")
_SPLITS = ("train", *TEST_SPLITS)
_EXPECTED = (
    f"Expected the columns file and labels, and perhaps split, separated by commas; several labels "
    f"of a file are separated by {SEPARATOR!r}, and a file without a label has an empty cell"
)


@dataclass(frozen=True)
class _Row:
    """A row of a table.

    Attributes:
        path: Path of the image.
        labels: Its labels, perhaps none.
        split: The split that the table tells; `UNSPLIT` where it has no such column.
    """

    path: str
    labels: frozenset[str]
    split: str


def find_labeled_files(root: Path) -> Listing | None:
    """List image files with their labels if a folder holds a table of them.

    The table is `root/labels.csv`, which may tell the splits in a column, or there is one in each
    of `root/train` and `root/test`. Paths in it are relative to its own folder.

    Args:
        root: The folder; `test` may also be called one of `TEST_SPLITS`.

    Returns:
        The listing, in alphabetical order; None without a table. Of a table without splits, its
        only split is `UNSPLIT`.

    Raises:
        ValueError: If a table has other columns, a row is malformed, a file is named twice, is
            missing, or has no row, or a label has no image to learn it from.
    """
    tables = {split: root / split / TABLE for split in _SPLITS}
    tables = {split: path for split, path in tables.items() if path.is_file()}
    if (root / TABLE).is_file():
        if tables:
            both = f"{str(root / TABLE)!r} and {str(next(iter(tables.values())))!r}"
            raise ValueError(f"Only one of {both} can tell the labels: remove one.")
        return _listing(root, _by_split(_rows(root / TABLE)), ())
    if not tables:
        return None
    found = {split: _rows(path, split) for split, path in tables.items()}
    folders = [split for split in _SPLITS if split not in found and (root / split).is_dir()]
    return _listing(root, found, [f"the folder {folder}" for folder in folders])


def _by_split(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
    found: dict[str, list[_Row]] = {}
    for row in rows:
        found.setdefault(row.split, []).append(row)
    return found


def _listing(root: Path, found: Mapping[str, Sequence[_Row]], left_out: Sequence[str]) -> Listing:
    used = renamed(found) or found
    splits = {split: sorted(rows, key=lambda row: row.path) for split, rows in used.items()}
    class_names = sorted({name for rows in splits.values() for row in rows for name in row.labels})
    numbers: dict[frozenset[str], int] = {}
    labels = {
        split: [numbers.setdefault(row.labels, len(numbers)) for row in rows]
        for split, rows in splits.items()
    }
    label_sets = np.array([[name in each for name in class_names] for each in numbers], np.uint8)
    if UNSPLIT not in splits:
        check_label_sets(str(root), class_names, labels, label_sets)
    elif not class_names:
        raise ValueError(f"No image in {str(root)!r} has a label. {_EXPECTED}.")
    unused = [
        f"{len(rows)} images of the split {split}"
        for split, rows in found.items()
        if not any(rows is each for each in used.values())
    ]
    paths = {split: [row.path for row in rows] for split, rows in splits.items()}
    return Listing(
        tuple(class_names),
        images=paths,
        names=paths,
        labels=labels,
        left_out=(*left_out, *unused),
        label_sets=label_sets,
    )


def _rows(table: Path, split: str | None = None) -> list[_Row]:
    """Read a table, and compare it with the files in its folder.

    Args:
        table: The file.
        split: The split of all images; by default that of the column, or `UNSPLIT`.
    """
    rows = {}
    for line, cells in _cells(table):
        if split is not None and "split" in cells:
            raise ValueError(f"{str(table)!r} must have no column 'split': its folder tells it.")
        name = _file_name(table, line, cells["file"])
        if name in rows:
            raise _wrong(table, line, f"{name!r} is named a second time")
        rows[name] = _Row(
            str(table.parent / name),
            _labels(table, line, cells["labels"]),
            split or _split(table, line, cells),
        )
    if not rows:
        raise ValueError(f"{str(table)!r} names no images. {_EXPECTED}.")
    there = set(_images_below(table.parent))
    missing = [name for name in rows if not (table.parent / name).is_file()]
    if missing:
        hint = did_you_mean(missing[0], there, quote="'")
        raise ValueError(f"{str(table)!r} names files that are not there: {_some(missing)}.{hint}")
    if without := sorted(there - rows.keys()):
        raise ValueError(
            f"Images without a row in {str(table)!r}: {_some(without)}. An image without any label "
            "has a row with an empty cell; remove the files of others."
        )
    return list(rows.values())


def _cells(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each line, and its cells by column."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_columns(table, list(reader.fieldnames or ()))
            for cells in reader:
                if None in cells or None in cells.values():
                    raise _wrong(
                        table,
                        reader.line_num,
                        "it has another number of cells than there are columns; a cell with a "
                        "comma stands in double quotes",
                    )
                yield reader.line_num, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{str(table)!r} cannot be read as UTF-8 CSV: {error}") from error


def _check_columns(table: Path, columns: Sequence[str]) -> None:
    if unknown := [name for name in columns if name not in COLUMNS]:
        hint = did_you_mean(unknown[0], COLUMNS, quote="'")
        raise ValueError(f"{str(table)!r} has unknown columns {unknown}.{hint} {_EXPECTED}.")
    if missing := [name for name in COLUMNS[:2] if name not in columns]:
        raise ValueError(f"{str(table)!r} has no column {missing[0]!r}. {_EXPECTED}.")
    if len({*columns}) < len(columns):
        raise ValueError(f"{str(table)!r} has a column twice: {list(columns)}. {_EXPECTED}.")


def _file_name(table: Path, line: int, cell: str) -> str:
    path = PurePosixPath(cell.strip())
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise _wrong(table, line, f"a file below {str(table.parent)!r} is expected, not {cell!r}")
    if not is_image(path.name):
        raise _wrong(table, line, f"{cell!r} does not end in one of {', '.join(IMAGE_FILES)}")
    return path.as_posix()


def _labels(table: Path, line: int, cell: str) -> frozenset[str]:
    if not cell.strip():
        return frozenset()
    labels = [label.strip() for label in cell.split(SEPARATOR)]
    if not all(labels):
        raise _wrong(table, line, f"one of the labels {cell!r} is empty")
    if len({*labels}) < len(labels):
        raise _wrong(table, line, f"a label stands twice in {cell!r}")
    return frozenset(labels)


def _split(table: Path, line: int, cells: Mapping[str, str]) -> str:
    if "split" not in cells:
        return UNSPLIT
    split = cells["split"].strip()
    if split not in _SPLITS:
        hint = did_you_mean(split, _SPLITS, quote="'")
        raise _wrong(table, line, f"the split must be one of {list(_SPLITS)}, not {split!r}.{hint}")
    return split


def _wrong(table: Path, line: int, reason: str) -> ValueError:
    return ValueError(f"{str(table)!r}, line {line}: {reason}")


def _images_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all images that are not hidden, relative to a folder."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            if is_image(name) and not is_hidden(name):
                yield Path(place, name).relative_to(folder).as_posix()


def _some(names: Sequence[str]) -> str:
    """Name up to five, and say how many there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
