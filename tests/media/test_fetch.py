"""Media over http: from allowed hosts alone, through a server on this machine."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from make import Film, write

from video_llama.errors import ForbiddenSourceError, MediaLimitError, MediaNotFoundError
from video_llama.media.addresses import is_link_local, is_public
from video_llama.media.reader import Limits, SourcePolicy, load_media

CLIP = write(Film(count=5))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.path == "/clip.mp4":
            self._send(CLIP)
        elif self.path == "/moved":
            self._redirect(f"http://127.0.0.1:{port}/clip.mp4")
        elif self.path == "/again":
            self._redirect("/clip.mp4")
        elif self.path == "/away":
            self._redirect("http://169.254.169.254/latest/meta-data")
        elif self.path == "/local":
            self._redirect("file:///etc/passwd")
        elif self.path == "/umlaut":
            self._redirect("/köln.mp4".encode().decode("latin-1"))
        elif self.path == "/k%C3%B6ln.mp4":
            self._send(CLIP)
        elif self.path == "/round":
            self._redirect("/round")
        elif self.path == "/cut":
            self._send(CLIP, claimed=len(CLIP) + 1000)
        elif self.path == "/endless":
            self._endless()
        elif self.path == "/slow":
            time.sleep(1.5)
        elif self.path == "/drip":
            self._drip()
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

    def _drip(self) -> None:
        """A header that never ends, a letter now and then: no single read takes long."""
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            for _ in range(100):
                self.wfile.write(b"a")
                time.sleep(0.1)
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
    return SourcePolicy(private_hosts=frozenset({host}), timeout=0.5)


def test_an_allowed_host_is_read(host: str, policy: SourcePolicy) -> None:
    for path in ("clip.mp4", "moved"):
        clip = load_media(f"http://{host}/{path}", policy=policy)
        assert clip.frames.shape[0] == 5
        assert clip.info.name == "clip.mp4"


def test_a_redirect_to_a_name_beyond_ascii(host: str, policy: SourcePolicy) -> None:
    assert load_media(f"http://{host}/umlaut", policy=policy).info.name == "köln.mp4"


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
    small = replace(policy, max_download=100)
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
    policy = SourcePolicy(private_hosts=frozenset({"127.0.0.1:9"}), timeout=0.5)
    with pytest.raises(MediaNotFoundError, match="does not answer"):
        load_media("http://127.0.0.1:9/clip.mp4", policy=policy)


def test_a_host_that_drips_is_left_at_the_deadline(host: str, policy: SourcePolicy) -> None:
    started = time.monotonic()
    with pytest.raises(MediaLimitError, match="within"):
        load_media(f"http://{host}/drip", policy=policy, limits=Limits(deadline=0.6))
    assert time.monotonic() - started < 8  # the header takes ten seconds


# Private networks


PRIVATE = (
    "127.0.0.1",
    "127.9.9.9",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


def test_metadata_are_refused_to_private_hosts_as_well() -> None:
    for address in (
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "168.63.129.16",
        "fd00:ec2::254",  # a cloud's own, in a private network
    ):
        assert is_link_local(address)
    for address in ("127.0.0.1", "10.0.0.1", "::1", "fd00::1"):
        assert not is_link_local(address)


class Names:
    """A look-up of names that changes its mind: one answer after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str | tuple[str, ...]) -> None:
        self.answers = [(one,) if isinstance(one, str) else one for one in answers]
        self.asked = 0
        self.real = socket.getaddrinfo
        monkeypatch.setattr("socket.getaddrinfo", self)

    def __call__(self, host: str, port: int, *args: object, **options: object) -> list:
        if host != "media.test":
            return self.real(host, port, *args, **options)
        addresses = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]


def test_a_name_that_leads_to_this_machine_is_refused(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = host.rpartition(":")[2]
    allowed = SourcePolicy(frozenset({f"media.test:{port}"}))
    for answer in ("127.0.0.1", ("93.184.216.34", "127.0.0.1"), "::ffff:127.0.0.1"):
        Names(monkeypatch, answer)
        with pytest.raises(ForbiddenSourceError, match="private network"):
            load_media(f"http://media.test:{port}/clip.mp4", policy=allowed)


def test_the_address_that_was_checked_is_the_one_that_is_used(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = host.rpartition(":")[2]
    names = Names(monkeypatch, "127.0.0.1", "10.255.255.1")
    connected: list[str] = []
    real = socket.create_connection
    monkeypatch.setattr(
        "socket.create_connection",
        lambda address, *rest: connected.append(address[0]) or real(address, *rest),
    )
    allowed = SourcePolicy(private_hosts=frozenset({f"media.test:{port}"}), timeout=0.5)
    assert load_media(f"http://media.test:{port}/clip.mp4", policy=allowed).frames is not None
    assert (names.asked, connected) == (1, ["127.0.0.1"])


def test_of_several_addresses_one_that_answers_is_used(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As "localhost", which is ::1 first where servers listen on 127.0.0.1."""
    port = host.rpartition(":")[2]
    Names(monkeypatch, ("127.0.0.2", "127.0.0.1"))
    allowed = SourcePolicy(private_hosts=frozenset({f"media.test:{port}"}), timeout=0.5)
    assert load_media(f"http://media.test:{port}/clip.mp4", policy=allowed).frames is not None


def test_a_name_that_changes_between_redirects_is_looked_at_again(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = host.rpartition(":")[2]
    Names(monkeypatch, "127.0.0.1", "169.254.169.254")
    allowed = SourcePolicy(private_hosts=frozenset({f"media.test:{port}"}), timeout=0.5)
    with pytest.raises(ForbiddenSourceError):
        load_media(f"http://media.test:{port}/again", policy=allowed)


def test_a_look_up_that_hangs_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    go, ended = threading.Event(), []

    def look_up(*_: object, **__: object) -> list[object]:
        go.wait(20)
        ended.append(1)
        return []

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    policy = SourcePolicy(frozenset({"media.test"}))
    with pytest.raises(MediaLimitError, match="within"):
        load_media("http://media.test/a.mp4", policy=policy, limits=Limits(deadline=0.2))
    assert not ended  # it was not waited for
    go.set()


def test_the_proxy_of_the_environment_is_not_used(
    host: str, policy: SourcePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert load_media(f"http://{host}/clip.mp4", policy=policy).frames is not None
