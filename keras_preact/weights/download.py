"""Files of the catalogue: those that ship with the package, and downloads, each done once.

`keras.utils.get_file` writes under the final name and starts again after an interruption, and
`huggingface_hub` (2.4) deletes what an interrupted download left and checks no hash of what it got
over HTTP. The files here have up to 4 GB. So:

- a file is written under a partial name, which an interrupted download leaves and the next one
  goes on from, and gets its final name once it is whole and checked;
- its hash is compared with the catalogue's, or else with the one that the server sends: SHA-256
  in Hugging Face's `X-Linked-ETag`, MD5 in Google Storage's `x-goog-hash`. Where neither is known,
  the content is checked before it gets its final name;
- a lock file makes other processes wait for the one that downloads.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, BinaryIO

import keras

from keras_preact.files import PARTIAL, locked
from keras_preact.version import __version__
from keras_preact.weights.catalogue import Entry

SHIPPED = Path(__file__).parent.parent / "data"

_CHUNK = 2**20
_TIMEOUT_SECONDS = 30
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
)


class DownloadError(OSError):
    """A file of the catalogue cannot be downloaded, or is not the one that its source published."""


def cache_folder() -> Path:
    """Return the folder of downloaded weights: below `$KERAS_HOME`, or `~/.keras`."""
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    return Path(home).expanduser() / "models" / "keras_preact"


def cached_path(entry: Entry) -> Path:
    """Return the path at which the file of an entry is, will be, or can be put by hand."""
    if entry.url is None:
        return SHIPPED / entry.file_name
    return cache_folder() / entry.name / entry.file_name


def fetch(entry: Entry, check: Callable[[Path], None]) -> Path:
    """Return the path of an entry's file, downloaded unless it ships or is there already.

    Args:
        entry: The entry.
        check: Raises a ValueError if the file it is given does not hold the entry's weights. Asked
            only of a download whose hash neither the catalogue nor the server knows.

    Returns:
        The path.

    Raises:
        DownloadError: If the file cannot be downloaded, cannot be written, or is not the published
            one. What is left is at most a partial file, under another name.
    """
    path = cached_path(entry)
    if path.is_file():
        _check_cached(path, entry)
        return path
    if entry.url is None:
        raise DownloadError(f"There is no {str(path)!r}. {repair_hint(entry)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            if not path.is_file():
                _download(entry, path, check)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{str(path)!r} cannot be written: {error}. Set the environment variable KERAS_HOME to "
            f"a folder that can, or put the file of {entry.url} there by hand."
        ) from error
    return path


def _check_cached(path: Path, entry: Entry) -> None:
    if entry.hash and not _has_hash(path, entry.hash):
        raise DownloadError(
            f"{str(path)!r} is not the file that was published as {entry.name!r}: its hash is not "
            f"{entry.hash}. {repair_hint(entry)}"
        )


def repair_hint(entry: Entry) -> str:
    """Return a sentence about how to repair a damaged file of an entry."""
    if entry.url is None:
        return "It ships with keras_preact: install the package again."
    return f"If it is damaged, delete it, and it is downloaded again from {entry.url}."


@dataclass(frozen=True)
class _Published:
    """Size and hash of a file, according to its server.

    Attributes:
        size: In bytes, if known.
        hash: As in `Entry.hash`, if known.
    """

    size: int | None
    hash: str | None


def _download(entry: Entry, path: Path, check: Callable[[Path], None]) -> None:
    partial = path.with_name(PARTIAL + path.name)
    resumed = partial.exists()
    published = _transfer(entry, path, partial)
    problem = _problem(partial, entry, published, check)
    if problem and resumed:
        # The beginning may be of another version of the file.
        partial.unlink()
        problem = _problem(partial, entry, _transfer(entry, path, partial), check)
    if problem:
        partial.unlink()
        raise DownloadError(
            f"What {entry.url} sent is not what was published as {entry.name!r}: {problem}. It has "
            f"been deleted. Try again, or put the right file at {str(path)!r}."
        )
    os.replace(partial, path)


def _problem(
    partial: Path, entry: Entry, published: _Published, check: Callable[[Path], None]
) -> str | None:
    """Return the fault of a complete download, if there is one."""
    expected = entry.hash or published.hash
    if expected:
        if not _has_hash(partial, expected):
            return f"its hash is not {expected}"
        return None
    try:
        check(partial)
    except ValueError as error:
        return str(error)
    return None


def _transfer(entry: Entry, path: Path, partial: Path) -> _Published:
    """Bring a partial file to its full size, going on as long as every connection brings some."""
    if keras.config.is_interactive_logging_enabled():
        print(f"Downloading {entry.name} from {entry.url}", flush=True)
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            published = _receive(entry, partial, before)
        except _NETWORK_ERRORS as error:
            raise _unreachable(entry, path, f"{error}") from error
        size = partial.stat().st_size
        if published.size is None or size == published.size:
            return published
        if size > published.size:
            partial.unlink()
        elif size <= before:
            raise _unreachable(
                entry, path, f"the connection ended after {size:,} of {published.size:,} bytes"
            )


def _unreachable(entry: Entry, path: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"{entry.name!r} could not be downloaded from {entry.url}: {reason}. The same "
        "call goes on from where it stopped. Without a connection, put the file at "
        f"{str(path)!r} by hand."
    )


def _receive(entry: Entry, partial: Path, offset: int) -> _Published:
    """Append the data of one connection to a partial file."""
    # The files of other entries are shipped.
    assert entry.url is not None
    redirects = _Redirects()
    request = urllib.request.Request(
        entry.url, headers={"User-Agent": f"keras_preact/{__version__}"}
    )
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    opener = urllib.request.build_opener(redirects)
    try:
        response = opener.open(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Nothing is left to send, or the file has become shorter.
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        return _Published(
            size=int(total) if total.isdecimal() else -1,
            hash=_hash([*redirects.headers, error.headers]),
        )
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            offset = 0
        length = response.headers.get("Content-Length")
        size = offset + int(length) if length else None
        with open(partial, "ab" if offset else "wb") as file:
            _copy(response, file, offset, size)
    return _Published(size, _hash([*redirects.headers, response.headers]))


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, offset: int, size: int | None
) -> None:
    """Write the data of a connection until it ends or breaks, with a progress bar."""
    progress = keras.utils.Progbar(size)
    while True:
        try:
            # `read` would lose what came of a chunk whose end does not come.
            chunk = response.read1(_CHUNK)
        except _NETWORK_ERRORS:
            if size is None:
                raise
            return
        if not chunk:
            return
        file.write(chunk)
        offset += len(chunk)
        progress.update(offset)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the headers of the answers that redirect: Hugging Face's hash is in the first."""

    def __init__(self) -> None:
        self.headers: list[Message] = []

    def redirect_request(
        self,
        request: urllib.request.Request,
        file: IO[bytes],
        code: int,
        message: str,
        headers: http.client.HTTPMessage,
        url: str,
    ) -> urllib.request.Request | None:
        self.headers.append(headers)
        return super().redirect_request(request, file, code, message, headers, url)


def _hash(answers: list[Message]) -> str | None:
    """Return the hash that a server sends with a file."""
    for headers in answers:
        digest = headers.get("X-Linked-ETag", "").strip('"')
        if len(digest) == 64:
            return f"sha256:{digest}"
        for each in ",".join(headers.get_all("x-goog-hash", [])).split(","):
            kind, _, encoded = each.strip().partition("=")
            if kind == "md5":
                return f"md5:{base64.b64decode(encoded).hex()}"
    return None


def _has_hash(path: Path, expected: str) -> bool:
    algorithm, _, digest = expected.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == digest
