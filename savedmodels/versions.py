"""The versions of a served model: the folders of `NAME/` whose names are numbers."""

from __future__ import annotations

import argparse
from pathlib import Path


def versions(folder: Path) -> list[int]:
    """List the versions of a served model.

    Args:
        folder: `NAME/`; one that does not exist has no versions.

    Returns:
        Their numbers, rising.
    """
    return sorted(int(path.name) for path in _version_folders(folder))


def version_folder(folder: Path) -> Path:
    """Return the folder of a SavedModel, given that or the folder of the served model.

    Args:
        folder: `NAME/VERSION/`, or `NAME/` for its highest version.

    Returns:
        `NAME/VERSION/`.

    Raises:
        FileNotFoundError: If there is no SavedModel.
    """
    if (folder / "saved_model.pb").exists():
        return folder
    folders = _version_folders(folder)
    if not folders:
        raise FileNotFoundError(f"no SavedModel in {folder}: give NAME/ or NAME/VERSION/")
    # Its name may begin with zeros.
    return max(folders, key=lambda path: int(path.name))


def _version_folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name.isdecimal()]


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Let a command name a SavedModel, for `version_folder`."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="DIR",
        help="the SavedModel: NAME/VERSION/, or NAME/ for its highest version",
    )
