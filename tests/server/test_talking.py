"""Questions of the page and their answers, without a browser."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from video_llama.server.refusal import Refusal, fault, overdue
from video_llama.server.web import talking
from video_llama.server.web.album import Album
from video_llama.server.web.conversation import Talk, Turn, Wishes
from video_llama.server.web.talking import Talker
from video_llama.server.web.texts import TEXTS

WISHES = Wishes(temperature=0, length=6, frames=4, sound=True)
FORM = (0, 6, 4, True)  # the same, as the page has them
SECRET = "/home/somebody/model.bin: CUDA out of memory"
REQUEST = SimpleNamespace(request=SimpleNamespace(state=SimpleNamespace(owner="")))


@pytest.fixture
def talker(api, assistant, tmp_path) -> Talker:
    album = Album(tmp_path / "seen", 60)
    return Talker(api.server.serving, api.server.files, assistant.processor, album)


async def all_of(steps: AsyncIterator) -> list:
    return [step async for step in steps]


def ask(talker: Talker, *files: Path, talk: Talk | None = None) -> Turn:
    async def answer() -> Turn:
        told = talk or Talk()
        turn = told.ask("What?", await talker.take("", files))
        await all_of(talker.answer("", told, WISHES))
        return turn

    return asyncio.run(answer())


def fail(*_: object, **__: object) -> None:
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("where", ["begin", "see", "model"])
def test_a_fault_is_told_without_its_words(talker, api, clip_path, monkeypatch, caplog, where):
    place, name = {
        "begin": (api.server.serving, "begin"),
        "see": (talking, "see"),
        "model": (api.server.serving, "_write"),
    }[where]
    monkeypatch.setattr(place, name, fail)
    turn = ask(talker, clip_path)
    assert (turn.state, turn.note, turn.code) == ("failed", fault().message, "fault")
    assert api.open_requests() == 0
    assert SECRET in caplog.text


def test_files_that_cannot_be_taken_are_told_without_their_path(talker, tmp_path):
    with pytest.raises(Refusal) as caught:
        asyncio.run(talker.take("", [tmp_path / "gone.mp4"]))
    assert caught.value.code == "fault"
    assert "gone" not in str(caught.value)


def test_a_content_is_kept_once_and_as_long_as_a_conversation_has_it(
    talker, api, clip_path, png, tmp_path
):
    files, picture = api.server.files, tmp_path / "picture.png"
    picture.write_bytes(png(colour="purple"))
    before = len(files.list("page"))

    def count() -> int:
        return len(files.list("page")) - before

    async def take(talk: Talk, *paths: Path) -> Turn:
        return talk.ask("What?", await talker.take("page", paths))

    one, other = Talk(), Talk()
    for talk in (one, one, other):
        asyncio.run(take(talk, clip_path))
    asyncio.run(take(one, picture))
    assert count() == 2
    talker.forget(one)
    assert one.turns == []
    assert count() == 1
    turn = other.last
    files.remove("page", turn.media[0].id)  # expired, say

    async def answer() -> None:
        await all_of(talker.answer("page", other, WISHES))

    asyncio.run(answer())
    assert turn.state in ("answered", "cut")
    assert count() == 1
    talker.forget(other)
    talker.forget(Talk())
    assert count() == 0


def test_how_answers_end(talker, api, monkeypatch):
    serving = api.server.serving
    api.slow_down(monkeypatch, 0.05)
    assert ask(talker).state == "cut"
    monkeypatch.setattr(talking, "_PAUSE", 0.0)
    monkeypatch.setattr(serving, "policy", replace(serving.policy, seconds=0.2))
    late = ask(talker)
    assert late.answer
    assert late.state == "late"
    monkeypatch.setattr(serving, "policy", replace(serving.policy, seconds=1e-9))
    never = ask(talker)
    assert (never.state, never.answer, never.note) == ("failed", "", overdue().message)
    assert never.code in TEXTS["ru"].reasons


def test_a_clip_whose_question_was_stopped_is_asked_about_next(talker, clip_path):
    talk = Talk()

    async def stop() -> None:
        talk.ask("What?", await talker.take("", [clip_path]))
        async with aclosing(talker.answer("", talk, WISHES)) as steps:
            await anext(steps)  # its media are there, nothing is said yet
        talk.last.answer = ""

    asyncio.run(stop())
    assert talk.last.state == "stopped"
    turn = ask(talker, talk=talk)
    assert [(seen.name, len(seen.frames)) for seen in turn.seen] == [(clip_path.name, 4)]


def test_media_of_the_next_question_are_not_taken_for_ones_own(
    talker, api, clip_path, monkeypatch, tmp_path, png
):
    picture = tmp_path / "other.png"
    picture.write_bytes(png())
    talk = Talk()
    begin = api.server.serving.begin

    async def interrupted(*given: object) -> object:
        talk.ask("And this?", await talker.take("", [picture, picture]))
        return await begin(*given)

    monkeypatch.setattr(api.server.serving, "begin", interrupted)
    turn = ask(talker, clip_path, talk=talk)
    assert turn.state in ("answered", "cut")
    assert [(seen.name, len(seen.frames)) for seen in turn.seen] == [(clip_path.name, 4)]


def test_a_clip_that_was_seen_is_not_decoded_to_be_shown_again(
    talker, api, clip_path, monkeypatch, tmp_path
):
    reads = []
    read = api.server.decoders.read
    monkeypatch.setattr(api.server.decoders, "read", lambda *a: reads.append(a) or read(*a))
    api.server.serving._assistant.media.features.clear()
    again = tmp_path / "another name.mkv"
    again.write_bytes(clip_path.read_bytes())
    first, second = ask(talker, clip_path), ask(talker, again)
    assert len(reads) == 1
    assert second.seen == (replace(first.seen[0], name=again.name),)
    assert second.seen[0].frames
    assert second.seen[0].mel
    (tmp_path / "seen" / Path(second.seen[0].mel).name).unlink()  # it has expired
    assert ask(talker, again).seen == second.seen
    assert len(reads) == 2


# The page's own functions


@pytest.fixture
def page(talker, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'video-llama[web]'")
    from video_llama.server.web.page import Page

    return Page(talker, 4, tmp_path)


def test_pictures_are_not_part_of_the_conversation(page, clip_path, monkeypatch):
    """All of it goes to the browser with each question."""
    monkeypatch.setattr(page, "_uploads", clip_path.parent)
    talk = Talk()
    asked = {"text": "What?", "files": [str(clip_path)]}
    for _ in range(3):
        steps = asyncio.run(all_of(page._ask(REQUEST, asked, talk, "en", *FORM)))
    shown = json.dumps(steps[-1][0], default=lambda html: html.value)
    assert shown.count("<img") == 3 * (4 + 1)
    assert len(shown) < 500 * 3 * (4 + 1)


def buttons(step: list) -> tuple[bool, bool]:
    """Whether stop and retry can be pressed."""
    return step[2]["interactive"], step[3]["interactive"]


def test_a_sample_ends_what_is_being_answered(page, api, monkeypatch, clip_path):
    let = api.hold(monkeypatch)
    talk = Talk()

    async def both() -> tuple[list, list]:
        talk.ask("First?", await page._talker.take("", [clip_path]))
        first = talk.last
        async with aclosing(page._answer(talk, TEXTS["en"], WISHES, REQUEST)) as running:
            await anext(running)
            await anext(running)  # its media are there
            sample = page._ask_sample("house_and_tree.png", 3)(REQUEST, talk, "en", *FORM)
            begun = [await anext(sample)]
            let(100)
            rest = [step async for step in running]
            begun += await all_of(sample)
        assert first is not None
        assert (first.state, first.seen[0].name) == ("stopped", clip_path.name)
        return rest, begun

    rest, sample = asyncio.run(both())
    assert not rest  # nothing more is shown of it
    assert buttons(sample[-1]) == (False, True)
    assert [turn.seen[0].name for turn in talk.turns] == ["house_and_tree.png"]
    assert api.open_requests() == 0


def test_a_question_whose_media_were_refused_is_not_asked_again(page, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    talk = Talk()
    asked = {"text": "What?", "files": [str(empty)]}
    (step,) = asyncio.run(all_of(page._ask(REQUEST, asked, talk, "en", *FORM)))
    assert "the file is empty" in json.dumps(step[0])
    assert buttons(step) == (False, False)
    assert talk.ask_again() is None
    talk.ask("And now?", ())
    assert talk.repeats
