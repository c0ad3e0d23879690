"""Names to directories, against a small stand-in of the hub on this machine."""

import errno
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, file_download

from video_llama.checkpoints import hub as hub_module
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.hub import resolve
from video_llama.checkpoints.load import load_model
from video_llama.errors import CheckpointError
from video_llama.models import VideoLlamaForConditionalGeneration

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny"


class Hub:
    """One model, served as the hub serves models. Counts and faults are for tests to set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.break_after: dict[str, int] = {}  # file -> bytes before the connection is cut, once
        self.answer: int | None = None  # a status for everything
        self.headers: dict[str, str] = {}

    def files(self) -> dict[str, Path]:
        return {
            str(path.relative_to(self.root)): path
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": path.stat().st_size, "oid": etag(path)}
            for name, path in self.files().items()
        ]


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.respond(with_body=False)

    def do_GET(self) -> None:
        self.respond(with_body=True)

    def respond(self, *, with_body: bool) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.answer is not None:
            self.send(hub.answer, b"{}", hub.headers, with_body)
        elif path == f"/api/models/{REPO}/revision/main":
            siblings = [{"rfilename": name} for name in hub.files()]
            self.send_json({"id": REPO, "sha": COMMIT, "siblings": siblings}, with_body)
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            self.send_json(hub.tree(), with_body)
        elif match := re.fullmatch(rf"/{REPO}/resolve/[^/]+/(.+)", path):
            self.send_file(match.group(1), with_body)
        else:
            kind = "RevisionNotFound" if "/revision/" in path and REPO in path else "RepoNotFound"
            self.send(404, b"{}", {"X-Error-Code": kind}, with_body)

    def send_json(self, content: Any, with_body: bool) -> None:
        self.send(
            200, json.dumps(content).encode(), {"Content-Type": "application/json"}, with_body
        )

    def send_file(self, name: str, with_body: bool) -> None:
        path = self.hub.files()[name]
        body, status, headers = path.read_bytes(), 200, {}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            start, status = int(asked.group(1)), 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        headers |= {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT}
        self.send(
            status,
            body,
            headers,
            with_body,
            self.hub.break_after.pop(name, None) if with_body else None,
        )

    def send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        with_body: bool,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def point_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, for a library that is imported already."""
    endpoint = f"http://127.0.0.1:{port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(converted: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub(converted)
    handler = type("ServedHandler", (Handler,), {"hub": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    point_to(server.server_port, monkeypatch)
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def downloads(hub, name):
    """The ranges that were asked of the file `name`: not of files whose names end so."""
    return [
        asked for method, path, asked in hub.requests if (method, Path(path).name) == ("GET", name)
    ]


def test_download_and_load(hub, tmp_path, converted):
    directory = resolve(REPO, cache_dir=tmp_path)
    for name, path in hub.files().items():
        assert (directory / name).read_bytes() == path.read_bytes()
    model = load_model(directory, device="cpu")
    assert model.config.max_frames == load_model(converted, device="cpu").config.max_frames


def test_a_prefix_means_the_hub(hub, tmp_path, monkeypatch):
    (tmp_path / "someone").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such directory: someone/tiny .*hf://"):
        resolve(REPO, cache_dir=tmp_path / "cache")
    assert resolve(f"hf://{REPO}", cache_dir=tmp_path / "cache").is_dir()


def test_a_revision_is_asked_for_by_its_name(hub, tmp_path, monkeypatch):
    asked = []
    real = hub_module.snapshot_download
    monkeypatch.setattr(
        hub_module,
        "snapshot_download",
        lambda repo, **given: asked.append((repo, given["revision"])) or real(repo, **given),
    )
    for name in (REPO, f"{REPO}@main", f"hf://{REPO}@main"):
        assert resolve(name, cache_dir=tmp_path).is_dir()
    with pytest.raises(CheckpointError, match="no revision 'refs/pr/1'"):
        resolve(f"{REPO}@refs/pr/1", cache_dir=tmp_path)
    assert asked == [(REPO, None), (REPO, "main"), (REPO, "main"), (REPO, "refs/pr/1")]


def test_a_second_run_downloads_nothing(hub, tmp_path):
    first = resolve(REPO, cache_dir=tmp_path)
    hub.requests.clear()
    assert resolve(REPO, cache_dir=tmp_path) == first
    assert not downloads(hub, "model.safetensors")


def test_a_connection_that_breaks_is_resumed(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    hub.break_after["model.safetensors"] = 200_000
    directory = resolve(REPO, cache_dir=tmp_path)
    expected = hub.files()["model.safetensors"].read_bytes()
    assert (directory / "model.safetensors").read_bytes() == expected
    first, second = downloads(hub, "model.safetensors")
    assert first is None
    assert second is not None
    assert int(re.findall(r"\d+", second)[0]) > 0  # from the middle of the file


def test_a_run_that_was_stopped_keeps_whole_files(hub, tmp_path, monkeypatch):
    download = file_download.http_get

    def break_off(url, *arguments, **options):
        if url.endswith("model.safetensors"):
            raise OSError(errno.EIO, "the cable was pulled")
        download(url, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(file_download, "http_get", break_off)
        with pytest.raises(CheckpointError, match="the cable was pulled"):
            resolve(REPO, cache_dir=tmp_path)
    kept = {path.name for path in tmp_path.rglob("snapshots/*/*")}
    assert "model.safetensors" not in kept
    hub.requests.clear()
    directory = resolve(REPO, cache_dir=tmp_path)
    assert len(downloads(hub, "model.safetensors")) == 1
    for name in kept:
        assert not downloads(hub, name)
    assert load_model(directory, device="cpu")


def test_offline_uses_what_is_there(hub, tmp_path):
    first = resolve(REPO, cache_dir=tmp_path)
    hub.requests.clear()
    assert resolve(REPO, cache_dir=tmp_path, offline=True) == first
    assert not hub.requests


def test_offline_by_the_environment(hub, tmp_path, monkeypatch):
    first = resolve(REPO, cache_dir=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert resolve(REPO, cache_dir=tmp_path) == first
    assert not hub.requests


def test_offline_without_a_cache(hub, tmp_path):
    with pytest.raises(CheckpointError, match=r"this is offline; run once with the network"):
        resolve(REPO, cache_dir=tmp_path, offline=True)
    assert not hub.requests


def test_no_hub_to_reach(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    point_to(port, monkeypatch)
    with pytest.raises(CheckpointError, match="hub cannot be reached"):
        resolve(REPO, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "no model someone/tiny on the hub.*hf auth login"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no model someone/tiny on the hub"),
        (401, {"X-Error-Code": "GatedRepo"}, "terms accepted"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision 'main'"),
        (403, {}, "answered 403|cannot be reached|could not be downloaded"),
    ],
)
def test_refusals_of_the_hub(hub, tmp_path, status, headers, message):
    hub.answer, hub.headers = status, headers
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(f"{REPO}@main", cache_dir=tmp_path)
    assert "127.0.0.1" not in str(caught.value)


def test_pickles_are_left_where_they_are(hub, tmp_path, published):
    hub.root = published.folder
    directory = resolve(REPO, cache_dir=tmp_path / "cache")
    assert not list(directory.rglob("*.pth"))
    everything = resolve(REPO, cache_dir=tmp_path / "cache", everything=True)
    assert len(list(everything.glob("*.pth"))) == 5


def test_a_published_set_of_the_hub_converts(hub, tmp_path, published, overrides, monkeypatch):
    hub.root = published.folder
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    convert(REPO, tmp_path / "ours", template="vicuna", overrides=overrides)
    assert load_model(tmp_path / "ours", device="cpu")


@pytest.mark.parametrize(
    "name", ["./nothing", "../nothing", "/no/such/model", "~/nothing", "a/b/c", "models/", "C:\\x"]
)
def test_paths_are_never_taken_for_hub_ids(hub, name):
    with pytest.raises(CheckpointError, match="no such directory"):
        resolve(name)
    assert not hub.requests


def test_a_path_object_is_a_path(hub):
    with pytest.raises(CheckpointError, match="no such directory"):
        resolve(Path(REPO))
    assert not hub.requests


@pytest.mark.parametrize("name", ["tiny", "some one/tiny", "", "someone/--tiny--"])
def test_what_is_no_name_at_all(hub, name):
    with pytest.raises(CheckpointError, match="give 'nano', a directory that exists, or a hub id"):
        resolve(name)
    assert not hub.requests


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.pth").touch()
    with pytest.raises(CheckpointError, match="is a file; a model is a directory"):
        resolve(str(tmp_path / "model.pth"))


def test_a_directory_is_itself(tmp_path):
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_dtype_and_device_of_a_loaded_model(converted):
    assert load_model(converted, device="cpu", dtype="bf16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)")],
)
def test_too_little_memory_is_no_damage(converted, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(VideoLlamaForConditionalGeneration, "from_pretrained", fail)
    with pytest.raises(CheckpointError, match="not enough memory to load tiny; close"):
        load_model(converted, device="cpu")
