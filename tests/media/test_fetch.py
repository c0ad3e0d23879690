"""Media over http: from allowed hosts alone, through a server on this machine."""

import http.server
import threading
import time
from collections.abc import Iterator

import pytest
from make import Film, write

from video_llama.errors import ForbiddenSourceError, MediaLimitError, MediaNotFoundError
from video_llama.media.reader import Limits, SourcePolicy, load_media

CLIP = write(Film(count=5))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.path == "/clip.mp4":
            self._send(CLIP)
        elif self.path == "/moved":
            self._redirect(f"http://127.0.0.1:{port}/clip.mp4")
        elif self.path == "/away":
            self._redirect("http://169.254.169.254/latest/meta-data")
        elif self.path == "/local":
            self._redirect("file:///etc/passwd")
        elif self.path == "/round":
            self._redirect("/round")
        elif self.path == "/cut":
            self._send(CLIP, claimed=len(CLIP) + 1000)
        elif self.path == "/endless":
            self._endless()
        elif self.path == "/slow":
            time.sleep(1.5)
        else:
            self.send_error(404)

    def _send(self, data: bytes, claimed: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(claimed or len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(65_536))
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def policy(host: str) -> SourcePolicy:
    return SourcePolicy(allowed_hosts=frozenset({host}), timeout=0.5)


def test_an_allowed_host_is_read(host: str, policy: SourcePolicy) -> None:
    for path in ("clip.mp4", "moved"):
        clip = load_media(f"http://{host}/{path}", policy=policy)
        assert clip.frames.shape[0] == 5
        assert clip.info.name == "clip.mp4"


@pytest.mark.parametrize("path", ["away", "local", "round"])
def test_redirects_are_held_against_the_same_list(
    path: str, host: str, policy: SourcePolicy
) -> None:
    with pytest.raises(ForbiddenSourceError):
        load_media(f"http://{host}/{path}", policy=policy)


@pytest.mark.parametrize("path", ["nothing", "cut", "slow"])
def test_answers_that_are_no_file(path: str, host: str, policy: SourcePolicy) -> None:
    with pytest.raises(MediaNotFoundError, match=r"127\.0\.0\.1"):
        load_media(f"http://{host}/{path}", policy=policy)


def test_no_more_is_read_than_allowed(host: str, policy: SourcePolicy) -> None:
    with pytest.raises(MediaLimitError, match="bytes"):
        load_media(f"http://{host}/endless", policy=policy, limits=Limits(bytes=1_000_000))
    small = SourcePolicy(policy.allowed_hosts, max_download=100)
    with pytest.raises(MediaLimitError, match="bytes"):
        load_media(f"http://{host}/clip.mp4", policy=small)


def test_forms_of_address_that_try_to_pass(host: str, policy: SourcePolicy) -> None:
    port = host.rpartition(":")[2]
    for url in (
        f"http://localhost:{port}/clip.mp4",  # the same machine, by a name that was not allowed
        f"http://user:secret@{host}/clip.mp4",
        f"http://{host}@example.org/clip.mp4",
        "http:///clip.mp4",
        "http://127.0.0.1/clip.mp4",  # another port
        f"http://2130706433:{port}/clip.mp4",
        f"http://127.0.0.1:{port}x/clip.mp4",
    ):
        with pytest.raises(ForbiddenSourceError):
            load_media(url, policy=policy)


def test_a_server_that_is_gone() -> None:
    policy = SourcePolicy(frozenset({"127.0.0.1:9"}), timeout=0.5)
    with pytest.raises(MediaNotFoundError, match="does not answer"):
        load_media("http://127.0.0.1:9/clip.mp4", policy=policy)
