"""From a reference to a checked file with its hash, wherever it comes from.

The hub is a stand-in on this machine that speaks the real one's protocol; huggingface_hub's own
code does the downloading.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evenhand.engine import models
from evenhand.engine.models import resolve
from evenhand.schemas.errors import ModelFileError, ModelNotFound, RemoteError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- files on this machine ----------------------------------------------------------------------


def test_a_path(tiny: Path, tmp_path: Path) -> None:
    found = resolve(str(tiny), cache_dir=tmp_path)
    assert found.path == tiny
    assert found.sha256 == sha256(tiny.read_bytes())
    assert found.reference == str(tiny)
    assert found.revision is None


def test_a_path_in_the_home_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve(f"~/{tiny.name}", cache_dir=tmp_path).path == tiny


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere/model.gguf", "does not exist"),
        ("{tmp}", "is a folder"),
        ("", "is a folder"),
        ("x" * 5000, "cannot be reached"),
        ("a\0b", "does not exist"),
        ("~nobody-by-that-name/model.gguf", "cannot be reached"),
        ("bundled:nothing", "no bundled model"),
        ("bundled:../../etc/passwd", "no bundled model"),
        ("hf:nothing", "is not a hub reference"),
        ("hf:owner/model", "is not a hub reference"),
        ("hf:owner/model:", "is not a hub reference"),
        ("hf:a/b/c:file.gguf", "is not a hub reference"),
        ("hf:owner/mo--del:file.gguf", "is not a hub reference"),
        ("hf:-owner/model.:file.gguf", "is not a hub reference"),
        ("hf:owner/model:big-00001-of-00003.gguf", "one shard"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, reference: str, said: str) -> None:
    with pytest.raises(ModelNotFound, match=said) as caught:
        resolve(reference.format(tmp=tmp_path), cache_dir=tmp_path / "cache")
    assert caught.value.hint


def test_a_bundled_model(judge_path: Path, tmp_path: Path) -> None:
    found = resolve("bundled:judge", cache_dir=tmp_path)
    assert found.path == judge_path
    assert found.sha256 == sha256(judge_path.read_bytes())


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        resolve(str(path), cache_dir=tmp_path)


def test_a_file_that_may_not_be_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelFileError, match="Permission denied"):
        resolve(str(tiny), cache_dir=tmp_path)


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelNotFound, match="Permission denied"):
        resolve("closed/model.gguf", cache_dir=tmp_path)


# -- the memory of hashes -----------------------------------------------------------------------


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny.read_bytes())
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a file was hashed."""
    count: list[int] = []
    real = hashlib.sha256

    def counting(*args: Any) -> Any:
        count.append(1)
        return real(*args)

    monkeypatch.setattr(models.hashlib, "sha256", counting)
    return count


def test_a_hash_is_remembered_until_the_file_changes(
    model: Path, tmp_path: Path, hashed: list[int]
) -> None:
    cache = tmp_path / "cache"
    first = resolve(str(model), cache_dir=cache).sha256
    assert resolve(str(model), cache_dir=cache).sha256 == first
    assert len(hashed) == 1
    changed = bytearray(model.read_bytes())
    changed[-1] ^= 1
    model.write_bytes(changed)
    os.utime(model, ns=(1, 1))
    second = resolve(str(model), cache_dir=cache).sha256
    assert len(hashed) == 2
    assert second != first
    assert second == sha256(bytes(changed))


@pytest.mark.parametrize(
    "memory", [b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"a": 3}', b"KEY3", b"KEYshort"]
)
def test_a_damaged_memory_only_costs_time(
    model: Path, tmp_path: Path, hashed: list[int], memory: bytes
) -> None:
    cache = tmp_path / "cache"
    expected = resolve(str(model), cache_dir=cache).sha256
    file = cache / "sha256.json"
    if memory.startswith(b"KEY"):  # the right key with a wrong value
        (key,) = json.loads(file.read_text())
        memory = json.dumps({key: 3 if memory == b"KEY3" else "short"}).encode()
    file.write_bytes(memory)
    assert resolve(str(model), cache_dir=cache).sha256 == expected
    assert len(hashed) == 2
    assert resolve(str(model), cache_dir=cache).sha256 == expected
    assert len(hashed) == 2  # and is mended


def test_a_memory_that_cannot_be_written_only_costs_time(model: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "in-the-way"
    blocked.write_text("a file, not a folder")
    assert resolve(str(model), cache_dir=blocked).sha256 == sha256(model.read_bytes())


# -- the hub ------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """`/OWNER/MODEL/resolve/REVISION/FILE`, with the headers that huggingface_hub reads."""

    protocol_version = "HTTP/1.1"
    content: ClassVar[bytes] = b""
    requests: ClassVar[list[tuple[str, str]]] = []
    broken: ClassVar[str] = ""  # how a download fails

    def log_message(self, *_args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.requests.append((self.command, self.path))
        parts = self.path.strip("/").split("/")
        repo, revision, file = "/".join(parts[:2]), parts[3] if len(parts) > 4 else "", parts[-1]
        if repo == "owner/gated":
            return self._fail(401, "GatedRepo")
        if repo != "owner/model":
            return self._fail(401, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT, OTHER):
            return self._fail(404, "RevisionNotFound")
        if file != "model.gguf":
            return self._fail(404, "EntryNotFound")
        if self.broken == "500":
            return self._fail(500, "")
        content = self.content
        commit = OTHER if revision == "v1" else COMMIT
        self.send_response(200)
        self.send_header("ETag", f'"{sha256(content)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.broken == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif body:
            self.wfile.write(content)
        return None

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub that has `owner/model` with `model.gguf`."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(Hub, "content", tiny.read_bytes())
    monkeypatch.setattr(Hub, "requests", [])
    monkeypatch.setattr(Hub, "broken", "")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )  # fmt: skip
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # Between tries of a cut download, huggingface_hub waits longer each time.
    monkeypatch.setattr(file_download.time, "sleep", lambda _seconds: None)
    yield Hub
    server.shutdown()
    server.server_close()


REFERENCE = "hf:owner/model:model.gguf"


def test_a_file_of_the_hub_is_fetched_checked_and_hashed(hub: type[Hub], tmp_path: Path) -> None:
    said: list[str] = []
    found = resolve(REFERENCE, cache_dir=tmp_path / "c", progress=said.append)
    assert found.path.read_bytes() == hub.content
    assert found.sha256 == sha256(hub.content)
    assert found.revision == COMMIT
    assert found.reference == REFERENCE
    assert any("model.gguf" in words for words in said)
    assert ("GET", "/owner/model/resolve/main/model.gguf") in hub.requests


def test_a_revision_is_asked_for_by_name_and_pinned_by_commit(
    hub: type[Hub], tmp_path: Path
) -> None:
    found = resolve(f"{REFERENCE}@v1", cache_dir=tmp_path / "c")
    assert found.revision == OTHER
    assert {path for _, path in hub.requests} == {"/owner/model/resolve/v1/model.gguf"}
    hub.requests.clear()
    assert resolve(f"{REFERENCE}@{COMMIT}", cache_dir=tmp_path / "c").revision == COMMIT
    assert all(COMMIT in path for _, path in hub.requests)


def test_a_second_time_nothing_is_downloaded(hub: type[Hub], tmp_path: Path) -> None:
    resolve(REFERENCE, cache_dir=tmp_path / "c")
    hub.requests.clear()
    resolve(REFERENCE, cache_dir=tmp_path / "c")
    assert "GET" not in [method for method, _ in hub.requests]


def test_offline_takes_the_cache_and_asks_nobody(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="switched off") as caught:
        resolve(REFERENCE, offline=True, cache_dir=tmp_path / "c")
    assert "EVENHAND_OFFLINE" in caught.value.hint
    assert hub.requests == []
    online = resolve(REFERENCE, cache_dir=tmp_path / "c")
    hub.requests.clear()
    assert resolve(REFERENCE, offline=True, cache_dir=tmp_path / "c") == online
    assert hub.requests == []


@pytest.mark.parametrize(
    ("reference", "said", "hint"),
    [
        ("hf:owner/nothing:model.gguf", "no repository", "hf auth login"),
        ("hf:owner/gated:model.gguf", "no repository", "hf auth login"),
        ("hf:owner/model:other.gguf", "has no other.gguf", "list of files"),
        ("hf:owner/model:model.gguf@v9", "at revision v9", "list of files"),
    ],
)
def test_what_the_hub_does_not_have(
    hub: type[Hub], tmp_path: Path, reference: str, said: str, hint: str
) -> None:
    with pytest.raises(ModelNotFound, match=said) as caught:
        resolve(reference, cache_dir=tmp_path / "c")
    assert hint in caught.value.hint
    assert hub.requests


def test_a_hub_that_fails(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "broken", "500")
    with pytest.raises(RemoteError) as caught:
        resolve(REFERENCE, cache_dir=tmp_path / "c")
    assert caught.value.hint


def test_a_download_that_breaks_off_leaves_no_model(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "broken", "cut")
    with pytest.raises(RemoteError):
        resolve(REFERENCE, cache_dir=tmp_path / "c")
    assert not list((tmp_path / "hub").rglob("*.gguf"))
    with pytest.raises(ModelNotFound):
        resolve(REFERENCE, offline=True, cache_dir=tmp_path / "c")
    monkeypatch.setattr(hub, "broken", "")
    assert resolve(REFERENCE, cache_dir=tmp_path / "c").sha256 == sha256(hub.content)


def test_a_hub_out_of_reach(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    online = resolve(REFERENCE, cache_dir=tmp_path / "c")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert resolve(REFERENCE, cache_dir=tmp_path / "c") == online  # from the cache
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(RemoteError, match="cannot be reached"):
        resolve(REFERENCE, cache_dir=tmp_path / "c")
    assert hub.requests


def test_a_file_of_the_hub_that_is_no_model(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "content", b"<html>not found</html>")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        resolve(REFERENCE, cache_dir=tmp_path / "c")
