"""The page: how it looks, and what happens when something is pressed."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from video_llama.server.protocol import MAX_TEXT
from video_llama.server.refusal import Refusal
from video_llama.server.web.conversation import (
    MAX_LENGTH,
    MAX_TEMPERATURE,
    Talk,
    Turn,
    Wishes,
)
from video_llama.server.web.seen import seen_html
from video_llama.server.web.talking import Talker
from video_llama.server.web.texts import LANGUAGES, TEXTS, Language, Texts

SAMPLES = Path(__file__).parents[2] / "assets" / "samples"
# With the number of the question about it in texts.py.
_SAMPLES = (("red_dog.mp4", 0), ("red_dog.mp4", 1), ("train.wav", 2), ("house_and_tree.png", 3))
_FRAMES = 32  # of a video, at most; more may be asked of the API
_LENGTH = 128  # tokens, unless something else is wished for
_SWEEP = 600  # seconds between two looks for old uploads
# What may mean something in Markdown or HTML: wherever it stands, and at the beginning of a line.
_MARKS = re.compile(r"([\\`*_\[\]<>&~|$])")
_FIRST_MARKS = re.compile(r"^(\s*\d*)([#+=.)-])", re.MULTILINE)

CSS = """
footer, #conversation .icon-button-wrapper {display: none !important}
.seen {font-size: .85em}
.seen summary {cursor: pointer; padding: .4em 0; opacity: .8}
.seen p {margin: .2em 0 .4em}
.seen .warning {font-weight: 600}
.seen .frames {display: flex; flex-wrap: wrap; gap: 6px}
.seen figure {margin: 0}
.seen figure img {display: block; margin: 0; border-radius: 4px; max-width: 100%}
.seen .frames img {width: 84px; height: 84px}
.seen figcaption {font-size: .85em; opacity: .75; text-align: center}
.seen .mel {margin-top: 6px}
.seen .mel img {height: 110px; width: auto}
.seen .mel figcaption {text-align: left}
"""


class Page:
    """The page's parts, and the functions behind them.

    Args:
        talker: asks the server.
        frames: that the model looks at in a video, unless something else is wished for.
        uploads: the folder that dropped files are in; only they are taken.

    Attributes:
        blocks: to be mounted.
    """

    def __init__(self, talker: Talker, frames: int, uploads: Path) -> None:
        self._talker = talker
        self._uploads = uploads
        lifetime = talker.files.policy.lifetime
        with gr.Blocks(
            title="Video-LLaMA", analytics_enabled=False, delete_cache=(_SWEEP, lifetime)
        ) as self.blocks:
            self._lay_out(TEXTS["en"], frames)
            self._connect()
        self.blocks.queue(default_concurrency_limit=None, api_open=False)

    def _lay_out(self, texts: Texts, frames: int) -> None:
        self._talk = gr.State(Talk(), delete_callback=self._talker.forget)
        with gr.Row(equal_height=True):
            self._title = gr.Markdown(_title(texts))
            self._language = gr.Radio(
                [(name, code) for code, name in LANGUAGES.items()],
                value="en",
                label=texts.language,
                elem_id="language",
                min_width=350,
                scale=0,
            )
        self._chat = gr.Chatbot(
            label=texts.conversation,
            placeholder=texts.welcome,
            height="58vh",
            elem_id="conversation",
            buttons=[],
            latex_delimiters=[],
            allow_tags=False,
            feedback_options=None,
        )
        self._box = gr.MultimodalTextbox(
            placeholder=texts.ask,
            show_label=False,
            sources=["upload", "microphone"],
            # Of any name: what a file is its content tells, at the gate.
            file_count="multiple",
            max_plain_text_length=MAX_TEXT,  # a longer text that is pasted becomes a file
            elem_id="question",
            autofocus=True,
        )
        with gr.Row():
            self._stop = gr.Button(texts.stop, interactive=False, elem_id="stop", size="md")
            self._retry = gr.Button(texts.retry, interactive=False, elem_id="retry", size="md")
            self._clear = gr.Button(texts.clear, elem_id="clear", size="md")
        with gr.Row(elem_id="samples"):
            self._samples = [
                gr.Button(_sample_label(texts, number), size="sm", min_width=160)
                for number in range(len(_SAMPLES))
            ]
        self._lay_out_more(texts, frames)

    def _lay_out_more(self, texts: Texts, frames: int) -> None:
        with gr.Accordion(texts.options, open=False, elem_id="options") as self._options, gr.Row():
            self._temperature = gr.Slider(
                0, MAX_TEMPERATURE, 0, step=0.1, label=texts.temperature, elem_id="temperature"
            )
            self._length = gr.Slider(
                1, MAX_LENGTH, _LENGTH, step=1, label=texts.length, elem_id="length"
            )
            self._frames = gr.Slider(
                1, max(_FRAMES, frames), frames, step=1, label=texts.frames, elem_id="frames"
            )
            self._sound = gr.Checkbox(value=True, label=texts.sound, elem_id="sound")
        with gr.Accordion(texts.camera, open=False, elem_id="camera") as self._camera_part:
            # Not mirrored, in its own format, with its sound: anything else would be converted
            # here, outside the decoders.
            self._camera = gr.Video(
                sources=["webcam"],
                show_label=False,
                webcam_options=gr.WebcamOptions(mirror=False),
                include_audio=True,
                height=260,
            )
            self._take = gr.Button(texts.take, elem_id="take")
        for entrance in (self._box, self._camera):
            entrance.async_move_resource_to_block_cache = self._only_uploads

    def _connect(self) -> None:
        wishes = [self._temperature, self._length, self._frames, self._sound]
        known = [self._talk, self._language, *wishes]
        shown = [self._chat, self._box, self._stop, self._retry]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        asking: list[Any] = [
            self._box.submit(self._ask, [self._box, *known], shown, **quiet),
            self._retry.click(self._ask_again, known, shown, **quiet),
        ]
        for button, (name, number) in zip(self._samples, _SAMPLES, strict=True):
            ask = self._ask_sample(name, number)
            asking.append(button.click(ask, known, shown, **quiet))
        for button, own in zip(self._samples, asking[-len(_SAMPLES) :], strict=True):
            # What is being answered ends, as with "stop", but not what was just asked.
            button.click(None, cancels=[one for one in asking if one is not own], **quiet)
        stopped = self._stop.click(None, cancels=asking, **quiet)
        stopped.then(self._stopped, [self._talk, self._language], shown, **quiet)
        cleared = self._clear.click(None, cancels=asking, **quiet)
        cleared.then(self._cleared, [self._talk], shown, **quiet)
        self._take.click(self._add_recording, [self._box, self._camera], [self._box], **quiet)
        named = [
            *(self._title, self._language, self._chat, self._box, self._stop, self._retry),
            *(self._clear, *self._samples, self._options, *wishes, self._camera_part, self._take),
        ]
        self._language.input(self._rename, [self._language, self._talk], named, **quiet)
        # In the browser: while gradio is still loading, an event that the server answers may have
        # the answer to what is asked beside it lost.
        self.blocks.load(None, None, named, js=self._greeting(), **quiet)

    # What happens

    async def _ask(
        self,
        request: gr.Request,
        asked: dict[str, Any],
        talk: Talk,
        language: Language,
        *wishes: Any,
    ) -> AsyncIterator[list[Any]]:
        texts, wanted = TEXTS[language], Wishes.of(*wishes)
        question = (asked["text"] or "").strip()
        if not question:
            gr.Info(texts.no_question, duration=5)
            yield [gr.skip()] * 4
            return
        paths = [self._own(path) for path in asked["files"]]
        async for step in self._begin(question, paths, talk, texts, wanted, request):
            yield step

    def _ask_sample(self, name: str, number: int) -> Callable[..., AsyncIterator[list[Any]]]:
        async def ask(
            request: gr.Request, talk: Talk, language: Language, *wishes: Any
        ) -> AsyncIterator[list[Any]]:
            texts, wanted = TEXTS[language], Wishes.of(*wishes)
            question = texts.sample_questions[number]
            await asyncio.to_thread(self._talker.forget, talk)
            paths = [SAMPLES / name]
            async for step in self._begin(question, paths, talk, texts, wanted, request):
                yield step

        return ask

    async def _ask_again(
        self, request: gr.Request, talk: Talk, language: Language, *wishes: Any
    ) -> AsyncIterator[list[Any]]:
        texts, wanted = TEXTS[language], Wishes.of(*wishes)
        if talk.ask_again() is None:
            gr.Info(texts.lost, duration=5)
            yield [gr.skip()] * 4
            return
        async for step in self._answer(talk, texts, wanted, request):
            yield step

    async def _begin(
        self,
        question: str,
        paths: Sequence[Path],
        talk: Talk,
        texts: Texts,
        wishes: Wishes,
        request: gr.Request,
    ) -> AsyncIterator[list[Any]]:
        talk.stop()  # whoever asks anew waits no longer for what was asked before
        try:
            talk.ask(question, await self._talker.take(_owner(request), paths))
        except Refusal as refusal:
            talk.refuse(question, refusal.message, refusal.code)
            yield [_messages(talk, texts), gr.skip(), *_buttons(talk)]
            return
        async for step in self._answer(talk, texts, wishes, request):
            yield step

    async def _answer(
        self, talk: Talk, texts: Texts, wishes: Wishes, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Until the last question is answered, or there is another one."""
        turn = talk.last
        yield [_messages(talk, texts), {"text": "", "files": []}, *_buttons(talk, running=True)]
        if talk.last is not turn:
            return
        async with aclosing(self._talker.answer(_owner(request), talk, wishes)) as steps:
            async for _ in steps:
                if talk.last is not turn:
                    return
                yield [_messages(talk, texts), gr.skip(), gr.skip(), gr.skip()]
        yield [_messages(talk, texts), gr.skip(), *_buttons(talk)]

    def _stopped(self, talk: Talk, language: Language) -> list[Any]:
        talk.stop()
        return [_messages(talk, TEXTS[language]), gr.skip(), *_buttons(talk)]

    def _cleared(self, talk: Talk) -> list[Any]:
        self._talker.forget(talk)
        return [[], {"text": "", "files": []}, *_buttons(talk)]

    def _add_recording(self, asked: dict[str, Any], recorded: str | None) -> dict[str, Any]:
        files = [*asked["files"], *([str(self._own(recorded))] if recorded else [])]
        return {"text": asked["text"], "files": files}

    # In which language

    def _greeting(self) -> str:
        """JavaScript that gives the page the words of the browser's language: `language_of`."""
        # The conversation is left as it is: whoever was quick has asked already.
        words = {code: self._names(code) for code in LANGUAGES if code != "en"}
        return (
            f"() => ({json.dumps(words)})[navigator.language.toLowerCase().split('-')[0]]"
            f" ?? Array({len(self._names('en'))}).fill({json.dumps(gr.skip())})"
        )

    def _rename(self, language: Language, talk: Talk) -> list[Any]:
        return self._names(language, value=_messages(talk, TEXTS[language]))

    def _names(self, language: Language, **conversation: Any) -> list[Any]:
        texts = TEXTS[language]
        return [
            gr.update(value=_title(texts)),
            gr.update(value=language, label=texts.language),
            gr.update(label=texts.conversation, placeholder=texts.welcome, **conversation),
            gr.update(placeholder=texts.ask),
            gr.update(value=texts.stop),
            gr.update(value=texts.retry),
            gr.update(value=texts.clear),
            *(gr.update(value=_sample_label(texts, place)) for place in range(len(_SAMPLES))),
            gr.update(label=texts.options),
            gr.update(label=texts.temperature, info=texts.temperature_info),
            gr.update(label=texts.length, info=texts.length_info),
            gr.update(label=texts.frames, info=texts.frames_info),
            gr.update(label=texts.sound, info=texts.sound_info),
            gr.update(label=texts.camera),
            gr.update(value=texts.take),
        ]

    # Which files

    def _own(self, path: str) -> Path:
        """A file that was uploaded to this page; whoever names another one is refused."""
        found = Path(path).resolve()
        if not found.is_relative_to(self._uploads) or not found.is_file():
            raise gr.Error("this file was not uploaded here", print_exception=False)
        return found

    async def _only_uploads(self, url_or_file_path: str | Path | None) -> str | None:
        """Instead of gradio's own, which fetches addresses and copies files of this machine."""
        return None if url_or_file_path is None else str(self._own(str(url_or_file_path)))


def _messages(talk: Talk, texts: Texts) -> list[dict[str, Any]]:
    """The conversation as gradio's chat shows it."""
    found: list[dict[str, Any]] = []
    for turn in talk.turns:
        media = [{"path": medium.shown} for medium in turn.media]
        found.append({"role": "user", "content": [*media, _plain(turn.question)]})
        found.append({"role": "assistant", "content": _said(turn, texts)})
    return found


def _said(turn: Turn, texts: Texts) -> list[Any]:
    answer = _plain(turn.answer)
    if turn.state == "failed":
        known = texts.reasons.get(turn.code)
        reason = f"{known} ({turn.note})" if known else turn.note
        notes = f"⚠️ **{_plain(texts.failed)}**: {_plain(reason)}"
        return [f"{answer}\n\n{notes}" if answer else notes]
    note = {"stopped": texts.stopped, "cut": texts.cut, "late": texts.late}.get(turn.state)
    if turn.state == "open" and not answer:
        note = texts.reading
    text = " ".join([*([answer] if answer else []), *([f"*({_plain(note)})*"] if note else [])])
    seen = [gr.HTML(seen_html(turn.seen, texts))] if turn.seen else []
    return [*([text] if text else []), *seen]


def _plain(text: str) -> str:
    """A text that shows as it is, whatever Markdown or HTML would make of it."""
    return _FIRST_MARKS.sub(r"\1\\\2", _MARKS.sub(r"\\\1", text.strip()))


def _buttons(talk: Talk, *, running: bool = False) -> list[Any]:
    """Stop and retry."""
    return [gr.update(interactive=running), gr.update(interactive=talk.repeats and not running)]


def _title(texts: Texts) -> str:
    return f"# Video-LLaMA\n{texts.about}"


def _sample_label(texts: Texts, place: int) -> str:
    name, number = _SAMPLES[place]
    return f"{name}: {texts.sample_questions[number]}"


def _owner(request: gr.Request) -> str:
    """The mark of the key that the browser was let in with, as the guard left it."""
    assert request.request is not None
    return request.request.state.owner
