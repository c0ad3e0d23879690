"""An OpenAI-compatible endpoint, asked patiently: what is worth another try gets one."""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from video_llama.errors import JudgeError, OptionError

KEY_VARIABLE = "VIDEO_LLAMA_JUDGE_KEY"
_BUSY = (408, 409, 425, 429)  # and 500 and above: worth another try
_THIS_ONE = (400, 413, 422)  # too long, or of what a filter does not let through
_FIRST_WAIT = 1.0  # seconds, doubled each time
_LONGEST_WAIT = 60.0
_MAX_REPLY = 1 << 20  # bytes


class RefusedRequestError(JudgeError):
    """A judge will not answer this request; others it may."""


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges.

    Attributes:
        url: of the endpoint, up to and with its version: "http://localhost:8000/v1".
        model: its name there.
        seed: sent along.
        timeout: seconds for one reply.
        attempts: tries before the judge counts as gone.
        workers: questions at the same time.

    Raises:
        OptionError: not an http(s) address, one with a password in it, or no model.
    """

    url: str
    model: str
    seed: int = 0
    timeout: float = 60.0
    attempts: int = 5
    workers: int = 4

    def __post_init__(self) -> None:
        wanted = "--judge wants an address such as http://localhost:8000/v1"
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # of a port that is no number, or brackets
            raise OptionError(wanted) from None
        if not known:
            raise OptionError(wanted)
        if parts.username or parts.password or parts.query:
            raise OptionError(
                f"--judge wants an address without credentials; give the key in {KEY_VARIABLE}"
            )
        if not self.model:
            raise OptionError("a judge is pinned by its name; give --judge-model")


class Endpoint:
    """Sends requests; of several threads at the same time, too.

    Args:
        options: where it is, and how patient to be.
        sleep: waits for so many seconds; tests replace it.

    Attributes:
        given_up: set it, and those that wait for another try give up.
    """

    def __init__(
        self, options: JudgeOptions, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.options = options
        self.given_up = threading.Event()
        self._sleep = sleep
        self._opener = _opener(options.url)

    def post(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request for a chat completion.

        Raises:
            RefusedRequestError: it refuses this request, and may take others.
            JudgeError: it refuses all, or cannot be reached often enough.
        """
        host = urlsplit(self.options.url).netloc
        pause = _FIRST_WAIT
        fault = ""
        for attempt in range(self.options.attempts):
            if attempt:
                self._sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, _LONGEST_WAIT)
            if self.given_up.is_set():
                break
            try:
                return self._send(request)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code in _THIS_ONE:
                        raise RefusedRequestError(
                            f"{_refusal(host, error)}{_told(error)}"
                        ) from None
                    if error.code not in _BUSY and error.code < 500:
                        raise JudgeError(_refusal(host, error)) from None
                    fault = f"answers {error.code}"
                    pause = max(pause, _retry_after(error))
            except (OSError, http.client.HTTPException, ValueError) as error:
                # Not the error's own text, which may hold an address or a part of a reply.
                reason = getattr(error, "reason", error)
                fault = f"cannot be reached or understood ({type(reason).__name__})"
        raise JudgeError(
            f"the judge at {host} {fault or 'was given up'}, {self.options.attempts} times; "
            "run it again later: what it said is kept"
        )

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "User-Agent": "video-llama"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(
            self.options.url.rstrip("/") + "/chat/completions",
            data=json.dumps(request).encode(),
            headers=headers,
        )
        with self._opener.open(asked, timeout=self.options.timeout) as answer:
            reply = json.loads(answer.read(_MAX_REPLY))
        if isinstance(reply, dict) and isinstance(reply.get("choices"), list):
            return reply
        raise ValueError("no list of choices")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key must not follow a redirect to somebody else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """Never."""


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Opens the endpoint's address; what runs on this machine is not asked for through a proxy."""
    own = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    proxies = [urllib.request.ProxyHandler({})] if own else []
    return urllib.request.build_opener(_NoRedirects, *proxies)


def _refusal(host: str, error: urllib.error.HTTPError) -> str:
    hints = {
        401: f"; put its key into {KEY_VARIABLE}",
        403: f"; put a key that may use it into {KEY_VARIABLE}",
        404: "; the address ends in its version, such as /v1, and --judge-model must exist there",
    }
    return f"the judge at {host} refuses with {error.code}{hints.get(error.code, '')}"


def _told(error: urllib.error.HTTPError) -> str:
    """What the endpoint says is wrong with a request, shortened; nothing where it does not say."""
    try:
        text = json.loads(error.read(_MAX_REPLY))["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    words = "".join(letter for letter in str(text) if letter.isprintable())
    return f": {words[:200]}"


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds the endpoint asks to wait for; 0 if it does not say."""
    value = error.headers.get("Retry-After") or ""
    return min(float(value), _LONGEST_WAIT) if value.isdigit() else 0.0
