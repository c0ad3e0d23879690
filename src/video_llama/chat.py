"""A conversation about media: encoded once, answered question by question.

    assistant = VideoLlama.load("nano")
    chat = assistant.chat("clip.mp4")
    chat.ask("What do you hear?")
    for piece in chat.stream("And what do you see?"):
        print(piece, end="")

A second question runs only what is new of the prompt: features, keys and values are kept. All
conversations of a `VideoLlama` share one engine, and may be held at the same time in threads.
"""

import contextlib
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from video_llama.answer import Answer, MediaUse
from video_llama.attachment import Attachment, MediaOptions
from video_llama.checkpoints.load import load_model, load_processor, resolve
from video_llama.engine.engine import Engine
from video_llama.engine.features import FeatureCache
from video_llama.engine.own_thread import in_own_thread
from video_llama.engine.request import Request
from video_llama.errors import PromptError, PromptTooLongError
from video_llama.generation import GenerationOptions
from video_llama.media.clip import MediaClip
from video_llama.media.reader import MediaSource
from video_llama.media_cache import MediaCache
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.processing.tokens import check_fits
from video_llama.prompt import Turn, write_prompt
from video_llama.quantization import quantize_linear_layers, require_quantization
from video_llama.reply import PLAIN_DECODING, Reply

DEFAULT_MAX_NEW_TOKENS = 300
_ONE_AT_A_TIME = (
    "a question of this conversation is being answered; wait for it, or begin another conversation"
)
LEAST_ANSWER = 16  # tokens that must be free for an answer when no number is asked for


class VideoLlama:
    """A model and its processor, ready to talk.

    Attributes:
        model, processor: the parts; ordinary transformers objects.
        name: what the model was loaded as.
        media: turns media into features, each once.
    """

    def __init__(
        self,
        model: VideoLlamaForConditionalGeneration,
        processor: VideoLlamaProcessor,
        name: str = "",
        features: FeatureCache | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.media = MediaCache(model, processor, features)
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        device: str = "auto",
        dtype: str = "auto",
        quantization: str | None = None,
        offline: bool | None = None,
        features: FeatureCache | None = None,
    ) -> Self:
        """Load a model with its processor.

        Args:
            model: "nano" (comes with the package), a directory, or a hub id; "ORG/NAME@REVISION"
                stays the same whatever the repository becomes.
            device: "auto" is an accelerator if there is one; or "cpu", "cuda", "cuda:1", ...
            dtype: "auto" is the type of the weights (float32 for half precision on a CPU); or
                "bf16", "fp16", "fp32".
            quantization: "int8" keeps the weights of the language model in 8 bits; None as they
                are.
            offline: True never asks the hub; None asks HF_HUB_OFFLINE.
            features: where what the encoders made of media is kept; None is in memory. With
                `FeatureCache(files=FeatureFiles(folder))` it outlives the process.

        Raises:
            CheckpointError: there is no such model, or its files do not fit.
            OptionError: a device, type or quantization that is not there.
        """
        require_quantization(quantization)
        directory = resolve(model, offline=offline)

        def make() -> VideoLlamaForConditionalGeneration:
            loaded = load_model(directory, device=device, dtype=dtype, offline=offline)
            if quantization == "int8":
                quantize_linear_layers(loaded.language_model)
            return loaded

        loaded = in_own_thread(make)
        return cls(loaded, load_processor(directory), name=str(model), features=features)

    @property
    def engine(self) -> Engine:
        """What answers; made when it is first asked for. Another one may be put in its place."""
        with self._lock:
            if self._engine is None or self._engine.closing:  # that of a server which has ended
                self._engine = self.make_engine()
            return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        with self._lock:
            self._engine = engine

    def make_engine(self, **settings: Any) -> Engine:
        """An engine for this model; `settings` are those of `Engine`."""
        template = self.processor.prompt_template
        return Engine(
            self.model.language_model,
            partial(self.processor.tokenizer.decode, **PLAIN_DECODING),
            stop_texts=template.stop_strings,
            labels=[template.answer_prefix] if template.answer_prefix else [],
            **settings,
        )

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer; stop texts of more than one token are looked for in text."""
        eos = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        own = self.processor.tokenizer.eos_token_id
        return frozenset(ids if own is None else [*ids, own])

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None if there is no limit."""
        return getattr(self.model.config.text_config, "max_position_embeddings", None)

    def room(self, prompt_tokens: int, wanted: int | None) -> int:
        """Tokens that an answer may have: as many as are wanted, or what fits.

        Raises:
            PromptTooLongError: so many do not fit.
        """
        if self.context is None:
            return wanted or DEFAULT_MAX_NEW_TOKENS
        check_fits(prompt_tokens, wanted or LEAST_ANSWER, self.context)
        return wanted or min(DEFAULT_MAX_NEW_TOKENS, self.context - prompt_tokens)

    def check_length(self, turns: Sequence[Turn], system: str | None = None) -> None:
        """Refuse what is too long whatever its tokens are, before they are looked for.

        Raises:
            PromptTooLongError: a text of so many characters has more tokens than the context.
        """
        if self.context is None:
            return
        count = len(system or "") + sum(len(turn.question) + len(turn.answer) for turn in turns)
        least = count // self._longest_token
        if least > self.context:
            raise PromptTooLongError(
                f"the texts of the conversation have {count:,} characters, at least {least:,} "
                f"tokens, and the model's context has {self.context:,}; shorten them",
                least - self.context,
            )

    @cached_property
    def _longest_token(self) -> int:
        """Characters of the longest token, at most: of a text of bytes there are fewer."""
        return max(map(len, self.processor.tokenizer.get_vocab()))

    def chat(
        self,
        *media: MediaSource | MediaClip | Sequence[MediaSource | MediaClip],
        system: str | None = None,
        **reading: Any,
    ) -> "ChatSession":
        """Begin a conversation.

        Args:
            media: paths, bytes, file objects, `data:` URLs, arrays or clips, also in lists.
            system: a text that precedes the conversation, instead of the template's own; "" for
                none.
            reading: fields of `MediaOptions`: num_frames, with_sound, on_bad_sound, limits, policy.

        Raises:
            MediaError: a medium that cannot be used.
            OptionError: a bad option.
            PromptError: a system text that is no text.
        """
        if system is not None:
            _require_text(system, "system text")
        session = ChatSession(self, system=system, reading=MediaOptions.of(reading))
        session.add(*media)
        return session

    def ask(
        self,
        media: MediaSource | MediaClip | Sequence[MediaSource | MediaClip],
        question: str,
        *,
        system: str | None = None,
        **options: Any,
    ) -> str:
        """One question about some media; `options` are those of `chat` and `ChatSession.ask`."""
        reading = MediaOptions.take_from(options)
        return self.chat(media, system=system, **reading).ask(question, **options)


class ChatSession:
    """A conversation. Made by `VideoLlama.chat`; one question at a time.

    A stream that was left and not closed ends when the next question is asked.

    Attributes:
        last_answer: the latest answer with its facts, also after `ask` and `stream`.
    """

    def __init__(
        self, assistant: VideoLlama, *, system: str | None = None, reading: MediaOptions
    ) -> None:
        self._assistant = assistant
        self._system = system
        self._reading = reading
        self._attachments: list[Attachment] = []
        self._pending: list[int] = []  # attachments that go with the next question
        self._unreported: list[int] = []  # those whose cost and warnings no answer has told yet
        self._turns: list[Turn] = []
        self._asking = threading.Lock()
        # The latest stream; a weak one, for a stream that nobody has any more is closed at once.
        self._stream_of: Callable[[], Generator[str, None, None] | None] = lambda: None
        self.last_answer: Answer | None = None

    @property
    def media(self) -> tuple[MediaUse, ...]:
        """The media of the conversation and which of their streams are used."""
        return tuple(attachment.use for attachment in self._attachments)

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was said: `{"role", "content"}`, with the names of "media" where some were added."""
        messages: list[dict[str, Any]] = []
        for turn in self._turns:
            question: dict[str, Any] = {"role": "user", "content": turn.question}
            if turn.media:
                question["media"] = [self._attachments[number].use.name for number in turn.media]
            messages += [question, {"role": "assistant", "content": turn.answer}]
        return messages

    def add(self, *media: MediaSource | MediaClip | Sequence[MediaSource | MediaClip]) -> None:
        """Add media; they go with the next question. All of them are added or, on error, none.

        Raises:
            MediaError: a medium that cannot be used.
        """
        new = [self._assistant.media.open(source, self._reading) for source in _flat(media)]
        numbers = range(len(self._attachments), len(self._attachments) + len(new))
        self._attachments += new
        self._pending += numbers
        self._unreported += numbers

    def reset(self) -> None:
        """Forget what was said. The media stay, with their features, for the next question.

        Raises:
            PromptError: a question is being answered in another thread.
        """
        with self._alone():
            self._turns = []
            self._pending = list(range(len(self._attachments)))
            self.last_answer = None

    def ask(self, question: str, **options: Any) -> str:
        """The answer's text; see `answer`."""
        return self.answer(question, **options).text

    def answer(self, question: str, **options: Any) -> Answer:
        """Ask a question.

        Args:
            question: a text.
            options: fields of `GenerationOptions`: max_new_tokens, temperature, top_p, top_k,
                repetition_penalty, seed, stop.

        Raises:
            OptionError: a bad option.
            PromptError: an empty question, or one that is asked while another thread's is answered.
            PromptTooLongError: the conversation does not fit in the model's context.
        """
        with self._alone():
            reply = self._begin(question, GenerationOptions.of(options))
            for _ in self._stream(reply, at_once=True):
                pass
            assert self.last_answer is not None
            return self.last_answer

    def stream(self, question: str, **options: Any) -> Generator[str, None, None]:
        """Ask a question; the answer's text comes piece by piece, joined it is the whole.

        Closing the iterator stops the model; what was given until then stays in the conversation.
        Arguments and errors are those of `answer`; they are raised by this call itself.
        """
        with self._alone():
            reply = self._begin(question, GenerationOptions.of(options))
            stream = self._stream(reply, at_once=False)
            self._stream_of = weakref.ref(stream)
            return stream

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else asks meanwhile, and what was asked before is over."""
        if not self._asking.acquire(blocking=False):
            raise PromptError(_ONE_AT_A_TIME)
        try:
            stream = self._stream_of()
            if stream is not None:
                try:
                    stream.close()
                except ValueError:  # it is running just now
                    raise PromptError(_ONE_AT_A_TIME) from None
            yield
        finally:
            self._asking.release()

    def _begin(self, question: str, options: GenerationOptions) -> Reply:
        started = time.monotonic()
        _require_text(question, "question")
        if not question.strip():
            raise PromptError("the question is empty; ask something")
        media = tuple(self._pending)
        turns = [*self._turns, Turn(question, media)]
        self._assistant.check_length(turns, self._system)
        prompt = write_prompt(turns, self._system, self._attachments, self._assistant.processor)
        limit = self._assistant.room(len(prompt.keys), options.max_new_tokens)
        request = Request(
            id=uuid.uuid4().hex,
            keys=prompt.keys,
            embeddings=prompt.embed(self._assistant.model, self._attachments)[0],
            options=replace(options, max_new_tokens=limit),
            stop_ids=self._assistant.stop_ids,
        )
        return Reply(question, media, request, started)

    def _stream(self, reply: Reply, *, at_once: bool) -> Generator[str, None, None]:
        try:
            yield from reply.write(self._assistant.engine, at_once=at_once)
        except (GeneratorExit, KeyboardInterrupt):
            self._finish(reply)
            raise
        self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        """Put the answer into the conversation; a question broken off without one was not asked."""
        told = [self._attachments[number] for number in self._unreported]
        if reply.text or reply.finish_reason != "cancelled":
            self._turns.append(Turn(reply.question, reply.media, reply.text))
            self._pending = [number for number in self._pending if number not in reply.media]
            self._unreported = []
        self.last_answer = reply.answer(
            decode=sum(attachment.decode_seconds for attachment in told),
            encode=sum(attachment.encode_seconds for attachment in told),
            media=self.media,
            warnings=[warning for attachment in told for warning in attachment.warnings],
        )


def _require_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise PromptError(f"the {what} is a text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"the {what} is not text in UTF-8") from None


def _flat(media: Iterable[Any]) -> Iterator[Any]:
    for item in media:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item
