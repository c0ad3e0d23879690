"""A browser's way in where keys are set: the key is typed once, and a cookie stands for it then.

Browsers send no Authorization header for a page; without this nobody could open it.
"""

import hashlib
import hmac
import html
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.types import Receive, Scope, Send

from video_llama.server.web.texts import Language, language_of

LOGIN = "/login"
COOKIE = "video_llama_session"
_FORM_BYTES = 4096
_PORTS = {"http": ":80", "https": ":443"}
_MOST_SESSIONS = 10_000  # those opened first end

# Nothing but this text, and a form that goes nowhere else.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class _Words:
    ask: str
    open: str
    wrong: str


_WORDS: dict[Language, _Words] = {
    "en": _Words("Key of this server", "Open", "This is not a key of this server."),
    "ru": _Words("Ключ этого сервера", "Войти", "Такого ключа у этого сервера нет."),
    "zh": _Words("此服务器的密钥", "进入", "这不是此服务器的密钥。"),
}

_PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>Video-LLaMA</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 1rem system-ui, sans-serif; display: grid; place-items: center; height: 90vh }}
form {{ display: grid; gap: .75rem; width: 20rem }}
input, button {{ font: inherit; padding: .5rem }}
p {{ color: #b00020; margin: 0 }}
</style></head><body>
<form method="post" action="{action}">
<h1>Video-LLaMA</h1>
<label for="key">{ask}</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
{wrong}<button>{open}</button>
</form></body></html>
"""


class Door:
    """Asks for a key, and knows whom it let in.

    Args:
        marks: SHA-256 of each key.
    """

    def __init__(self, marks: Sequence[bytes]) -> None:
        self._marks = marks
        self._owners: OrderedDict[bytes, str] = OrderedDict()  # by SHA-256 of what the cookie says

    def owner(self, headers: Headers) -> str | None:
        """The mark of the key that a browser has given; None where it gave none.

        A cookie comes along also when the page of another site asks, so that is looked at, too.
        """
        origin = headers.get("origin")
        host = headers.get("host", "")
        if origin is not None and _place_of(origin) != _without_port(origin, host):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return None
        given = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return self._owners.get(mark_of(given))

    def form(self, headers: Headers, *, wrong: bool = False) -> HTMLResponse:
        """Asks for the key."""
        language = language_of(headers.get("accept-language"))
        words = _WORDS[language]
        body = _PAGE.format(
            language=language,
            action=LOGIN,
            ask=html.escape(words.ask),
            open=html.escape(words.open),
            wrong=f"<p>{html.escape(words.wrong)}</p>\n" if wrong else "",
        )
        more = {
            **_HEADERS,
            "content-security-policy": _POLICY,
            "www-authenticate": "Bearer",
        }
        return HTMLResponse(body, 401, more)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The form comes back."""
        headers = Headers(scope=scope)
        key = await _read_key(receive) if scope["method"] == "POST" else ""
        mark = mark_of(key)
        matches = [hmac.compare_digest(mark, known) for known in self._marks]  # all of them
        if not any(matches):
            await self.form(headers, wrong=bool(key))(scope, receive, send)
            return
        session = secrets.token_urlsafe(32)
        self._owners[mark_of(session)] = mark.hex()
        if len(self._owners) > _MOST_SESSIONS:
            self._owners.popitem(last=False)
        cookie = f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict"
        opened = RedirectResponse("/", 303, {**_HEADERS, "set-cookie": cookie})
        await opened(scope, receive, send)


def _place_of(origin: str) -> str:
    """Host and port of an origin; nothing where it is none, as in "null" or "http://["."""
    try:
        return _without_port(origin, urlsplit(origin).netloc)
    except ValueError:
        return ""


def _without_port(origin: str, place: str) -> str:
    """Without the port that goes without saying: a proxy may add it, a browser leaves it out."""
    return place.removesuffix(_PORTS.get(origin.partition(":")[0].lower(), ""))


async def _read_key(receive: Receive) -> str:
    """What the form says; nothing, if it is longer than such a form."""
    body, more = b"", True
    while more and len(body) <= _FORM_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    if len(body) > _FORM_BYTES:
        return ""
    return parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()


def mark_of(text: str) -> bytes:
    """SHA-256: it tells a key again, and not what it is."""
    return hashlib.sha256(text.encode()).digest()
