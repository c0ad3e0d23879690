"""From a source to what it holds (`probe`) and to its frames and sound (`load_media`).

source ── bytes ──┬─ picture ──── Pillow ──────────────────────────┐
  │               └─ container ── packets, once: index of frames,  ├── MediaClip
  │                               sound; then the wanted frames ───┤
  └── arrays ──────────────────────────────────────────────────────┘
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from video_llama.errors import UnsupportedMediaError
from video_llama.media import arrays, image
from video_llama.media.clip import (
    MIN_SAMPLES,
    SOUND_RATE,
    AudioStreamInfo,
    MediaClip,
    MediaInfo,
    VideoStreamInfo,
)
from video_llama.media.film import load_container, probe_container
from video_llama.media.limits import Deadline, Limits
from video_llama.media.pixels import stacked
from video_llama.media.request import OnBadSound, Request, Sampling
from video_llama.media.sampling import DEFAULT_NUM_FRAMES
from video_llama.media.sniff import SNIFF_BYTES, sniff
from video_llama.media.sound import ChannelRule
from video_llama.media.source import (
    ByteSource,
    FrameFiles,
    FramesArray,
    MediaSource,
    SoundArray,
    SourcePolicy,
    open_source,
)

__all__ = [
    "AudioStreamInfo",
    "Limits",
    "MediaClip",
    "MediaInfo",
    "MediaSource",
    "SourcePolicy",
    "VideoStreamInfo",
    "load_media",
    "probe",
]


def probe(
    source: MediaSource,
    *,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    policy: SourcePolicy = SourcePolicy(),  # noqa: B008
) -> MediaInfo:
    """What a medium holds. Packets are counted; of a video one frame is decoded, of sound none.

    Args:
        source: a path, bytes, a binary file object, a `data:` or allowed `http(s)` URL, a picture
            of Pillow, or arrays (see `FramesArray` and `SoundArray`).
        limits: how large and long it may be.
        policy: from which hosts it may be fetched.

    Raises:
        MediaNotFoundError: there is nothing to read.
        UnsupportedMediaError: it is not media, or of a kind that is not read.
        CorruptMediaError: it is damaged beyond use.
        MediaLimitError: a limit was passed.
        ForbiddenSourceError: it comes from, or points to, a place that is not allowed.
    """
    opened = open_source(source, limits, policy)
    if not isinstance(opened, ByteSource):
        request = _request(limits, with_frames=False, with_sound=False)
        return _load_decoded(opened, request).info
    with opened:
        content = sniff(opened.head(SNIFF_BYTES), opened.label)
        if content != "picture":
            return probe_container(opened, content, limits)
        with image.open_picture(opened, opened.label, limits) as picture:
            found = image.read_picture(picture, opened.label, limits, opened.deadline, None)
        return _picture_info(found, opened.size, opened.label)


def load_media(
    source: MediaSource,
    *,
    num_frames: int = DEFAULT_NUM_FRAMES,
    indices: Sequence[int] | None = None,
    times: Sequence[float] | None = None,
    sampling: Sampling = "uniform",
    rng: random.Random | None = None,
    with_frames: bool = True,
    with_sound: bool = True,
    sound_channels: ChannelRule = "mean",
    on_bad_sound: OnBadSound = "error",
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    policy: SourcePolicy = SourcePolicy(),  # noqa: B008
) -> MediaClip:
    """Frames and sound of a video, a picture, a sound, or arrays.

    Every frame is identical to the one that decoding the whole video gives, upright, at its true
    time. A track that is absent gives None; a sound that is there and does not decode is an error.

    Args:
        source: as for `probe`.
        num_frames: frames to sample; all of them where the video has fewer.
        indices: frames by number in order of presentation, in any order, instead of sampling.
        times: frames by seconds from the first frame: those on show then.
        sampling: "uniform", or "head_tail" (random, of vision stage 1).
        rng: the source of chance for "head_tail"; a fresh one without it.
        with_frames, with_sound: what to decode at all.
        sound_channels: "mean" of the channels; "first", as published checkpoints were run;
            or "all" of them.
        on_bad_sound: "error", or "warn": go on without a sound that does not decode.
        limits: how large and long it may be.
        policy: from which hosts it may be fetched.

    Returns:
        uint8 frames (T, H, W, 3) with times and indices, float32 sound (1 or C, N) at 16 kHz.

    Raises:
        OptionError: arguments that cannot be met, such as an index behind the end.
        MediaError: one of its kinds, as for `probe`; CorruptMediaError also when too few frames
            decode, or no sound where there should be one.
    """
    request = Request(
        num_frames=num_frames,
        indices=indices,
        times=times,
        sampling=sampling,
        rng=rng or random.Random(),
        with_frames=with_frames,
        with_sound=with_sound,
        sound_channels=sound_channels,
        on_bad_sound=on_bad_sound,
        limits=limits,
    )
    opened = open_source(source, limits, policy)
    if not isinstance(opened, ByteSource):
        return _load_decoded(opened, request)
    with opened:
        content = sniff(opened.head(SNIFF_BYTES), opened.label)
        if content == "picture":
            with image.open_picture(opened, opened.label, limits) as picture:
                return _load_picture(picture, request, opened.label, opened.size, opened.deadline)
        return load_container(opened, content, request, limits)


def _request(limits: Limits, *, with_frames: bool, with_sound: bool) -> Request:
    return Request(
        num_frames=1,
        indices=None,
        times=None,
        sampling="uniform",
        rng=None,
        with_frames=with_frames,
        with_sound=with_sound,
        sound_channels="mean",
        on_bad_sound="error",
        limits=limits,
    )


def _load_decoded(
    opened: FramesArray | SoundArray | FrameFiles | Image.Image, request: Request
) -> MediaClip:
    if isinstance(opened, SoundArray):
        return _load_sound_array(opened, request)
    if isinstance(opened, FramesArray):
        return _load_frames_array(opened, request)
    if isinstance(opened, FrameFiles):
        return _load_frame_files(opened, request)
    if not opened.width or not opened.height:
        raise UnsupportedMediaError("a picture of no width or height holds nothing to see")
    deadline = Deadline(request.limits.deadline, "the picture")
    request.limits.check_pixels(opened.width, opened.height, "the picture")
    return _load_picture(opened, request, "the picture", 0, deadline)


def _load_picture(
    picture: Image.Image, request: Request, name: str, size: int, deadline: Deadline
) -> MediaClip:
    pick = request.pick if request.with_frames else None
    found = image.read_picture(picture, name, request.limits, deadline, pick)
    info = _picture_info(found, size, name)
    return MediaClip(info=info, frames=found.pixels, times=found.times, indices=found.indices)


def _picture_info(found: image.Pictures, size: int, name: str) -> MediaInfo:
    moving = found.duration is not None
    video = VideoStreamInfo(
        codec=found.codec,
        width=found.width,
        height=found.height,
        rotation=found.rotation,
        fps=found.count / found.duration if found.duration else None,
        num_frames=found.count,
    )
    kind = "video" if moving else "image"
    return MediaInfo(kind, found.codec, found.duration, video, None, size, name)


def _load_frames_array(array: FramesArray, request: Request) -> MediaClip:
    frames = arrays.frames_of(array, request.limits)
    times, warnings = arrays.frame_times(array, len(frames))
    heard = None if array.sound is None else _load_sound_array(array.sound, request)
    end = None if heard is None else heard.info.duration
    indices = request.pick(times, end) if request.with_frames else []
    info = _frames_info(frames.shape[2], frames.shape[1], times, "raw", frames.nbytes)
    clip = MediaClip(
        info=info,
        frames=arrays.to_uint8(frames[indices]) if indices else None,
        times=tuple(times[i] for i in indices),
        indices=tuple(indices),
        warnings=warnings,
    )
    if heard is None:
        return clip
    seconds = max(info.duration or 0.0, heard.info.duration or 0.0)
    info = replace(info, kind="video", duration=seconds, audio=heard.info.audio)
    return replace(clip, info=info, sound=heard.sound, warnings=warnings + heard.warnings)


def _load_frame_files(files: FrameFiles, request: Request) -> MediaClip:
    name, limits = "the data: URL", request.limits
    deadline = Deadline(limits.deadline, name)
    times = [float(index) for index in range(len(files.pictures))]
    indices = request.pick(times) if request.with_frames else []
    wanted = sorted({0, *indices})
    found = image.read_frame_files(files.pictures, name, limits, deadline, wanted)
    height, width = found[0].shape[:2]
    size = sum(len(picture) for picture in files.pictures)
    assumed = ("the times of the frames are not known: one a second is assumed",)
    return MediaClip(
        info=_frames_info(width, height, times, "jpeg", size),
        frames=stacked(found, indices) if indices else None,
        times=tuple(times[i] for i in indices),
        indices=tuple(indices),
        warnings=assumed if len(times) > 1 else (),
    )


def _frames_info(
    width: int, height: int, times: Sequence[float], codec: str, size: int
) -> MediaInfo:
    count = len(times)
    step = (times[-1] - times[0]) / (count - 1) if count > 1 else 0.0
    video = VideoStreamInfo(codec, width, height, fps=1 / step if step else None, num_frames=count)
    kind = "video" if count > 1 else "image"
    return MediaInfo(kind, "array", times[-1] + step if step else None, video, None, size, "")


def _load_sound_array(array: SoundArray, request: Request) -> MediaClip:
    sound = arrays.sound_of(array, request.sound_channels, request.limits)
    values = arrays.to_numpy(array.samples)
    channels = 1 if values.ndim == 1 else values.shape[0]
    audio = AudioStreamInfo("raw", int(array.rate), channels)
    seconds = values.shape[-1] / array.rate
    info = MediaInfo("audio", "array", seconds, None, audio, values.nbytes, "")
    if sound.shape[1] < MIN_SAMPLES:
        milliseconds = 1000 * sound.shape[1] / SOUND_RATE
        warning = f"{milliseconds:.0f} ms of sound are too short to be used"
        return MediaClip(info=info, warnings=(warning,))
    return MediaClip(info=info, sound=sound if request.with_sound else None)
