"""Media over http(s), only from hosts that were allowed by name.

Small on purpose: no proxies, no credentials, no cookies; every redirect is held against the same
list before it is followed, every host is looked up once and connected to by the address that was
checked, and no more bytes are read than the limit. Messages name the host that was asked for and
nothing else.
"""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from video_llama.errors import ForbiddenSourceError, MediaNotFoundError
from video_llama.media.addresses import resolve
from video_llama.media.limits import Deadline, Limits

_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_KEPT = "/:@!$&'()*+,;=-._~%"  # what may stand in a path as it is
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class SourcePolicy:
    """Where media may be fetched from. Nothing by default.

    Attributes:
        allowed_hosts: "example.org" (its standard ports) or "example.org:8080". They must stand in
            the internet: a name that leads to a private network, or to this machine, is refused.
        private_hosts: likewise, and these may stand in a private network or be this machine.
            Addresses of a link, where clouds keep their metadata, are refused all the same.
        timeout: seconds that a connection may be idle.
        max_redirects: hops that are followed, each checked as the first one.
        max_download: bytes of one download; the limit `bytes` holds as well.
        gone: set when nobody waits for a download any more; it ends where it is then.
    """

    allowed_hosts: frozenset[str] = frozenset()
    private_hosts: frozenset[str] = frozenset()
    timeout: float = 10.0
    max_redirects: int = 3
    max_download: int = 256 * (1 << 20)
    gone: threading.Event | None = None


def fetch(url: str, limits: Limits, policy: SourcePolicy, deadline: Deadline) -> tuple[bytes, str]:
    """Download a medium: its bytes, and a name for messages.

    Raises:
        ForbiddenSourceError: a host, redirect or form of address that is not allowed.
        MediaNotFoundError: no answer, or an answer that is no file.
        MediaLimitError: more bytes than are allowed, or too slow.
    """
    for _ in range(policy.max_redirects + 1):
        parts, private = _check_address(url, policy)
        host = parts.hostname or ""
        port = parts.port or _PORTS[parts.scheme]
        addresses = resolve(host, port, deadline, private=private)
        try:
            with _connection(parts, addresses, port, policy, deadline) as connection:
                connection.request("GET", _target(parts), headers={"User-Agent": "video-llama"})
                answer = connection.getresponse()
                deadline.check()  # a header that was cut reads as one that ended
                if answer.status in _REDIRECTS and answer.headers.get("Location"):
                    url = urljoin(url, _as_written(answer.headers["Location"]))
                    continue
                if answer.status != http.client.OK:
                    raise MediaNotFoundError(f"{host} answers {answer.status} for this address")
                data = _read_bounded(answer, host, limits, policy, deadline)
        except (OSError, http.client.HTTPException, ValueError):
            deadline.check()
            # Reasons of the network layer carry addresses; they are not repeated.
            raise MediaNotFoundError(f"{host} does not answer as it should") from None
        return data, _name_of(parts)
    raise ForbiddenSourceError(f"more than {policy.max_redirects} redirects")


@contextlib.contextmanager
def _connection(
    parts: SplitResult,
    addresses: Sequence[str],
    port: int,
    policy: SourcePolicy,
    deadline: Deadline,
) -> Iterator[http.client.HTTPConnection]:
    """A connection to the first of the addresses that answers, all of which were checked; it is
    cut when the deadline passes.

    Its own timeout begins again with every byte: a host that sends one now and then would hold it
    for ever.
    """
    raw = _connected(addresses, port, policy, deadline)
    spare = raw.dup()  # closed by nobody else, so it cannot become another connection's
    cut = threading.Timer(deadline.remaining, _cut, [spare])
    cut.daemon = True
    cut.start()
    try:
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context()
            raw = context.wrap_socket(raw, server_hostname=host)
            connection = http.client.HTTPSConnection(host, port, context=context)
        else:
            connection = http.client.HTTPConnection(host, port)
        connection.sock = raw  # with one of its own it never looks a name up
        yield connection
    finally:
        cut.cancel()
        spare.close()
        raw.close()


def _connected(
    addresses: Sequence[str], port: int, policy: SourcePolicy, deadline: Deadline
) -> socket.socket:
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):  # the next one may answer
            return socket.create_connection(
                (address, port), min(policy.timeout, deadline.remaining)
            )
        deadline.check()
    return socket.create_connection((addresses[-1], port), min(policy.timeout, deadline.remaining))


def _cut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _as_written(header: str) -> str:
    """A header of bytes beyond ASCII: http.client takes them for Latin-1, servers mean UTF-8."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except ValueError:
        return header


def _target(parts: SplitResult) -> str:
    query = f"?{quote(parts.query, safe=_KEPT + '?')}" if parts.query else ""
    return (quote(parts.path, safe=_KEPT) or "/") + query


def _check_address(url: str, policy: SourcePolicy) -> tuple[SplitResult, bool]:
    """The parts of an allowed address, and whether its host may be a private one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ForbiddenSourceError("this address cannot be understood") from None
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme not in _PORTS or not host:
        raise ForbiddenSourceError("only http and https addresses with a host are opened")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenSourceError("addresses with a user name or password are not opened")
    shown = f"[{host}]" if ":" in host else host
    forms = {f"{shown}:{port or _PORTS[parts.scheme]}"}
    if port in (None, _PORTS[parts.scheme]):
        forms.add(shown)
    for hosts, private in ((policy.private_hosts, True), (policy.allowed_hosts, False)):
        if forms & {entry.lower() for entry in hosts}:
            return parts, private
    raise ForbiddenSourceError(
        f"media from {shown if shown in forms else min(forms)} are not allowed; add the host to "
        "the allowed hosts, or download the file and give its path"
    )


def _read_bounded(
    answer: http.client.HTTPResponse,
    host: str,
    limits: Limits,
    policy: SourcePolicy,
    deadline: Deadline,
) -> bytes:
    name = f"the file at {host}"
    bound = Limits(bytes=min(limits.bytes, policy.max_download))
    length = answer.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() else 0
    bound.check_bytes(announced, name)
    data = bytearray()
    while chunk := answer.read1(_CHUNK):
        data += chunk
        bound.check_bytes(len(data), name)
        deadline.check()
        if policy.gone is not None and policy.gone.is_set():
            raise MediaNotFoundError("nobody waits for this download any more")
    deadline.check()  # the same of a body
    if len(data) < announced:
        raise MediaNotFoundError(f"{host} sent {len(data):,} of {announced:,} bytes")
    return bytes(data)


def _name_of(parts: SplitResult) -> str:
    return PurePosixPath(unquote(parts.path)).name or parts.hostname or "the address"
