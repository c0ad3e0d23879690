"""A language model behind an OpenAI-compatible endpoint, asked whether answers are right.

It is pinned: model, prompt and seed stand in the results, and what it said is kept and never asked
again. An answer of the judge that cannot be read is counted, and is no verdict.
"""

import hashlib
import http.client
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

from video_llama.errors import JudgeError, OptionError
from video_llama.evaluation.journal import Journal
from video_llama.evaluation.task import Answered

KEY_VARIABLE = "VIDEO_LLAMA_JUDGE_KEY"
SYSTEM = (
    "You grade answers to questions about a video. Compare the given answer with the true answer "
    "and judge whether it means the same. Other words, a different order and more detail are "
    "right as long as nothing contradicts the true answer."
)
PROMPT = (
    "Question: {question}\nTrue answer: {reference}\nGiven answer: {prediction}\n\n"
    'Reply with JSON only: {{"correct": "yes" or "no", "score": 0 to 5}}, where 5 is a full match.'
)
MAX_TOKENS = 64
_BUSY = (408, 409, 425, 429)  # and 500 and above: worth another try
_FIRST_WAIT = 1.0  # seconds, doubled each time
_LONGEST_WAIT = 60.0
_MAX_REPLY = 1 << 20


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
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError("--judge wants an address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise OptionError(
                f"--judge wants an address without credentials; give the key in {KEY_VARIABLE}"
            )
        if not self.model:
            raise OptionError("a judge is pinned by its name; give --judge-model")


@dataclass(frozen=True)
class Verdict:
    """What the judge said of an answer: right or not, and 0 to 5; None where it gave no score."""

    correct: bool
    score: float | None


class Judge:
    """Asks, remembers, and tries again when the endpoint is busy.

    Args:
        options: who judges.
        journal: what it said before.
        sleep: waits for so many seconds; tests replace it.
    """

    def __init__(
        self,
        options: JudgeOptions,
        journal: Journal,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.options = options
        self.journal = journal
        self._sleep = sleep
        self._opener = _opener(options.url)
        self._said = {line["request"]: line["reply"] for line in journal.records}
        self._served = {line["served_by"] for line in journal.records if line.get("served_by")}
        self._lock = threading.Lock()
        self._gone = threading.Event()

    def verdicts(
        self,
        answered: Sequence[Answered],
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Verdict | None]:
        """A verdict for each answer; None where the judge's reply cannot be read.

        Raises:
            JudgeError: it cannot be reached, or refuses. What it said until then is kept.
        """
        requests = [self._request(one) for one in answered]
        keys = [_key(request) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in self._said
        }
        self._ask_all(missing, progress)
        return [read_verdict(self._said[key]) for key in keys]

    def describe(self) -> dict[str, Any]:
        """The judge as results name it."""
        return {
            "model": self.options.model,
            "served_by": sorted(self._served),
            "seed": self.options.seed,
            "temperature": 0,
            "system": SYSTEM,
            "prompt": PROMPT,
        }

    def _request(self, one: Answered) -> dict[str, Any]:
        text = PROMPT.format(
            question=one.question.text,
            reference=" / ".join(one.question.references),
            prediction=one.prediction,
        )
        return {
            "model": self.options.model,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": text},
            ],
            "temperature": 0,
            "seed": self.options.seed,
            "max_tokens": MAX_TOKENS,
        }

    def _ask_all(
        self,
        missing: dict[str, dict[str, Any]],
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._gone.clear()
        done = 0
        with ThreadPoolExecutor(self.options.workers, "judge") as pool:
            running: set[Future[None]] = {
                pool.submit(self._ask, key, request) for key, request in missing.items()
            }
            try:
                while running:
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    done += len(ended)
                    _raise_first(ended)
                    if progress:
                        progress(done, len(missing))
            except BaseException:
                self._gone.set()  # those that wait for another try give up
                pool.shutdown(cancel_futures=True)
                raise

    def _ask(self, key: str, request: dict[str, Any]) -> None:
        reply = self._post(request)
        line = {
            "request": key,
            "reply": _content(reply),
            "served_by": " ".join(
                str(reply[name]) for name in ("model", "system_fingerprint") if reply.get(name)
            ),
        }
        with self._lock:
            self.journal.append([line])
            self._said[key] = line["reply"]
            if line["served_by"]:
                self._served.add(line["served_by"])

    def _post(self, request: dict[str, Any]) -> dict[str, Any]:
        host = urlsplit(self.options.url).netloc
        pause = _FIRST_WAIT
        fault = ""
        for attempt in range(self.options.attempts):
            if attempt:
                self._sleep(pause * random.uniform(0.8, 1.2))
                pause = min(2 * pause, _LONGEST_WAIT)
            if self._gone.is_set():
                break
            try:
                return self._send(request)
            except urllib.error.HTTPError as error:
                with error:
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


def read_verdict(reply: str) -> Verdict | None:
    """The verdict in a reply; None when there is none, or it contradicts itself."""
    correct = set(re.findall(r"[\"']?correct[\"']?\s*:\s*[\"']?(yes|no|true|false)", reply, re.I))
    answers = {word.lower() in ("yes", "true") for word in correct}
    if len(answers) != 1:
        return None
    score = re.search(r"[\"']?score[\"']?\s*:\s*[\"']?([0-5](?:\.\d+)?)(?![\d.])", reply, re.I)
    return Verdict(answers.pop(), float(score.group(1)) if score else None)


def judge_metrics(verdicts: Sequence[Verdict | None]) -> dict[str, Any]:
    """Accuracy and mean score over the verdicts that could be read."""
    given = [verdict for verdict in verdicts if verdict is not None]
    scores = [verdict.score for verdict in given if verdict.score is not None]
    return {
        "n": len(given),
        "unreadable": len(verdicts) - len(given),
        "accuracy": round(sum(verdict.correct for verdict in given) / max(1, len(given)), 4),
        "score": round(sum(scores) / max(1, len(scores)), 4),
    }


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


def _raise_first(ended: Iterable[Future[None]]) -> None:
    for future in ended:
        future.result()


def _content(reply: dict[str, Any]) -> str:
    """What the judge said; "" where a reply has no text."""
    choices = reply["choices"]
    message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def _key(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _refusal(host: str, error: urllib.error.HTTPError) -> str:
    hints = {
        401: f"; put its key into {KEY_VARIABLE}",
        403: f"; put a key that may use it into {KEY_VARIABLE}",
        404: "; the address ends in its version, such as /v1, and --judge-model must exist there",
    }
    return f"the judge at {host} refuses with {error.code}{hints.get(error.code, '')}"


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds the endpoint asks to wait for; 0 if it does not say."""
    value = error.headers.get("Retry-After") or ""
    return min(float(value), _LONGEST_WAIT) if value.isdigit() else 0.0
