"""The versions of a served model: the folders of `NAME/` whose names are numbers."""

from __future__ import annotations

from pathlib import Path


def versions(folder: Path) -> list[int]:
    """List the versions of a served model.

    Args:
        folder: `NAME/`; one that does not exist has no versions.

    Returns:
        Their numbers, rising.
    """
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
