"""Every "no" the server says: a status, words for a person, a code for a program.

The words never hold paths, addresses or the text of other exceptions.
"""

from typing import Any

from video_llama.errors import (
    CorruptMediaError,
    ForbiddenSourceError,
    MediaError,
    MediaLimitError,
    MediaNotFoundError,
    OptionError,
    PromptError,
    PromptTooLongError,
    UnsupportedMediaError,
    VideoLlamaError,
)

RETRY_AFTER = 1  # seconds, where nobody knows better
SWEPT_EVERY = 60  # seconds; then files that have expired are gone
OVERDUE_RETRY = 10  # seconds; whoever has waited in vain lets others have their turn
INVALID = "invalid_request_error"
FAULT = "server_error"

MEDIA_CODES: dict[type[MediaError], str] = {
    MediaNotFoundError: "media_not_found",
    UnsupportedMediaError: "unsupported_media",
    CorruptMediaError: "corrupt_media",
    MediaLimitError: "media_limit",
    ForbiddenSourceError: "forbidden_source",
}


class Refusal(VideoLlamaError):  # noqa: N818 (often nothing is wrong)
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message, type, code, param: as in OpenAI's errors; `param` names the field at fault.
        retry_after: seconds after which another try may succeed; None where it would not.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = INVALID,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI sends it."""
        fields = {"message": self.message, "type": self.type, "param": self.param}
        return {"error": {**fields, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def media_code(error: MediaError) -> str:
    """The kind of trouble with a medium, for programs and for metrics."""
    return next((code for kind, code in MEDIA_CODES.items() if isinstance(error, kind)), "media")


def refusal_of(error: VideoLlamaError, param: str | None = None) -> Refusal:
    """The refusal that an error of this package means; of any other the words are not told."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, MediaError):
        return Refusal(422, str(error), code=media_code(error), param=param)
    if isinstance(error, PromptTooLongError):
        code = "context_length_exceeded"
        return Refusal(400, str(error), code=code, param=param or "messages")
    if isinstance(error, PromptError):
        return Refusal(400, str(error), code="invalid_messages", param=param or "messages")
    if isinstance(error, OptionError):
        return Refusal(400, str(error), code="invalid_value", param=param)
    return fault()


def busy(retry_after: int = RETRY_AFTER) -> Refusal:
    """As many requests wait as may."""
    return Refusal(
        429,
        "the server is busy and its queue is full; try again in a moment",
        code="queue_full",
        kind="rate_limit_error",
        retry_after=max(RETRY_AFTER, retry_after),
    )


def storage_full() -> Refusal:
    """As many files are kept as may be."""
    return Refusal(
        429,
        "no more files can be kept now; delete some, or come again when they have expired",
        code="storage_full",
        kind="rate_limit_error",
        retry_after=SWEPT_EVERY,
    )


def disk_full() -> Refusal:
    """There is no room where files are kept, whoever has taken it."""
    message = "the server has no room on its disk for this file; come again later"
    return Refusal(503, message, code="storage_full", kind=FAULT, retry_after=SWEPT_EVERY)


def overdue() -> Refusal:
    """A request whose time was over before there was anything of an answer."""
    message = "the server did not come to answer in time; try again, or with fewer or shorter media"
    return Refusal(503, message, code="overdue", kind=FAULT, retry_after=OVERDUE_RETRY)


def closing() -> Refusal:
    """The server is about to end."""
    message = "the server is shutting down and takes no new requests"
    return Refusal(503, message, code="shutting_down", kind=FAULT, retry_after=RETRY_AFTER)


def too_large(count: int, *, upload: bool = False) -> Refusal:
    """A body, or a file that is uploaded, of more than `count` bytes."""
    way = "make the file smaller" if upload else "large media go to /v1/files"
    message = f"more than {count:,} bytes are not accepted here; {way}"
    return Refusal(413, message, code="too_large")


def fault() -> Refusal:
    """What should not happen; the log of the server has the rest."""
    return Refusal(500, "a fault in the server; its log tells more", code="fault", kind=FAULT)
