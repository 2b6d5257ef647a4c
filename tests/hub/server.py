"""A server that speaks what `huggingface_hub` needs of the Hugging Face Hub, on this machine.

Repositories are kept in memory, as git would: files per revision, and large files apart, by their
SHA-256.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tests.servers import serving

TOKEN = "hf_of_the_test"
# A file of this many bytes or more is large.
LARGE = 10_000


@dataclass
class Hub:
    """State of the server.

    Attributes:
        url: Its address.
        files: By repository, then by revision, then by path, the content of a file.
        large: Large files by SHA-256.
        uploads: SHA-256 of each large file that was sent, in order.
        private: By repository, whether it was made private.
    """

    url: str = ""
    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)

    def commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> str:
        """Apply the operations of a commit; return its hash."""
        files = self.files[repo].setdefault(revision, {})
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        return self.hash(repo, revision)

    def hash(self, repo: str, revision: str) -> str:
        """Return the hash of a revision."""
        content = sorted((k, hashlib.sha256(v).hexdigest()) for k, v in self._of(repo, revision))
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def _of(self, repo: str, revision: str):
        return self.files[repo][revision].items()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for pattern, answer in _POSTS.items():
            if match := re.fullmatch(pattern, self.path.partition("?")[0]):
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    self._json({"error": "Invalid token"}, HTTPStatus.UNAUTHORIZED)
                else:
                    answer(self, content, **match.groupdict())
                return
        self._json({"error": "not found"}, HTTPStatus.NOT_FOUND)

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(content).hexdigest()
        if self.path != f"/lfs/{digest}":
            self._json({"error": "wrong content"}, HTTPStatus.BAD_REQUEST)
            return
        self.hub.large[digest] = content
        self.hub.uploads.append(digest)
        self._json({})

    def do_HEAD(self):
        self._resolve(send=False)

    def do_GET(self):
        self._resolve(send=True)

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def _resolve(self, send: bool):
        match = re.fullmatch(
            r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.path
        )
        if not match or match["repo"] not in self.hub.files:
            self._missing("RepoNotFound")
            return
        revisions = self.hub.files[match["repo"]]
        by_hash = {self.hub.hash(match["repo"], name): name for name in revisions}
        revision = by_hash.get(match["revision"], match["revision"])
        if revision not in revisions:
            self._missing("RevisionNotFound")
            return
        commit = self.hub.hash(match["repo"], revision)
        content = revisions[revision].get(match["path"])
        if content is None:
            self._missing("EntryNotFound", commit)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _missing(self, code: str, commit: str | None = None):
        self.send_response(HTTPStatus.NOT_FOUND)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def create(self, content: bytes):
        values = json.loads(content)
        repo = f"{values['organization']}/{values['name']}"
        status = HTTPStatus.CONFLICT if repo in self.hub.files else HTTPStatus.OK
        self.hub.files.setdefault(repo, {"main": {}})
        self.hub.private.setdefault(repo, values.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{repo}"}, status)

    def validate_yaml(self, content: bytes):
        card = json.loads(content)["content"]
        errors = [] if card.startswith("---\n") else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []})

    def preupload(self, content: bytes, repo: str, revision: str):
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["size"] >= LARGE else "regular",
                "shouldIgnore": False,
            }
            for each in json.loads(content)["files"]
        ]
        self._json({"files": files})

    def batch(self, content: bytes, repo: str):
        objects = []
        for each in json.loads(content)["objects"]:
            known = each["oid"] in self.hub.large
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify"},
            }
            objects.append(each if known else {**each, "actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def verify(self, content: bytes):
        values = json.loads(content)
        stored = self.hub.large.get(values["oid"], b"")
        whole = len(stored) == values["size"]
        self._json({}, HTTPStatus.OK if whole else HTTPStatus.BAD_REQUEST)

    def commit(self, content: bytes, repo: str, revision: str):
        commit = self.hub.commit(
            repo, revision, [json.loads(each) for each in content.splitlines()]
        )
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _json(self, values: dict, status: HTTPStatus = HTTPStatus.OK):
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_POSTS = {
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": _Handler.validate_yaml,
    f"/api/models/{_REPO}/preupload/(?P<revision>.+)": _Handler.preupload,
    rf"/{_REPO}\.git/info/lfs/objects/batch": _Handler.batch,
    "/verify": _Handler.verify,
    f"/api/models/{_REPO}/commit/(?P<revision>.+)": _Handler.commit,
}


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Run a server without repositories."""
    with serving(_Handler) as httpd:
        httpd.hub = Hub(url=f"http://127.0.0.1:{httpd.server_port}")
        yield httpd.hub
