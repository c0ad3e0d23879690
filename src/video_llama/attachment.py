"""A medium of a conversation: read once, encoded once, kept as features.

Legend: T frames, S side of a frame, C clips of a sound, M mel bins, F mel frames, V video tokens,
U audio tokens, D width of the language model.
"""

import math
import time
import uuid
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self, cast

import torch

from video_llama.answer import (
    ABSENT,
    FAILED,
    LEFT_OUT,
    NO_BRANCH,
    SHORT,
    SILENT,
    USED,
    MediaUse,
    describe_use,
    sound_warning,
)
from video_llama.errors import CorruptMediaError, OptionError, UnsupportedMediaError
from video_llama.generation import require_names
from video_llama.media.arrays import is_number
from video_llama.media.clip import MediaClip
from video_llama.media.limits import Limits
from video_llama.media.reader import MediaSource, load_media, probe
from video_llama.media.request import OnBadSound, require_count
from video_llama.media.source import SourcePolicy
from video_llama.media.video import DEFAULT_FPS
from video_llama.processing.conversation import MediaPart
from video_llama.processing.processor import VideoLlamaProcessor

if TYPE_CHECKING:
    from video_llama.media.sound import ChannelRule
    from video_llama.models import VideoLlamaForConditionalGeneration


@dataclass(frozen=True)
class MediaOptions:
    """How the media of a conversation are read.

    Attributes:
        num_frames: frames looked at in a video; None for what the model was made with. Of a clip
            that was loaded before all its frames are.
        fps: frames looked at in each second, at most `num_frames` if that is given, too.
        with_picture: False leaves all pictures out.
        with_sound: False leaves all sound out.
        with_film_sound: False leaves out the sound of what is seen; sound alone is heard.
        on_bad_sound: "error", or "warn": go on without a sound that does not decode.
        limits: how large and long a medium may be.
        policy: from which hosts media may be fetched.
    """

    num_frames: int | None = None
    fps: float | None = None
    with_picture: bool = True
    with_sound: bool = True
    with_film_sound: bool = True
    on_bad_sound: OnBadSound = "error"
    limits: Limits = field(default_factory=Limits)
    policy: SourcePolicy = field(default_factory=SourcePolicy)

    def __post_init__(self) -> None:
        if self.on_bad_sound not in ("error", "warn"):
            raise OptionError(f"on_bad_sound is 'error' or 'warn', not {self.on_bad_sound!r}")
        if self.num_frames is not None:
            require_count(self.num_frames, "num_frames")
        if self.fps is not None and not (is_number(self.fps) and 0 < self.fps < math.inf):
            raise OptionError(f"fps must be a number above 0, not {self.fps!r}")
        for name, kind in (("limits", Limits), ("policy", SourcePolicy)):
            if not isinstance(getattr(self, name), kind):
                raise OptionError(f"{name} is a {kind.__name__}, not {getattr(self, name)!r}")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """Options by name. Raises OptionError for a bad name or value."""
        require_names(given, cls)
        return cls(**given)

    @classmethod
    def take_from(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take those options out of a mixture."""
        names = [known.name for known in fields(cls) if known.name in given]
        return {name: given.pop(name) for name in names}


@dataclass(frozen=True)
class Attachment:
    """A medium as the model has it.

    Attributes:
        part: its place in a conversation.
        use: which of its streams the model gets.
        warnings: what a user should know of it.
        video_features: (1, V, D), None when nothing is seen.
        audio_features: (1, U, D), None when nothing is heard.
        decode_seconds, encode_seconds: what it took.
        key: tells what the features are of; equal keys are equal features.
    """

    part: MediaPart
    use: MediaUse
    warnings: tuple[str, ...]
    video_features: torch.Tensor | None
    audio_features: torch.Tensor | None
    decode_seconds: float
    encode_seconds: float
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class ReadMedium:
    """A medium that was read, and is still to be encoded.

    Attributes:
        part, use, warnings, decode_seconds: as in `Attachment`.
        frames: (1, T, 3, S, S), None when nothing is seen.
        clips: (1, C, 1, M, F), None when nothing is heard.
    """

    part: MediaPart
    use: MediaUse
    warnings: tuple[str, ...]
    frames: torch.Tensor | None
    clips: torch.Tensor | None
    decode_seconds: float


def read(
    source: MediaSource | MediaClip, processor: VideoLlamaProcessor, options: MediaOptions
) -> ReadMedium:
    """Read a medium. Needs no model, and may run in another thread or process.

    Raises:
        MediaError: it cannot be read, or nothing of it can be used by this model.
    """
    started = time.perf_counter()
    clip, failed = _read(source, processor, options)
    given = isinstance(source, MediaClip)
    status = _sound_status(clip, failed, processor, options, given=given)
    use = describe_use(clip, sound=status)
    _require_something(use)
    part = processor.describe_clip(
        MediaPart("video" if use.frames else "audio", sound=use.sound == USED), clip
    )
    warning = sound_warning(use)
    return ReadMedium(
        part=part,
        use=use,
        warnings=(*clip.warnings, *([warning] if warning else [])),
        frames=processor.clip_to_pixel_values(clip)[None] if part.is_seen else None,
        clips=processor.clip_to_input_features(clip)[None] if part.is_heard else None,
        decode_seconds=time.perf_counter() - started,
    )


def encode(medium: ReadMedium, model: "VideoLlamaForConditionalGeneration") -> Attachment:
    """Have the branches of a model look at and listen to a medium."""
    started = time.perf_counter()
    seen = heard = None
    with torch.inference_mode():
        if medium.frames is not None:
            seen = model.get_video_features(medium.frames.to(model.device))
        if medium.clips is not None:
            heard = model.get_audio_features(medium.clips.to(model.device))
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)  # so that the time is that of the encoders
    return Attachment(
        part=medium.part,
        use=medium.use,
        warnings=medium.warnings,
        video_features=seen,
        audio_features=heard,
        decode_seconds=medium.decode_seconds,
        encode_seconds=time.perf_counter() - started,
    )


def _read(
    source: MediaSource | MediaClip, processor: VideoLlamaProcessor, options: MediaOptions
) -> tuple[MediaClip, bool]:
    """The clip, and whether its sound failed to decode."""
    if isinstance(source, MediaClip):
        if options.with_picture:
            return source, False
        return replace(source, frames=None, times=(), indices=()), False
    num_frames = _num_frames(source, processor, options)

    def load(with_sound: bool) -> MediaClip:
        return load_media(
            source,
            num_frames=num_frames,
            with_frames=options.with_picture,
            with_sound=with_sound,
            sound_channels=cast("ChannelRule", processor.sound_channels),
            limits=options.limits,
            policy=options.policy,
        )

    if not options.with_film_sound:
        clip = load(False)
        if clip.frames is not None or clip.info.audio is None:
            return clip, False
    try:
        return load(options.with_sound and processor.has_audio_branch), False
    except CorruptMediaError as error:
        if options.on_bad_sound == "error" or not options.with_sound:
            raise
        clip = load(False)  # raises again if it was the picture that is damaged
        if clip.frames is None:
            raise
        return replace(clip, warnings=(*clip.warnings, str(error))), True


def _num_frames(source: MediaSource, processor: VideoLlamaProcessor, options: MediaOptions) -> int:
    usual = options.num_frames or processor.num_frames
    if options.fps is None or not options.with_picture:
        return usual
    info = probe(source, limits=options.limits, policy=options.policy)
    if info.video is None:
        return usual
    count = info.video.num_frames or 1
    if info.video.fps or info.duration is None:
        seconds = count / (info.video.fps or DEFAULT_FPS)  # the sound may go on for longer
    else:
        seconds = info.duration
    wanted = min(math.ceil(seconds * options.fps), count)
    return max(1, min(wanted, options.num_frames or wanted))


def _sound_status(
    clip: MediaClip,
    failed: bool,
    processor: VideoLlamaProcessor,
    options: MediaOptions,
    *,
    given: bool,
) -> str:
    if clip.info.audio is None and clip.sound is None:
        return ABSENT
    if not processor.has_audio_branch:
        return NO_BRANCH
    if not options.with_sound or (clip.frames is not None and not options.with_film_sound):
        return LEFT_OUT
    if failed:
        return FAILED
    if clip.sound is None:  # why a clip that was given has none, its own warnings say
        return LEFT_OUT if given else SHORT
    return SILENT if clip.silent else USED


def _require_something(use: MediaUse) -> None:
    """Refuse a medium without anything to look at or listen to: the answer would be invented."""
    if use.frames or use.sound == USED:
        return
    if use.picture == LEFT_OUT and use.sound == ABSENT:
        raise UnsupportedMediaError(f"{use.name} has no sound to listen to")
    without = "picture" if use.picture == ABSENT else "picture that is to be used"
    reasons = {
        ABSENT: "has neither picture nor sound",
        SILENT: f"is digital silence and has no {without}",
        SHORT: f"has no {without}, and its sound is too short to be heard",
        LEFT_OUT: f"has no {without}, and its sound is to be left out",
        NO_BRANCH: f"has no {without}, and this model has no audio branch to hear it with",
    }
    raise UnsupportedMediaError(
        f"{use.name} {reasons[use.sound]}; there is nothing in it to answer from"
    )
