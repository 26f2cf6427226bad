"""A stand-in for the Hugging Face Hub: as much of its HTTP interface as uploading and loading takes, kept in memory.

It is for what would otherwise need an account and a network. Requests need the token `hf_test`, whose owner is the
user `lab`; repositories of others are refused.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.helpers.http_thread import answering

TOKEN, USER = "hf_test", "lab"
# Kept as large files, as the Hub's own .gitattributes has it for these.
LARGE = (".safetensors", ".parquet", ".bin", ".png", ".zip")


@dataclass
class Repository:
    """A repository's present state and its commits' messages."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1("\n".join(self.commits).encode()).hexdigest()


@dataclass
class Hub:
    """What the stand-in holds: repositories by type (`model`, `dataset`) and id, and large files by SHA-256."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class _Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        try:
            self._route(path, body)
        except _Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            self._answer({"error": str(refusal)}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def _route(self, path: str, body: bytes) -> None:
        routes = {
            r"POST /api/validate-yaml": self._validate,
            r"GET /api/whoami-v2": self._whoami,
            r"POST /api/repos/create": self._create,
            r"POST /api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/preupload/main": self._preupload,
            r"POST /api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/commit/main": self._commit,
            r"GET /api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/tree/[^/]+(/(?P<below>.*))?": self._tree,
            r"POST /api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/paths-info/[^/]+": self._paths,
            r"GET /api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)(/revision/[^/]+)?": self._info,
            r"POST /(?P<prefix>datasets/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch": self._lfs_batch,
            r"PUT /lfs/(?P<oid>\w+)": self._lfs_put,
            r"(GET|HEAD) /(?P<prefix>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)": self._file,
        }
        for pattern, route in routes.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return route(body, **{name: text for name, text in found.groupdict().items() if text is not None})
        raise _Refusal(404, f"the stand-in knows no {self.command} {path}")

    def _answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _login(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refusal(401, "Invalid credentials in Authorization header")

    def _repository(self, kind: str, repo: str) -> Repository:
        if (kind, repo) not in self.hub.repositories:
            raise _Refusal(404, "Repository not found", "RepoNotFound")
        return self.hub.repositories[kind, repo]

    def _validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors = [] if found and isinstance(yaml.safe_load(found[1]), dict) else [{"message": "no metadata"}]
        self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _whoami(self, body: bytes) -> None:
        self._login()
        self._answer({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def _create(self, body: bytes) -> None:
        self._login()
        asked = json.loads(body)
        if asked["organization"] not in (None, USER):
            raise _Refusal(403, f"You don't have the rights to create a repository under {asked['organization']}")
        kind, repo = asked.get("type") or "model", f"{USER}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        if (kind, repo) in self.hub.repositories:
            return self._answer({"error": "You already created this repo", "url": url}, 409)
        self.hub.repositories[kind, repo] = Repository(asked.get("visibility") == "private", commits=["initial"])
        self._answer({"url": url, "name": repo, "id": repo})

    def _preupload(self, body: bytes, kind: str, repo: str) -> None:
        self._login()
        self._repository(kind, repo)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer({"files": files})

    def _lfs_batch(self, body: bytes, repo: str, prefix: str = "") -> None:
        self._login()
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
            for each in json.loads(body)["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refusal(400, "the content is not what was announced")
        self.hub.large[oid] = body
        self._answer({})

    def _commit(self, body: bytes, kind: str, repo: str) -> None:
        self._login()
        repository = self._repository(kind, repo)
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    repository.commits.append(value["summary"])
                case "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repository.files[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile":
                    repository.files.pop(value["path"], None)
                case other:
                    raise _Refusal(400, f"the stand-in knows no {other}")
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}/commit/{repository.sha}"
        self._answer({"success": True, "commitUrl": url, "commitOid": repository.sha})

    def _info(self, body: bytes, kind: str, repo: str) -> None:
        repository = self._repository(kind, repo)
        self._answer(
            {
                "id": repo,
                "sha": repository.sha,
                "private": repository.private,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(repository.files)],
            }
        )

    def _entries(self, kind: str, repo: str) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        for path, content in self._repository(kind, repo).files.items():
            oid = hashlib.sha1(content).hexdigest()
            entries[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0"}
        return entries

    def _tree(self, body: bytes, kind: str, repo: str, below: str = "") -> None:
        entries = self._entries(kind, repo)
        if below and entries.get(below, {}).get("type") != "directory":
            raise _Refusal(404, "no such folder", "EntryNotFound")
        prefix = f"{below}/" if below else ""
        deep = "recursive=true" in self.path.lower()
        found = [
            entry
            for path, entry in sorted(entries.items())
            if path.startswith(prefix) and (deep or "/" not in path[len(prefix) :])
        ]
        self._answer(found)

    def _paths(self, body: bytes, kind: str, repo: str) -> None:
        text = body.decode()
        asked = json.loads(text)["paths"] if text.startswith("{") else re.findall(r"paths=([^&]*)", text)
        entries = self._entries(kind, repo)
        self._answer([entries[unquote(path)] for path in asked if unquote(path) in entries])

    def _file(self, body: bytes, repo: str, file: str, prefix: str = "") -> None:
        repository = self._repository("dataset" if prefix else "model", repo)
        headers = {"X-Repo-Commit": repository.sha}
        if file not in repository.files:
            raise _Refusal(404, f"Entry not found: {file}", "EntryNotFound")
        content = repository.files[file]
        status, length = 200, len(content)
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(found[1]), min(int(found[2] or length - 1), length - 1)
            content, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{length}"
        headers |= {"ETag": f'"{hashlib.sha1(repository.files[file]).hexdigest()}"', "Accept-Ranges": "bytes"}
        self._answer(content, status, headers)


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A stand-in on a free port of this machine, for as long as the context lasts."""
    hub = Hub()
    with answering(type("Handler", (_Handler,), {"hub": hub})) as hub.url:
        yield hub
