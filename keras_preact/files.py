"""Files that are written whole or not at all, and named where they cannot be read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Start of the name of a file that is not yet complete.
PARTIAL = "partial-"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file under a temporary name, and rename it once it is complete.

    A process killed at any moment leaves either the old file or the new one.

    Args:
        path: Where the file ends up; an older one there is replaced.

    Yields:
        The temporary path to write to, in the same folder and with the same ending.
    """
    path = Path(path)
    partial = path.with_name(PARTIAL + path.name)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.filename:
            raise
        # That of a full disk does not say which.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        # What is left of it would keep a full disk full.
        partial.unlink(missing_ok=True)
        raise


def locked(path: Path) -> contextlib.AbstractContextManager:
    """Return a lock on a file that several processes may write, with `.lock` at its name's end.

    Args:
        path: The file, which need not exist, in a folder that does.
    """
    # Only what is downloaded or decoded needs it.
    import filelock

    return filelock.FileLock(path.with_name(path.name + ".lock"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Read a file of JSON.

    Args:
        path: The file.

    Returns:
        Its value.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is damaged. The message names it.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no JSON: {error}") from error


def read_text(path: str | os.PathLike) -> str:
    """Read a file of text in UTF-8, with or without a mark of it; see `read_json` for errors."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged, or not encoded as UTF-8: {error}") from error


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a folder under a temporary name, and rename it once it is complete.

    After an error, everything that was written is removed, with the folders made for it.

    Args:
        path: Where the folder ends up. It must not exist.

    Yields:
        A path beside it that does not exist yet.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            # One in which another process has written meanwhile stays.
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
