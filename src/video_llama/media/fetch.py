"""Media over http(s), only from hosts that were allowed by name.

Small on purpose: no proxies, no credentials, no cookies; every redirect is held against the same
list before it is followed, and no more bytes are read than the limit. Messages name the host that
was asked for and nothing else.
"""

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from video_llama.errors import ForbiddenSourceError, MediaNotFoundError
from video_llama.media.limits import Deadline, Limits

_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class SourcePolicy:
    """Where media may be fetched from. Nothing by default.

    Attributes:
        allowed_hosts: "example.org" (its standard ports) or "example.org:8080".
        timeout: seconds that a connection may be idle.
        max_redirects: hops that are followed, each checked against `allowed_hosts`.
        max_download: bytes of one download; the limit `bytes` holds as well.
    """

    allowed_hosts: frozenset[str] = frozenset()
    timeout: float = 10.0
    max_redirects: int = 3
    max_download: int = 256 * (1 << 20)


def fetch(url: str, limits: Limits, policy: SourcePolicy, deadline: Deadline) -> tuple[bytes, str]:
    """Download a medium: its bytes, and a name for messages.

    Raises:
        ForbiddenSourceError: a host, redirect or form of address that is not allowed.
        MediaNotFoundError: no answer, or an answer that is no file.
        MediaLimitError: more bytes than are allowed, or too slow.
    """
    opener = urllib.request.OpenerDirector()  # built by hand: no proxies, no file://, no ftp://
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler())
    for _ in range(policy.max_redirects + 1):
        parts = _check_address(url, policy)
        deadline.check()
        request = urllib.request.Request(url, headers={"User-Agent": "video-llama"})
        host = parts.hostname or ""
        try:
            with opener.open(request, timeout=min(policy.timeout, deadline.remaining)) as answer:
                if answer.status in _REDIRECTS and answer.headers.get("Location"):
                    url = urljoin(url, answer.headers["Location"])
                    continue
                if answer.status != http.client.OK:
                    raise MediaNotFoundError(f"{host} answers {answer.status} for this address")
                data = _read_bounded(answer, host, limits, policy, deadline)
        except (OSError, http.client.HTTPException, ValueError):
            # Reasons of the network layer carry addresses; they are not repeated.
            raise MediaNotFoundError(f"{host} does not answer as it should") from None
        return data, _name_of(parts)
    raise ForbiddenSourceError(f"more than {policy.max_redirects} redirects")


def _check_address(url: str, policy: SourcePolicy) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ForbiddenSourceError("this address cannot be understood") from None
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise ForbiddenSourceError("only http and https addresses with a host are opened")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenSourceError("addresses with a user name or password are not opened")
    standard = port is None or port == (443 if parts.scheme.lower() == "https" else 80)
    allowed = {entry.lower() for entry in policy.allowed_hosts}
    if f"{host}:{port}" in allowed or (standard and host in allowed):
        return parts
    raise ForbiddenSourceError(
        f"media from {host} are not allowed; add the host to the allowed hosts, or download the "
        "file and give its path"
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
    if len(data) < announced:
        raise MediaNotFoundError(f"{host} sent {len(data):,} of {announced:,} bytes")
    return bytes(data)


def _name_of(parts: SplitResult) -> str:
    return PurePosixPath(unquote(parts.path)).name or parts.hostname or "the address"
