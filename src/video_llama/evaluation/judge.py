"""A language model behind an OpenAI-compatible endpoint, asked whether answers are right.

It is pinned: model, prompt and seed stand in the results, and a verdict is kept and never asked
for again. A reply that cannot be read is counted and is no verdict; the next run asks again.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from video_llama.errors import JudgeError
from video_llama.evaluation.endpoint import Endpoint, JudgeOptions, RefusedRequestError
from video_llama.evaluation.journal import Journal
from video_llama.evaluation.task import Answered

SYSTEM = (
    "You grade answers to questions about a video. Compare the given answer with the true answer "
    "and judge whether it means the same. Other words, a different order and more detail are "
    "right as long as nothing contradicts the true answer."
)
PROMPT = (
    "Question: {question}\nTrue answer: {reference}\nGiven answer: {prediction}\n\n"
    'Reply with JSON only: {{"correct": "yes" or "no", "score": 0 to 5}}, where 5 is a full match.'
)
_MOST_REFUSED = 8  # single requests, before any was taken: then all of them would be
MAX_TOKENS = 1024  # of a reply: a model that thinks first needs most of them


@dataclass(frozen=True)
class Verdict:
    """What the judge said of an answer: right or not, and 0 to 5; None where it gave no score."""

    correct: bool
    score: float | None


class Judge:
    """Asks, and remembers. Once it has raised it is of no more use.

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
        self._endpoint = Endpoint(options, sleep)
        self._said = {
            line["request"]: line["reply"]
            for line in journal.records
            if read_verdict(line["reply"])
        }
        self._served = {line["served_by"] for line in journal.records if line.get("served_by")}
        self._lock = threading.Lock()
        self._refusals: list[str] = []  # of single requests
        self._accepted = False  # any request

    def verdicts(
        self,
        answered: Sequence[Answered],
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Verdict | None]:
        """A verdict for each answer; None where the judge's reply cannot be read.

        Raises:
            JudgeError: it cannot be reached, or refuses everything. What it said until then is
                kept.
        """
        requests = [self._request(one) for one in answered]
        keys = [_key(request) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if key not in self._said
        }
        self._refusals.clear()
        self._ask_all(missing, progress)
        if missing and len(self._refusals) == len(missing):
            raise JudgeError(self._refusals[0])
        return [read_verdict(self._said[key]) for key in keys]

    def describe(self) -> dict[str, Any]:
        """The judge as results name it."""
        return {
            "model": self.options.model,
            "served_by": sorted(self._served),
            "seed": self.options.seed,
            "temperature": 0,
            "system": SYSTEM,
            "prompt": PROMPT.replace("{{", "{").replace("}}", "}"),  # as it is sent
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
        with ThreadPoolExecutor(self.options.workers, "judge") as pool:
            running = [pool.submit(self._ask, key, request) for key, request in missing.items()]
            try:
                for done, ended in enumerate(as_completed(running), start=1):
                    ended.result()
                    if progress:
                        progress(done, len(missing))
            except BaseException:
                self._endpoint.given_up.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _ask(self, key: str, request: dict[str, Any]) -> None:
        try:
            reply = self._endpoint.post(request)
        except RefusedRequestError as error:  # counted as a reply that cannot be read
            with self._lock:
                self._refusals.append(str(error))
                if len(self._refusals) == _MOST_REFUSED and not self._accepted:
                    raise JudgeError(str(error)) from None
                self._said[key] = ""
                self.journal.append([{"request": key, "reply": "", "refused": str(error)}])
            return
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
            self._accepted = True
            if line["served_by"]:
                self._served.add(line["served_by"])


def read_verdict(reply: str) -> Verdict | None:
    """The verdict in a reply; None when there is none, or it contradicts itself.

    What a model thinks is left out: all before the last "</think>", or after a "<think>" whose end
    is cut off.
    """
    reply = reply.rpartition("</think>")[2].partition("<think>")[0]
    said = r"\bcorrect[\"']?\s*:\s*[\"']?(yes|no|true|false)\b(?!\s+sure)"
    correct = set(re.findall(said, reply, re.I))
    answers = {word.lower() in ("yes", "true") for word in correct}
    if len(answers) != 1:
        return None
    score = re.search(r"\bscore[\"']?\s*:\s*[\"']?([0-5](?:\.\d+)?)(?!\d|\.\d)", reply, re.I)
    return Verdict(answers.pop(), float(score.group(1)) if score else None)


def judge_metrics(verdicts: Sequence[Verdict | None]) -> dict[str, Any]:
    """Accuracy and mean score over the verdicts that could be read; None where there are none."""
    given = [verdict for verdict in verdicts if verdict is not None]
    scores = [verdict.score for verdict in given if verdict.score is not None]
    return {
        "n": len(given),
        "unreadable": len(verdicts) - len(given),
        "accuracy": _mean([verdict.correct for verdict in given]),
        "score": _mean(scores),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _content(reply: dict[str, Any]) -> str:
    """What the judge said; "" where a reply has no text."""
    choices = reply["choices"]
    message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):  # as some endpoints send it, in parts
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _key(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
