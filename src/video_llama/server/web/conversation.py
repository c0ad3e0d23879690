"""What a person has asked so far, as the page keeps it and as the server is asked."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

from video_llama.answer import MediaUse
from video_llama.server.protocol import MAX_FRAMES, ChatRequest
from video_llama.server.refusal import MEDIA_CODES

MAX_LENGTH = 512  # tokens; more may be asked of the API
MAX_TEMPERATURE = 2.0
# Why a question failed whose media cannot be asked about.
NOT_TAKEN = frozenset({*MEDIA_CODES.values(), "media", "file_not_found", "too_many_media"})

# "cut" had all its tokens, "late" all its time.
State = Literal["open", "answered", "cut", "late", "stopped", "failed"]


@dataclass(frozen=True)
class Wishes:
    """How the next answer is to be made.

    Attributes:
        temperature: 0 takes the likeliest tokens.
        length: tokens of the longest answer.
        frames: looked at in a video.
        sound: whether videos are listened to.
    """

    temperature: float
    length: int
    frames: int
    sound: bool

    @classmethod
    def of(cls, temperature: float, length: float, frames: float, sound: bool) -> Self:
        """What a form says, within its bounds, whoever filled it in."""
        return cls(
            temperature=min(max(float(temperature), 0.0), MAX_TEMPERATURE),
            length=min(max(int(length), 1), MAX_LENGTH),
            frames=min(max(int(frames), 1), MAX_FRAMES),
            sound=bool(sound),
        )


@dataclass(frozen=True)
class Medium:
    """A file of the conversation.

    Attributes:
        id: of the uploaded file, for the gate.
        name: that it came with.
        shown: where the page has it, for people.
        digest: SHA-256 of its content.
        owner: whose it is.
    """

    id: str
    name: str
    shown: str
    digest: str
    owner: str = ""


@dataclass(frozen=True)
class Seen:
    """What the model was given of a medium.

    Attributes:
        name: of the file.
        use: which of its streams.
        times: seconds of the frames, where they have any.
        frames: addresses of pictures; none where it was seen before.
        mel: address of one of the sound, None where there is none.
        warnings: what a person should know of it, in the server's words.
    """

    name: str
    use: MediaUse
    times: tuple[float, ...] | None = None
    frames: tuple[str, ...] = ()
    mel: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass
class Turn:
    """A question, its media and what came of it; `note` says what went wrong, `code` which kind.

    `refused` are questions whose media were not taken: asked again, they would be about nothing.
    """

    question: str
    media: tuple[Medium, ...]
    refused: bool = False
    answer: str = ""
    state: State = "open"
    note: str = ""
    code: str = ""
    seen: tuple[Seen, ...] = ()

    def fail(self, note: str, code: str = "") -> None:
        """It could not be answered."""
        self.state, self.note, self.code = "failed", note, code

    @property
    def left(self) -> tuple[Medium, ...]:
        """Media that the next question is about too: they are to be seen above it, and have had no
        answer, through no fault of theirs."""
        return () if self.counts or self.code in NOT_TAKEN else self.media

    @property
    def counts(self) -> bool:
        """Whether the model is told of it later: a question without an answer would confuse it."""
        return self.state not in ("open", "failed") and bool(self.answer)


@dataclass
class Talk:
    """A conversation. The last turn may still be open."""

    turns: list[Turn] = field(default_factory=list)

    def ask(self, question: str, media: tuple[Medium, ...]) -> Turn:
        """A new question."""
        self.turns.append(Turn(question, media))
        return self.turns[-1]

    def refuse(self, question: str, note: str, code: str) -> None:
        """A question whose media were not taken."""
        turn = self.ask(question, ())
        turn.refused = True
        turn.fail(note, code)

    @property
    def last(self) -> Turn | None:
        """The last question, None if there is none."""
        return self.turns[-1] if self.turns else None

    @property
    def repeats(self) -> bool:
        """Whether the last question can be asked again."""
        return self.last is not None and not self.last.refused

    def ask_again(self) -> Turn | None:
        """The last question once more, None if there is none that can be."""
        if not self.repeats:
            return None
        last = self.turns.pop()
        return self.ask(last.question, last.media)

    def stop(self) -> None:
        """Nobody waits any longer for an answer that is still open."""
        for turn in self.turns:
            if turn.state == "open":
                turn.state = "stopped"

    def request(self, model: str, wishes: Wishes) -> ChatRequest:
        """The last turn's question, with what went before."""
        messages: list[dict[str, Any]] = []
        for turn, media in self._told():
            # "video_url" opens whatever the file is, and can be told to leave the sound out.
            parts: list[dict[str, Any]] = [
                {"type": "video_url", "video_url": {"url": medium.id}} for medium in media
            ]
            parts.append({"type": "text", "text": turn.question})
            messages.append({"role": "user", "content": parts})
            if turn is not self.turns[-1]:
                messages.append({"role": "assistant", "content": turn.answer})
        return ChatRequest.model_validate(
            {
                "model": model,
                "messages": messages,
                "temperature": wishes.temperature,
                "max_completion_tokens": wishes.length,
                "media_io_kwargs": {"video": {"num_frames": wishes.frames}},
                "mm_processor_kwargs": {"use_audio_in_video": wishes.sound},
            }
        )

    def media(self) -> list[Medium]:
        """All media of the request, in its order."""
        return [medium for _, media in self._told() for medium in media]

    def new_media(self) -> frozenset[int]:
        """The numbers among them of those that come with the last question."""
        told = [len(media) for _, media in self._told()]
        return frozenset(range(sum(told[:-1]), sum(told)))

    def _told(self) -> list[tuple[Turn, list[Medium]]]:
        """The questions that the model is told of, each with its media and those left before it."""
        told: list[tuple[Turn, list[Medium]]] = []
        left: dict[str, Medium] = {}  # by what they are: they may have been dropped again
        for turn in self.turns:
            own = {medium.digest for medium in turn.media}
            media = [*(one for one in left.values() if one.digest not in own), *turn.media]
            if turn.counts or turn is self.turns[-1]:
                told.append((turn, media))
                left = {}
            else:
                left |= {medium.digest: medium for medium in turn.left}
        return told
