"""The page without a browser: its texts, its conversations, its pictures, and who gets in."""

import asyncio
import contextlib
import errno
import io
import os
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from video_llama.answer import MediaUse
from video_llama.attachment import ReadMedium
from video_llama.errors import ForbiddenSourceError
from video_llama.processing.conversation import MediaPart
from video_llama.server.asking import read_messages
from video_llama.server.guard import Guard, GuardPolicy
from video_llama.server.refusal import MEDIA_CODES, Refusal
from video_llama.server.run import Server
from video_llama.server.web import seen as seen_module
from video_llama.server.web.album import Album
from video_llama.server.web.conversation import MAX_LENGTH, Medium, Seen, Talk, Wishes
from video_llama.server.web.door import COOKIE
from video_llama.server.web.pictures import frame_pictures, mel_picture
from video_llama.server.web.seen import SeenMedia, see, seen_html
from video_llama.server.web.texts import LANGUAGES, TEXTS, language_of

WEB = Path(seen_module.__file__).parent
KEY = "first-key-123"
WISHES = Wishes(temperature=0.5, length=20, frames=4, sound=False)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


# Texts


def test_every_text_is_there_in_every_language():
    assert set(TEXTS) == set(LANGUAGES)
    english = TEXTS["en"]
    written = "".join(path.read_text("utf-8") for path in WEB.glob("*.py"))
    for texts in TEXTS.values():
        assert set(texts.streams) == set(english.streams)
        assert len(texts.sample_questions) == len(english.sample_questions)
        for field in fields(texts):
            assert getattr(texts, field.name) or field.name == "reasons", field.name
            assert f"texts.{field.name}" in written, field.name
        assert "1.5" in texts.moment.format(1.5)
        assert "8" in texts.number_of_frames.format(8)


def test_what_was_refused_is_said_in_the_language_of_the_page():
    assert not TEXTS["en"].reasons  # the server's own words are English
    assert set(TEXTS["ru"].reasons) == set(TEXTS["zh"].reasons)
    of_files = set(MEDIA_CODES.values()) - {MEDIA_CODES[ForbiddenSourceError]}  # addresses only
    assert of_files <= set(TEXTS["ru"].reasons)


@pytest.mark.parametrize(
    ("wanted", "language"),
    [("ru-RU", "ru"), ("zh-Hans-CN", "zh"), ("EN", "en"), ("fr", "en"), ("", "en"), (None, "en")],
)
def test_the_language_of_a_browser(wanted, language):
    assert language_of(wanted) == language


# Conversations


def medium(number: int) -> Medium:
    return Medium(f"file-{number}", f"{number}.mp4", f"/page/{number}.mp4", f"digest {number}")


def test_only_questions_with_answers_are_told_again():
    talk = Talk()
    for question, answer, state, code, number in (
        ("First?", "One.", "answered", "", 1),
        ("Bad?", "", "failed", "corrupt_media", 2),
        ("Stopped?", "Tw", "stopped", "", 4),
    ):
        turn = talk.ask(question, (medium(number),))
        turn.answer, turn.state, turn.code = answer, state, code
    talk.ask("Last?", (medium(5), medium(6)))
    request = talk.request("tiny", WISHES)
    conversation = read_messages(request.messages)
    assert [turn.question for turn in conversation.turns] == ["First?", "Stopped?", "Last?"]
    assert [turn.answer for turn in conversation.turns] == ["One.", "Tw", ""]
    assert [one.place for one in conversation.media] == ["file-1", "file-4", "file-5", "file-6"]
    assert [one.id for one in talk.media()] == [one.place for one in conversation.media]
    assert talk.new_media() == {2, 3}
    assert (request.temperature, request.max_completion_tokens) == (0.5, 20)


def test_media_of_questions_without_an_answer_go_with_the_next():
    """They stand above it, so it is about them too."""
    talk = Talk()
    for state, code in (
        ("stopped", ""),
        ("answered", ""),  # with an empty answer
        ("failed", "context_length_exceeded"),
        ("failed", "queue_full"),
        ("failed", "file_not_found"),
    ):
        number = len(talk.turns)
        turn = talk.ask(f"{number}?", (medium(number), medium(9)))
        turn.state, turn.code = state, code
    last = talk.ask("Then?", (medium(9),))
    numbers = [int(one.name.removesuffix(".mp4")) for one in talk.media()]
    assert numbers == [0, 1, 2, 3, 9]
    assert talk.new_media() == set(range(5))
    last.media = ()
    assert len(talk.media()) == 5  # each once
    last.answer, last.state = "So.", "answered"
    talk.ask("And?", (medium(5),))
    conversation = read_messages(talk.request("tiny", WISHES).messages)
    assert [turn.question for turn in conversation.turns] == ["Then?", "And?"]
    assert talk.new_media() == {5}


def test_a_question_is_asked_again():
    talk = Talk()
    assert talk.ask_again() is None
    turn = talk.ask("What?", (medium(1),))
    turn.answer, turn.state = "This.", "answered"
    again = talk.ask_again()
    assert talk.turns == [again]
    assert (again.question, again.media, again.answer) == ("What?", (medium(1),), "")


def test_wishes_stay_in_their_bounds():
    wishes = Wishes.of(-1, 10_000, 0, 1)
    assert wishes == Wishes(temperature=0.0, length=MAX_LENGTH, frames=1, sound=True)
    talk = Talk()
    talk.ask("What?", ())
    assert talk.request("tiny", Wishes.of(9, 0, 1e6, False)).temperature == 2


# Pictures


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)))


@pytest.fixture
def album(tmp_path) -> Album:
    return Album(tmp_path / "se'en", 60)


def test_frames_are_shown_in_their_colours():
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.2, 0.8]])  # (T, 3)
    plain = colours.view(1, 2, 3, 1, 1).expand(1, 2, 3, 16, 16)
    frames = (plain - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    pictures = [pixels(one) for one in frame_pictures(frames, MEAN, STD)]
    assert [picture.shape for picture in pictures] == [(16, 16, 3)] * 2
    for picture, colour in zip(pictures, colours.numpy() * 255, strict=True):
        assert np.abs(picture.astype(float) - colour).max() < 6  # of 255; JPEG


def test_a_tone_is_a_bright_line_at_its_height():
    mel = torch.full((1, 2, 1, 128, 40), -1.0)
    mel[0, :, 0, 20] = 1.0  # a low one
    mel[..., 30:] = 0.5  # padding
    picture = pixels(mel_picture(mel)).astype(int).sum(axis=2)
    assert picture.shape == (128, 30 + 4 + 30)  # two clips with a gap, without their padding
    assert picture[:, 5].argmax() == 127 - 20
    torch.testing.assert_close(picture[:, 5], picture[:, 39])


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_sound_without_any_difference_is_a_picture_too(value):
    assert pixels(mel_picture(torch.full((1, 1, 1, 8, 10), value))).shape == (8, 10, 3)


def use(**changes) -> MediaUse:
    facts = {"kind": "video", "picture": "used", "sound": "used", "duration": 1.0, "frames": 2}
    return MediaUse(name="video", **{**facts, **changes})


class Processor:
    image_mean, image_std = MEAN, STD


def test_what_was_seen_and_heard(album):
    frames, clips = torch.zeros(1, 2, 3, 8, 8), torch.rand(1, 1, 1, 8, 10)
    part = MediaPart("video", sound=True, times=(0.0, 1.25))
    read = ReadMedium(part, use(), (), frames, clips, 0.1)
    seen = see("<b>.mp4", use(), read, Processor(), album)
    text = seen_html([seen], TEXTS["ru"])
    assert "&lt;b&gt;.mp4" in text
    assert "<b>.mp4" not in text
    assert text.count(".jpg") == 2
    assert text.count(".png") == 1
    assert "1.2 с" in text
    assert "звук: использовано" in text
    assert " open" in text


def test_what_was_not_there_is_told():
    deaf = use(sound="absent")
    text = seen_html([Seen("a.mp4", deaf)], TEXTS["en"])
    assert "sound: none there" in text
    assert TEXTS["en"].seen_before in text
    assert "<img" not in text
    picture = seen_html([Seen("a.png", use(kind="image", sound="absent"))], TEXTS["en"])
    assert "sound" not in picture
    assert seen_html([], TEXTS["en"]) == ""


def test_what_was_damaged_is_told(album):
    deaf = use(sound="absent")
    heard = "video has no sound; the answer is from the picture alone"  # told by the page itself
    part = MediaPart("video", sound=False, times=(0.0, 1.25))
    words = ("12 of <30> frames could not be decoded", heard)
    read = ReadMedium(part, deaf, words, torch.zeros(1, 2, 3, 8, 8), None, 0.1)
    text = seen_html([see("a.mp4", deaf, read, Processor(), album)], TEXTS["ru"])
    assert "12 of &lt;30&gt; frames could not be decoded" in text
    assert heard not in text


def test_pictures_are_kept_until_nobody_has_looked_for_long(album, tmp_path):
    old, new = album.add(b"old", ".jpg"), album.add(b"new", ".jpg")
    assert album.add(b"old", ".jpg") == old
    assert "'" not in old
    files = {path.read_bytes(): path for path in (tmp_path / "se'en").iterdir()}
    assert files.keys() == {b"old", b"new"}
    for path in files.values():
        os.utime(path, (time.time() - 61,) * 2)
    assert album.touch(new)
    album.sweep()
    assert [album.touch(one) for one in (old, new)] == [False, True]
    assert album.add(b"old", ".jpg") == old
    assert album.touch(old)


def test_pictures_end_without_another_upload(monkeypatch):
    swept = []

    class Swept:
        def sweep(self):
            swept.append(self)

    server = object.__new__(Server)
    server.files, server._page = Swept(), Swept()
    monkeypatch.setattr("video_llama.server.run.SWEPT_EVERY", 0.01)

    async def some_time() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server._sweep(), 0.5)

    asyncio.run(some_time())
    assert {server.files, server._page} == set(swept)


def test_no_room_for_pictures_is_told(album, monkeypatch, tmp_path):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Refusal) as caught:
        album.add(b"new", ".jpg")
    assert caught.value.code == "storage_full"
    assert not list((tmp_path / "se'en").iterdir())


def test_so_many_media_are_known_again(monkeypatch, album):
    monkeypatch.setattr(seen_module, "_MOST_KEPT", 2)
    known = SeenMedia(album)
    for key in "abac":
        known.keep(key, Seen(key, use()))
        known.find("a", "a")
    assert [known.find(key, "x") for key in "abc"] == [Seen("x", use()), None, Seen("x", use())]


# Who gets in. The page itself is not needed for that.


@pytest.fixture(scope="module")
def locked(start):
    running = start(guard=GuardPolicy(keys=(KEY, "second-key-456")))
    (guard,) = [one for one in running.server.app.user_middleware if one.cls is Guard]
    assert guard.kwargs["policy"].page is False
    return running


def test_a_server_without_a_page_asks_nobody_for_a_key(locked):
    with locked.http(headers={"Accept": "text/html"}) as http:
        assert http.get("/").json()["error"]["code"] == "invalid_api_key"
        assert http.post("/login", data={"key": KEY}).status_code == 401


BROWSER = {"Accept": "text/html,*/*", "Accept-Language": "ru-RU,ru;q=0.9"}


@pytest.fixture
def door(doors):
    with doors.http(headers=BROWSER) as http:
        yield http


@pytest.fixture(scope="module")
def doors(start):
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'video-llama[web]'")
    return start(guard=GuardPolicy(keys=(KEY, "second-key-456")), page=True)


def test_a_browser_is_asked_for_a_key(door):
    asked = door.get("/")
    assert asked.status_code == 401
    assert "Ключ этого сервера" in asked.text
    assert "default-src 'none'" in asked.headers["content-security-policy"]
    for path in ("/v1/models", "/config", "/gradio_api/queue/data", "/assets/x", "/theme.css"):
        assert door.get(path).json()["error"]["code"] == "invalid_api_key"


def test_a_wrong_key_opens_nothing(door):
    for data in ({"key": "wrong-key"}, {"key": ""}, {}, {"key": KEY + "x" * 5000}):
        answer = door.post("/login", data=data)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    assert "нет" in door.post("/login", data={"key": "wrong-key"}).text
    assert door.get("/login").status_code == 401


def test_a_key_opens_the_page_until_the_browser_is_closed(door):
    opened = door.post("/login", data={"key": KEY})
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert KEY not in cookie
    page = door.get("/")
    assert page.status_code == 200
    assert "gradio" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_another_site_cannot_use_the_cookie(doors):
    with doors.http() as http:
        http.post("/login", data={"key": KEY})
        assert http.cookies.get(COOKIE)
        assert http.get("/config").status_code == 200
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert http.get("/config", headers=headers).status_code == 401
        own = {"Origin": doors.url, "Sec-Fetch-Site": "same-origin"}
        assert http.get("/config", headers=own).status_code == 200


def test_files_of_the_page_belong_to_its_key(doors):
    with doors.http() as http:
        http.post("/login", data={"key": KEY})
        doors.client(KEY).files.create(file=("a.png", b"x"), purpose="vision")
        doors.client("second-key-456").files.create(file=("b.png", b"x"), purpose="vision")
        assert [file["filename"] for file in http.get("/v1/files").json()["data"]] == ["a.png"]
