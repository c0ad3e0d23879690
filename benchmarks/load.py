"""A server under load for minutes: clients that hang up, bad media, decoders that are killed.

    python benchmarks/load.py [--minutes 10] [--conversations 64] [--model nano]

Starts `video-llama serve` and talks to it with the official client. Each conversation asks about a
clip, sent in the request or uploaded before, then asks on; a share of the requests is cut off after
the first piece, and a share brings media that cannot be decoded. Now and then a decoding process is
killed. Prints JSON: what became of the requests, seconds to the first piece, memory over the time,
and what was found when all had gone: the server must be empty, healthy and end in good order.
Answers are greedy: two conversations that said the same about the same clip must hear the same.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from circumstances import circumstances
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI

COMMAND = (sys.executable, "-m", "video_llama")
QUESTIONS = ("What do you see?", "What do you hear?", "Which colour is it?", "How does it move?")
TURNS = 4
HANG_UPS = 0.10  # of the requests
BAD = 0.15  # of the conversations, which end there: one in twenty requests
SETTLING = 300.0  # seconds until memory is looked at: the caches, which are bounded, fill first
GROWTH = 0.10  # of memory after that, at most


class Load:
    """Clients of one server, and what they met.

    Attributes:
        outcomes: how requests ended: "answered", "hung up", or a status with a code.
        wrong: outcomes that should not have been.
        waits: seconds to the first piece of an answer.
    """

    def __init__(self, url: str, clips: list[Path], end: float) -> None:
        self.client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300)
        self.clips = clips
        self.end = end
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.waits: list[float] = []
        self.heard: dict[tuple[str, ...], str] = {}  # answers, by the clip and what was said

    async def talk(self, number: int) -> None:
        """Conversation after conversation, until the time is over."""
        chance = random.Random(number)
        while time.monotonic() < self.end:
            bad = chance.random() < BAD
            clip = chance.choice(self.clips)
            data = broken(chance) if bad else clip.read_bytes()
            try:
                part, held = await self.part(data, upload=chance.random() < 0.5)
            except APIStatusError as error:
                await self.refused(error, bad=bad)
                continue
            messages: list[Any] = []
            texts = [clip.name]
            for turn in range(TURNS):
                texts.append(chance.choice(QUESTIONS))
                text = {"type": "text", "text": texts[-1]}
                content = [text] if turn else [part, text]
                messages.append({"role": "user", "content": content})
                said = await self.ask(messages, hang_up=chance.random() < HANG_UPS, bad=bad)
                if said is None or time.monotonic() > self.end:
                    break
                if self.heard.setdefault(tuple(texts), said) != said:
                    self.note("another answer to the same", wrong=True)
                texts.append(said)
                messages.append({"role": "assistant", "content": said})
            if held is not None:
                await self.client.files.delete(held)

    async def part(self, data: bytes, *, upload: bool) -> tuple[dict[str, Any], str | None]:
        """A video of a message, and the id of the file if it was uploaded."""
        if upload:
            held = await self.client.files.create(file=("clip.mp4", data), purpose="user_data")
            return {"type": "file", "file": {"file_id": held.id}}, held.id
        url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
        return {"type": "video_url", "video_url": {"url": url}}, None

    async def ask(self, messages: list[Any], *, hang_up: bool, bad: bool) -> str | None:
        """An answer; None if there is none to go on from."""
        began = time.monotonic()
        try:
            stream = await self.client.chat.completions.create(
                model="load", messages=messages, stream=True, max_completion_tokens=64
            )
            pieces = []
            async with stream:
                async for chunk in stream:
                    if not chunk.choices or not chunk.choices[0].delta.content:
                        continue
                    if not pieces:
                        self.waits.append(time.monotonic() - began)
                    pieces.append(chunk.choices[0].delta.content)
                    if hang_up:
                        self.outcomes["hung up"] += 1
                        return None
        except APIStatusError as error:
            return await self.refused(error, bad=bad)
        except (APIConnectionError, APIError) as error:
            self.note(f"broken off: {type(error).__name__}: {error}", wrong=True)
            return None
        self.note("answered", wrong=bad or not pieces)
        return "".join(pieces)

    async def refused(self, error: APIStatusError, *, bad: bool) -> None:
        """A status that is not 200: 422 for bad media, 429 when the queue is full."""
        outcome = f"{error.status_code} {error.code}"
        if error.status_code == 422 and not bad:
            self.note(f"{outcome} of good media", wrong=False)  # its decoder was killed: counted
            return
        self.note(outcome, wrong=error.status_code not in (422, 429))
        if error.status_code == 429:
            await asyncio.sleep(float(error.response.headers.get("retry-after", "1")))

    def note(self, outcome: str, *, wrong: bool) -> None:
        self.outcomes[outcome] += 1
        if wrong:
            self.wrong.append(outcome)


def broken(chance: random.Random) -> bytes:
    """Nothing that can be decoded."""
    return b"\0\0\0\x20ftypisom" + chance.randbytes(20_000)


def children(process: int) -> list[int]:
    """Of a process, by the kernel."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(one) for one in task.read_text().split()]
    return found


def descendants(process: int) -> Iterator[int]:
    for child in children(process):
        yield child
        yield from descendants(child)


def decoders(server: int) -> list[int]:
    """Processes that were forked by a process the server started."""
    return [forked for child in children(server) for forked in children(child)]


def memory(process: int) -> int:
    """Bytes that are a process's own."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        private = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
        return 1024 * sum(private)
    return 0


async def watch(server: int, began: float, end: float, samples: list[dict[str, float]]) -> None:
    """Memory and threads of the server, every five seconds."""
    while time.monotonic() < end:
        threads = len(list(Path(f"/proc/{server}/task").iterdir()))
        files = len(list(Path(f"/proc/{server}/fd").iterdir()))
        samples.append(
            {
                "seconds": time.monotonic() - began,
                "bytes": memory(server),
                "others_bytes": sum(map(memory, descendants(server))),
                "threads": threads,
                "files": files,
            }
        )
        await asyncio.sleep(5)


async def kill(server: int, every: float, end: float) -> int:
    """Kill a decoder now and then; how many were."""
    killed, chance = 0, random.Random(0)
    while time.monotonic() + every < end:
        await asyncio.sleep(every)
        running = decoders(server)
        if running:
            os.kill(chance.choice(running), signal.SIGKILL)
            killed += 1
    return killed


@contextlib.contextmanager
def running(model: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and its address."""
    command = [*COMMAND, "serve", model, "--port", "0", "--name", "load", "--no-page"]
    log = folder / "server.log"
    with (
        log.open("w") as written,
        subprocess.Popen(command, stderr=written, text=True) as process,
    ):
        try:
            address = None
            while address is None:
                if process.poll() is not None:
                    sys.exit(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.1)
                address = re.search(r"http://[\d.]+:\d+", log.read_text())
            yield process, address[0]
        finally:
            process.kill()


def state(url: str) -> dict[str, float]:
    """What the server says of itself."""
    values = {}
    with urlopen(f"{url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    for line in lines:
        found = re.fullmatch(r"video_llama_([a-z_]+) ([0-9.e+-]+)", line)
        if found:
            values[found[1]] = float(found[2])
    return values


def wait_until_ready(url: str) -> None:
    """Raises URLError if it is not within a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urlopen(f"{url}/ready", timeout=60).close()
        except HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


async def drive(
    process: int, url: str, clips: list[Path], arguments: argparse.Namespace
) -> dict[str, Any]:
    """All conversations; what was seen."""
    began = time.monotonic()
    end = began + 60 * arguments.minutes
    load, samples = Load(url, clips, end), []
    *_, killed = await asyncio.gather(
        *(load.talk(number) for number in range(arguments.conversations)),
        watch(process, began, end, samples),
        kill(process, arguments.kill_every, end),
    )
    await load.client.close()
    total = sum(load.outcomes.values())
    waits = sorted(load.waits)
    return {
        "requests": total,
        "requests_per_second": total / (time.monotonic() - began),
        "outcomes": dict(load.outcomes.most_common()),
        "wrong": load.wrong[:20],
        "first_piece": {
            "median": statistics.median(waits),
            "p95": waits[round(0.95 * (len(waits) - 1))],
        },
        "killed_decoders": killed,
        "memory": steadiness(samples),
        "samples": samples,
    }


def steadiness(samples: list[dict[str, float]]) -> dict[str, float]:
    """Of the server's memory once it has settled: early and late medians, and the growth."""
    settled = [sample["bytes"] for sample in samples if sample["seconds"] >= SETTLING]
    part = max(1, len(settled) // 5)
    early, late = statistics.median(settled[:part]), statistics.median(settled[-part:])
    return {"early_bytes": early, "late_bytes": late, "growth": late / early - 1}


def lost(outcomes: dict[str, int]) -> int:
    """Requests with good media that were refused."""
    return sum(count for outcome, count in outcomes.items() if outcome.endswith("good media"))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    before = circumstances()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [*COMMAND, "world", str(folder / "world"), "--count", str(arguments.clips)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        clips = sorted((folder / "world").rglob("*.mp4"))
        with running(arguments.model, folder) as (process, url):
            wait_until_ready(url)
            report = asyncio.run(drive(process.pid, url, clips, arguments))
            deadline = time.monotonic() + 30
            while (after := state(url))["requests_open"] and time.monotonic() < deadline:
                time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            report["after"] = {**after, "exit_status": process.wait(60)}
            report["log"] = (folder / "server.log").read_text().splitlines()[1:][:20]
    after = report["after"]
    report["targets"] = {
        "nothing wrong": not report["wrong"],
        # A killed decoder costs those who wait for its medium, and no one else.
        "killed decoders cost their media": lost(report["outcomes"])
        <= 2 * report["killed_decoders"],
        "empty afterwards": after["requests_open"] == 0 and after["requests_running"] == 0,
        "ends in order": after["exit_status"] == 0,
        "memory flat": report["memory"]["growth"] <= GROWTH,
    }
    return {"settings": vars(arguments), **report, "circumstances": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--clips", type=int, default=200, help="different ones")
    parser.add_argument("--kill-every", type=float, default=20, help="seconds between decoders")
    given = parser.parse_args()
    if given.minutes * 60 <= SETTLING:
        parser.error(f"--minutes: memory is looked at after {SETTLING / 60:g} of them; give more")
    json.dump(run(given), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
