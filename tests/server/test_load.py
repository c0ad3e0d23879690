"""Conversations at the same time, some of which go wrong: nothing is lost, nothing mixed up."""

import asyncio
import os
import signal
from collections import Counter
from itertools import combinations

import pytest
from openai import APIStatusError, AsyncOpenAI

CONVERSATIONS, TURNS = 24, 3
Answer = tuple[str, list[float]]
COLOURS = ("red", "green", "blue", "white", "black", "yellow")
HANG_UP, BAD = 5, 8  # every so many conversations, at its second turn; at its first


def is_bad(number: int) -> bool:
    return number % BAD == BAD - 1


class Talks:
    """Conversations, how their requests ended, and what was heard.

    Attributes:
        outcomes: "answered", "hung up", or a status with a code.
        heard: answers and how likely their tokens were, by all that was said before; a model that
            was never trained says the same to all, but not as surely.
        mixed: what was heard otherwise before.
    """

    def __init__(self, client: AsyncOpenAI, pictures: list[str], bad: str) -> None:
        self.client = client
        self.pictures = pictures
        self.bad = bad
        self.outcomes: Counter[str] = Counter()
        self.heard: dict[str, Answer] = {}
        self.mixed: list[Answer] = []

    async def talk(self, number: int) -> None:
        url = self.bad if is_bad(number) else self.pictures[number % len(self.pictures)]
        part = {"type": "image_url", "image_url": {"url": url}}
        messages: list = []
        for turn in range(TURNS):
            asked = COLOURS[number % len(COLOURS)] * 4
            text = {"type": "text", "text": f"{asked} {turn}?"}
            messages.append({"role": "user", "content": [text] if turn else [part, text]})
            said = await self.ask(messages, hang_up=turn == 1 and number % HANG_UP == 0)
            if said is None:
                return
            if not same(self.heard.setdefault(str(messages), said), said):
                self.mixed.append(said)
            messages.append({"role": "assistant", "content": said[0]})

    async def ask(self, messages: list, *, hang_up: bool) -> Answer | None:
        text, logprobs = "", []
        try:
            stream = await self.client.chat.completions.create(
                model="tiny",
                messages=messages,
                stream=True,
                max_completion_tokens=16,
                logprobs=True,
            )
            async with stream:
                async for chunk in stream:
                    choice = chunk.choices[0]
                    text += choice.delta.content or ""
                    if choice.logprobs is not None:
                        logprobs += [token.logprob for token in choice.logprobs.content]
                    if hang_up:
                        self.outcomes["hung up"] += 1
                        return None
        except APIStatusError as error:
            self.outcomes[f"{error.status_code} {error.code}"] += 1
            return None
        self.outcomes["answered"] += 1
        return text, logprobs


def same(one: Answer, other: Answer) -> bool:
    return one[0] == other[0] and one[1] == pytest.approx(other[1], abs=0.01)


async def break_decoder(pool) -> None:
    """Kill it while it has something to do."""
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    while not pool._idle.empty():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    os.kill(process, signal.SIGKILL)


@pytest.mark.timeout(120)
def test_conversations_of_which_some_go_wrong(start, png, data_url, eventually):
    running = start(serving={"places": CONVERSATIONS}, slots=8)
    pictures = [data_url(png(colour=colour)) for colour in COLOURS]

    async def together(*others) -> Talks:
        async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="-", max_retries=0) as client:
            talks = Talks(client, pictures, data_url(b"no media"))
            await asyncio.gather(*others, *map(talks.talk, range(CONVERSATIONS)))
        return talks

    bad = {number for number in range(CONVERSATIONS) if is_bad(number)}
    hung_up = {*range(0, CONVERSATIONS, HANG_UP)} - bad
    broken = asyncio.run(together(break_decoder(running.server.decoders)))
    whole = asyncio.run(together())
    assert whole.outcomes == {
        "answered": (CONVERSATIONS - len(bad) - len(hung_up)) * TURNS + len(hung_up),
        "hung up": len(hung_up),
        "422 unsupported_media": len(bad),
    }
    # A decoder that was killed costs those who wait for its medium, and nobody else.
    assert set(broken.outcomes) <= {*whole.outcomes, "422 corrupt_media"}
    assert 0 < broken.outcomes["422 corrupt_media"] <= CONVERSATIONS // len(COLOURS)
    assert running.server.decoders.replaced == 1
    assert not whole.mixed + broken.mixed
    assert all(same(whole.heard[said], answer) for said, answer in broken.heard.items())
    assert len(whole.heard) == len(COLOURS) * TURNS
    pairs = combinations(whole.heard.values(), 2)
    assert not any(same(*pair) for pair in pairs)  # or nothing would be known
    eventually(lambda: running.open_requests() == 0 and running.running() == 0)
    with running.http() as http:
        assert http.get("/ready").status_code == 200
