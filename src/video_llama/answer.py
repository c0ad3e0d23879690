"""What an answer comes with: text, where the time went, tokens, what of the media was used."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from video_llama.media.clip import MediaClip, MediaKind

FinishReason = Literal["stop", "length", "cancelled"]

USED = "used"
ABSENT = "absent"
SILENT = "silent"  # digital silence from end to end: nothing to hear, so it is not fed
SHORT = "too short"  # less than one analysis window
FAILED = "failed"  # there is a track, it does not decode, and the user said to go on without it
LEFT_OUT = "left out"  # by the user's wish
NO_BRANCH = "not used (the model has no audio branch)"


@dataclass(frozen=True)
class MediaUse:
    """Which streams of a medium the model got.

    Attributes:
        name: of the file; "video", "image" or "audio" for media without a name.
        kind: what the medium is.
        picture: "used", "absent" or "left out".
        sound: "used", "absent", "silent", "too short", "failed", "left out", or
            "not used (the model has no audio branch)".
        duration: seconds; None for a picture.
        frames: frames the model got.
    """

    name: str
    kind: MediaKind
    picture: str
    sound: str
    duration: float | None
    frames: int


@dataclass(frozen=True)
class Timings:
    """Seconds. Decoding and encoding count for the first answer after the media were added."""

    decode: float
    encode: float
    prefill: float
    generation: float
    total: float


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the whole prompt, those of them that were kept from before, and new ones."""

    prompt: int
    reused: int
    generated: int


@dataclass(frozen=True)
class Answer:
    """An answer and how it came about.

    Attributes:
        text: what the model says, without stop marks.
        finish_reason: "stop" when the model ended it, "length" when its tokens were used up,
            "cancelled" when the stream was closed.
        tokens: counts.
        timings: seconds.
        media: one entry for each medium of the conversation.
        warnings: what a user should know: of the media since the last answer, and of this answer.
    """

    text: str
    finish_reason: FinishReason
    tokens: TokenCounts
    timings: Timings
    media: tuple[MediaUse, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; times rounded to a tenth of a millisecond."""
        fields = asdict(self)
        timings = {name: round(seconds, 4) for name, seconds in fields["timings"].items()}
        return {"answer": fields.pop("text"), **fields, "timings": timings}


def describe_use(clip: MediaClip, *, sound: str) -> MediaUse:
    """The use of a clip whose picture, if there is one, goes to the model."""
    frames = 0 if clip.frames is None else len(clip.frames)
    return MediaUse(
        name=clip.info.name or clip.info.kind,
        kind=clip.info.kind,
        picture=USED if frames else ABSENT if clip.info.video is None else LEFT_OUT,
        sound=sound,
        duration=clip.info.duration,
        frames=frames,
    )


def sound_warning(use: MediaUse) -> str | None:
    """What to tell a user who may expect to be told what is heard; None if nothing."""
    reasons = {
        ABSENT: f"{use.name} has no sound; the answer is from the picture alone",
        SILENT: f"the sound of {use.name} is digital silence and was not given to the model",
        SHORT: f"the sound of {use.name} is too short to be heard and was not given to the model",
        NO_BRANCH: f"the model has no audio branch; the sound of {use.name} was not used",
    }
    return None if use.kind == "image" else reasons.get(use.sound)
