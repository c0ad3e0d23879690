"""Every line of the gate, tried from outside: what is let in, and that nothing else is."""

import http.server
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from video_llama.errors import (
    ForbiddenSourceError,
    MediaError,
    MediaLimitError,
    MediaNotFoundError,
    OptionError,
    UnsupportedMediaError,
)
from video_llama.media.limits import Limits
from video_llama.media.source import FrameFiles, SourcePolicy
from video_llama.server.files import FileStore, StoragePolicy
from video_llama.server.gate import GatePolicy, MediaGate, digest
from video_llama.server.refusal import Refusal

CLOSED = MediaGate(GatePolicy())


# Local files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "allowed" / "deep").mkdir(parents=True)
    (tmp_path / "allowed" / "deep" / "a b.bin").write_bytes(b"inside")
    (tmp_path / "secret.bin").write_bytes(b"outside")
    return tmp_path


def gate_of(folder: Path) -> MediaGate:
    return MediaGate(GatePolicy(folders=(folder / "allowed",)))


def test_a_file_under_an_allowed_folder_is_read(folder: Path) -> None:
    place = (folder / "allowed" / "deep" / "a b.bin").as_uri()
    assert gate_of(folder).open("video", place).source == b"inside"
    assert gate_of(folder).open("video", place.replace("file://", "file://localhost")).source


def test_no_folder_is_allowed_unless_it_is_named(folder: Path) -> None:
    with pytest.raises(ForbiddenSourceError):
        CLOSED.open("video", (folder / "allowed" / "deep" / "a b.bin").as_uri())


def test_a_bare_path_is_never_a_source(folder: Path) -> None:
    inside = folder / "allowed" / "deep" / "a b.bin"
    for place in (str(inside), "secret.bin", "../secret.bin", "/etc/passwd", "~/.bashrc"):
        with pytest.raises(ForbiddenSourceError):
            gate_of(folder).open("video", place)


@pytest.mark.parametrize(
    "place", ["http:name", "https:../name", "HTTP:name", "http:/name", "http", "https", "data"]
)
def test_an_address_without_its_slashes_is_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http:", "https:", "HTTP:"):
        (tmp_path / name).mkdir()
    for name in ("http:name", "HTTP:name", "name", "http:/name", "http", "https", "data"):
        (tmp_path / name).write_bytes(b"secret")
    with pytest.raises(ForbiddenSourceError):
        CLOSED.open("video", place)


def outside_places(folder: Path) -> list[str]:
    allowed = folder / "allowed"
    (allowed / "link.bin").symlink_to(folder / "secret.bin")
    (allowed / "up").symlink_to(folder)
    (folder / "allowed-too").mkdir()
    (folder / "allowed-too" / "b.bin").write_bytes(b"outside")
    os.mkfifo(allowed / "pipe")
    (allowed / "no-entry").write_bytes(b"x")
    base = allowed.as_uri()
    return [
        (folder / "secret.bin").as_uri(),  # absolute
        f"{base}/../secret.bin",  # dots
        f"{base}/%2e%2e/secret.bin",  # encoded dots
        f"{base}/..%2Fsecret.bin",  # encoded slash
        f"{base}/link.bin",  # link
        f"{base}/up/secret.bin",  # folder link
        f"{base}-too/b.bin",  # neighbour
        f"{base}/absent.bin",  # absent
        f"{folder.as_uri()}/absent.bin",  # absent outside
        f"{base}/deep",  # a folder
        f"{base}/pipe",  # a pipe
        f"file://example.org{allowed}/deep/a%20b.bin",  # another machine
        f"file:{allowed}/../secret.bin",  # no slashes
        "file:secret.bin",  # relative
        f"{base}/a%00b",  # zero
        f"{base}/%ff%fe",  # not text
        f"{base}/{'x' * 5000}",  # very long
        "file:///dev/zero",  # device
        "file:///proc/self/fd/0",  # descriptor
    ]


def test_what_is_outside_is_refused_and_all_look_alike(folder: Path) -> None:
    gate, words = gate_of(folder), set()
    for place in outside_places(folder):
        with pytest.raises(ForbiddenSourceError) as caught:
            gate.open("video", place)
        words.add(str(caught.value))
    assert len(words) == 1
    assert str(folder) not in words.pop()


def test_a_file_that_is_swapped_for_a_link_after_the_look_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = folder / "allowed" / "deep" / "a b.bin"
    real = os.open

    def swap(path: Path, *rest: int) -> int:
        victim.unlink()
        victim.symlink_to(folder / "secret.bin")
        monkeypatch.setattr(os, "open", real)
        return real(path, *rest)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(ForbiddenSourceError):
        gate_of(folder).open("video", victim.as_uri())


def test_a_folder_that_is_swapped_for_a_link_after_the_look_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "a b.bin").write_bytes(b"outside")
    deep = folder / "allowed" / "deep"
    real = os.open

    def swap(path: Path, *rest: int) -> int:
        deep.rename(folder / "moved")
        deep.symlink_to(folder / "elsewhere")
        monkeypatch.setattr(os, "open", real)
        return real(path, *rest)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(ForbiddenSourceError):
        gate_of(folder).open("video", (deep / "a b.bin").as_uri())


def test_local_files_have_limits(folder: Path) -> None:
    policy = GatePolicy((folder / "allowed",), limits={"video": Limits(bytes=3)})  # type: ignore[dict-item]
    with pytest.raises(MediaLimitError, match="6 bytes"):
        MediaGate(policy).open("video", (folder / "allowed/deep/a b.bin").as_uri())


def test_an_allowed_folder_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no folder"):
        GatePolicy(folders=(tmp_path / "absent",))


# Other machines


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        targets = {
            "/loopback": "http://127.0.0.1:1/a",
            "/metadata": "http://169.254.169.254/latest",
            "/mapped": "http://[::ffff:127.0.0.1]:1/a",
            "/file": "file:///etc/passwd",
            "/data": "data:text/plain,hello",
            "/ftp": "ftp://127.0.0.1/a",
        }
        if self.path in targets:
            self.send_response(302)
            self.send_header("Location", targets[self.path])
            self.end_headers()
        elif self.path == "/drip":
            self._drip()
        elif self.path == "/large":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(65536))
            except OSError:
                pass
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"fetched")

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b".")
                stop.wait(0.1)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


stop = threading.Event()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    stop.set()
    server.shutdown()
    server.server_close()


def fetching(port: int, **changes: object) -> MediaGate:
    sources = SourcePolicy(private_hosts=frozenset({f"127.0.0.1:{port}"}))
    return MediaGate(GatePolicy(sources=sources, **changes))  # type: ignore[arg-type]


def test_an_allowed_host_is_fetched_from(port: int) -> None:
    assert fetching(port).open("video", f"http://127.0.0.1:{port}/a").source == b"fetched"


def test_no_host_is_allowed_unless_it_is_named(port: int) -> None:
    for place in (f"http://127.0.0.1:{port}/a", "https://example.org/a.mp4"):
        with pytest.raises(ForbiddenSourceError):
            CLOSED.open("video", place)


@pytest.mark.parametrize("path", ["loopback", "metadata", "mapped", "file", "data", "ftp"])
def test_a_redirect_is_looked_at_like_the_first_address(port: int, path: str) -> None:
    with pytest.raises(ForbiddenSourceError) as caught:
        fetching(port).open("video", f"http://127.0.0.1:{port}/{path}")
    for told in ("127.0.0.1", "169.254", "passwd", "redirect"):
        assert told not in str(caught.value)


def test_a_name_that_leads_to_this_machine_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"):
        monkeypatch.setattr(
            "socket.getaddrinfo",
            lambda host, *rest, to=address, **more: real(
                to if host == "media.test" else host, *rest, **more
            ),
        )
        gate = MediaGate(GatePolicy(sources=SourcePolicy(frozenset({f"media.test:{port}"}))))
        with pytest.raises(ForbiddenSourceError) as caught:
            gate.open("video", f"http://media.test:{port}/a")
        assert address not in str(caught.value)


def test_a_drip_ends_with_the_deadline(port: int) -> None:
    gate = fetching(port, fetch_seconds={"image": 0.5})
    with pytest.raises(MediaLimitError, match="slowly") as caught:
        gate.open("image", f"http://127.0.0.1:{port}/drip")
    assert "127.0.0.1" not in str(caught.value)


def test_a_download_ends_with_whom_it_is_for(port: int) -> None:
    gone = threading.Event()
    threading.Timer(0.5, gone.set).start()
    started = time.monotonic()
    with pytest.raises(MediaNotFoundError):
        fetching(port).open("video", f"http://127.0.0.1:{port}/drip", gone=gone)
    assert time.monotonic() - started < 5


def test_no_more_bytes_are_fetched_than_may_be(port: int) -> None:
    gate = fetching(port, limits={"image": Limits(bytes=100_000)})
    with pytest.raises(MediaLimitError, match="too large"):
        gate.open("image", f"http://127.0.0.1:{port}/large")


def test_deadlines_of_fetches_are_those_of_careful_servers() -> None:
    policy = GatePolicy()
    assert [policy.fetch_seconds[k] for k in ("image", "video", "audio")] == [5, 30, 10]
    assert policy.limits["audio"].bytes == 25 << 20
    assert policy.limits["audio"].duration == 600
    assert policy.limits["audio"].samples * 4 == 256 << 20
    assert all(limits.pixels == 178_956_970 for limits in policy.limits.values())
    assert policy.sources.max_download == 256 << 20


def test_an_address_that_nobody_answers_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = MediaGate(GatePolicy(sources=SourcePolicy(private_hosts=frozenset({"127.0.0.1:9"}))))
    with pytest.raises(MediaNotFoundError) as caught:
        gate.open("video", "http://127.0.0.1:9/a.mp4")
    assert "127.0.0.1" not in str(caught.value)


# Other schemes


@pytest.mark.parametrize(
    "place",
    [
        "ftp://host/a",
        "rtsp://host/a",
        "concat:/etc/passwd",
        "subfile,,start,0,end,0,,:/etc/passwd",
        "hls+file:///etc/passwd",
        "crypto:file:///etc/passwd",
        "javascript:1",
        "\x00",
        "",
        " file:///etc/passwd",
    ],
)
def test_other_schemes_are_refused(place: str, folder: Path) -> None:
    with pytest.raises(ForbiddenSourceError):
        MediaGate(GatePolicy(folders=(Path("/"),))).open("video", place)


def test_data_urls(png, data_url) -> None:
    assert CLOSED.open("image", data_url(png())).source == png()
    with pytest.raises(UnsupportedMediaError, match="base64"):
        CLOSED.open("image", "data:image/png;base64,!!")
    small = MediaGate(GatePolicy(limits={"image": Limits(bytes=10)}))  # type: ignore[dict-item]
    with pytest.raises(MediaLimitError):
        small.open("image", data_url(png()))


def test_a_list_of_frames_is_bounded_before_it_is_decoded() -> None:
    two = CLOSED.open("video", "data:video/jpeg;base64,QUJD,REVG")
    assert two.source == FrameFiles((b"ABC", b"DEF"))
    with pytest.raises(MediaLimitError, match="frames"):
        CLOSED.open("video", "data:video/jpeg;base64," + ",".join(["QUJD"] * 100_000))


# Checksums


def test_checksums_tell_media_apart() -> None:
    sources = [
        b"ABCDEF",
        b"ABCDEG",
        FrameFiles((b"ABCDEF",)),
        FrameFiles((b"ABC", b"DEF")),
        FrameFiles((b"AB", b"CDEF")),
        FrameFiles((b"DEF", b"ABC")),
    ]
    marks = [digest(source) for source in sources]
    assert len(set(marks)) == len(marks)
    assert all(len(mark) == 64 for mark in marks)  # all of SHA-256, nothing cut


def test_equal_bytes_have_one_checksum_whatever_way_they_came(
    port: int, folder: Path, data_url
) -> None:
    (folder / "allowed" / "f").write_bytes(b"fetched")
    gate = fetching(port, folders=(folder / "allowed",))
    places = (
        f"http://127.0.0.1:{port}/a",
        data_url(b"fetched"),
        (folder / "allowed" / "f").as_uri(),
    )
    assert len({gate.open("video", place).digest for place in places}) == 1


# Uploaded files


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(clock: Clock) -> Iterator[FileStore]:
    store = FileStore(StoragePolicy(60, file_bytes=100, total_bytes=250, count=4), clock)
    yield store
    store.close()


def keep(store: FileStore, owner: str = "me", content: bytes = b"content", **more: object) -> str:
    import io

    return store.add(owner, io.BytesIO(content), "../a.mp4", "vision", **more).id  # type: ignore[arg-type]


def test_an_uploaded_file_is_its_owners_alone(files: FileStore) -> None:
    gate = MediaGate(GatePolicy(), files)
    identifier = keep(files)
    assert gate.open("video", identifier, owner="me").source == b"content"
    for owner, name in (("other", identifier), ("me", identifier + "0"), ("me", "file-../x")):
        with pytest.raises(Refusal) as caught:
            gate.open("video", name, owner=owner)
        assert caught.value.status == 404


def test_uploaded_files_expire(files: FileStore, clock: Clock) -> None:
    short, long = keep(files, lifetime=10), keep(files, lifetime=10_000)
    clock.now += 11
    with pytest.raises(Refusal, match="expired"):
        files.get("me", short)
    assert files.get("me", long).expires == 1060  # no longer than the server keeps any
    clock.now += 60
    files.sweep()
    assert files.taken == 0
    assert list(files._folder.path.iterdir()) == []


def test_uploads_are_bounded(files: FileStore) -> None:
    with pytest.raises(Refusal) as caught:
        keep(files, content=bytes(101))
    assert caught.value.status == 413
    with pytest.raises(Refusal) as caught:
        keep(files, content=b"")
    assert caught.value.status == 400
    keep(files, content=bytes(100))
    keep(files, content=bytes(100))
    with pytest.raises(Refusal) as caught:
        keep(files, content=bytes(100))
    assert (caught.value.status, caught.value.code) == (429, "storage_full")
    for _ in range(2):
        keep(files, content=b"1")
    with pytest.raises(Refusal):
        keep(files, content=b"1")  # too many
    assert keep(files, owner="other", content=b"1")


def test_a_file_is_removed_with_its_bytes(files: FileStore) -> None:
    identifier = keep(files)
    with pytest.raises(Refusal):
        files.remove("other", identifier)
    files.remove("me", identifier)
    assert files.list("me") == []
    assert list(files._folder.path.iterdir()) == []


def test_files_are_readable_by_this_user_alone(files: FileStore) -> None:
    assert files._folder.path.stat().st_mode & 0o077 == 0


def test_what_a_killed_server_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "video-llama-files-left"
    left.mkdir()
    (left / "file-1").write_bytes(b"x")
    (tmp_path / "video-llama-files-link").symlink_to(tmp_path)
    running = FileStore(StoragePolicy())
    identifier = keep(running)
    FileStore(StoragePolicy()).close()
    assert not left.exists()
    assert running.read("me", identifier, Limits()) == b"content"
    running.close()
    assert [path.name for path in tmp_path.iterdir()] == ["video-llama-files-link"]


# Headers that promise much


def test_messages_of_the_gate_are_short(folder: Path) -> None:
    for place in (
        "file:///etc/passwd",
        "x" * 100_000,
        "http://" + "a" * 10_000,
        "data:" + "y" * 99,
    ):
        with pytest.raises(MediaError) as caught:
            CLOSED.open("video", place)
        assert len(str(caught.value)) < 200
