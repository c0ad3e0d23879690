"""What Prometheus is told. Names, not contents: nothing of a request is in here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from video_llama.server.serving import Serving

CHAT = "/v1/chat/completions"
GONE = 499  # the status of a request whose asker went away; nobody reads the response
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts of one server; another one in the same process has its own.

    Attributes:
        requests: answers by the status they had; 499 where the asker went away first.
        first_token, between_tokens: seconds.
        media_seconds: by step: "open" (fetch, read, checksum), "decode", "encode".
        media_failures: by cause, the code of the refusal.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"video_llama_{name}", words, labels, registry=self.registry)

        def histogram(name: str, words: str, *labels: str) -> Histogram:
            name = f"video_llama_{name}"
            return Histogram(name, words, labels, registry=self.registry, buckets=_SECONDS)

        self.requests = counter("requests", "Chat requests, by status.", "status")
        self.first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first text."
        )
        self.between_tokens = histogram(
            "time_between_pieces_seconds", "Between two pieces of an answer."
        )
        self.media_seconds = histogram("media_seconds", "Time for a medium, by step.", "step")
        self.media_failures = counter("media_failures", "Media refused, by cause.", "cause")

    def watch(self, serving: "Serving") -> None:
        """Tell what a server is doing whenever somebody asks."""
        self.registry.register(_State(serving))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class Counted:
    """The middleware that counts chat requests by status, whatever on the way has answered them."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", CHAT):
            await self._app(scope, receive, send)
            return
        counted = False

        def count(status: int) -> None:
            nonlocal counted
            if not counted:
                counted = True
                self._metrics.requests.labels(str(status)).inc()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        except Exception:
            count(500)  # answered further out
            raise
        finally:
            count(GONE)  # nobody was answered


class _State(Collector):
    def __init__(self, serving: "Serving") -> None:
        self._serving = serving

    def describe(self) -> Iterator[Metric]:
        """Nothing: a look at a server that is not up yet is not wanted."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read from the server itself."""
        for name, value in self._serving.state().items():
            if name.endswith("_total"):
                short = name.removesuffix("_total")
                yield CounterMetricFamily(f"video_llama_{short}", _WORDS[name], value=value)
            else:
                yield GaugeMetricFamily(f"video_llama_{name}", _WORDS[name], value=value)


_WORDS = {
    "requests_open": "Chat requests that have a place, whatever they are at.",
    "requests_running": "Answers that the model writes now.",
    "requests_waiting": "Answers that wait for the model.",
    "prompt_tokens_total": "Tokens of prompts.",
    "reused_tokens_total": "Tokens of prompts that were kept.",
    "completion_tokens_total": "Tokens of answers, those that nobody waited for among them.",
    "files_bytes": "Bytes of uploaded files.",
    "feature_cache_hits_total": "Media that were known already.",
    "feature_cache_misses_total": "Media that had to be decoded and encoded.",
    "decoders_replaced_total": "Decoding processes that ended and were replaced.",
}
