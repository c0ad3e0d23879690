"""A medium of a benchmark as frames and sound: whole files, stretches of them, folders of frames.

Shapes: T frames, H and W of a frame, C channels, N samples.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from video_llama.attachment import MediaOptions, ReadMedium, read
from video_llama.errors import CorruptMediaError, MediaNotFoundError, UnsupportedMediaError
from video_llama.evaluation.task import Medium
from video_llama.media.clip import MIN_SAMPLES, MediaClip, MediaInfo
from video_llama.media.image import DAMAGE
from video_llama.media.reader import load_media, probe
from video_llama.media.sampling import uniform_indices
from video_llama.media.source import FramesArray
from video_llama.processing.processor import VideoLlamaProcessor

if TYPE_CHECKING:
    from video_llama.media.sound import ChannelRule


def read_medium(
    medium: Medium, processor: VideoLlamaProcessor, options: MediaOptions
) -> ReadMedium:
    """A medium, ready to be encoded.

    Raises:
        MediaError: it cannot be read, nothing of it can be used, or the stretch lies behind its
            end.
    """
    return read(load_stretch(medium, processor, options), processor, options)


def load_stretch(
    medium: Medium, processor: VideoLlamaProcessor, options: MediaOptions
) -> MediaClip:
    """Frames and sound, as the processor of the model wants them.

    Times of a stretch count from its beginning, as if it were a file of its own.

    Raises:
        MediaError: it cannot be read, or the stretch lies behind its end.
    """
    num_frames = options.num_frames or processor.num_frames
    if medium.fps is not None:
        return load_media(_frames_of(medium, num_frames), num_frames=num_frames)
    wanted: dict[str, Any] = {
        "num_frames": num_frames,
        "with_sound": options.with_sound and processor.has_audio_branch,
        "sound_channels": cast("ChannelRule", processor.sound_channels),
        "limits": options.limits,
        "policy": options.policy,
    }
    if medium.start is None and medium.end is None:
        return load_media(medium.path, **wanted)
    info = probe(medium.path, limits=options.limits, policy=options.policy)
    start, end = _bounds(medium, info)
    times = _times(start, end, num_frames)
    if info.video and info.video.fps and info.video.num_frames:  # sound may go on after it
        last = (info.video.num_frames - 1) / info.video.fps
        times = [min(time, last) for time in times]
    return _cut(load_media(medium.path, times=times, **wanted), start, end)


def _bounds(medium: Medium, info: MediaInfo) -> tuple[float, float]:
    """Beginning and end of a stretch that begins inside the medium."""
    duration = info.duration or 0.0
    start = max(medium.start or 0.0, 0.0)
    end = duration if medium.end is None else min(medium.end, duration)
    if start >= duration or end < start:
        raise UnsupportedMediaError(
            f"{info.name} lasts {duration:.2f} s, and {start:.2f} to "
            f"{end if medium.end is None else medium.end:.2f} s of it are asked for"
        )
    return start, end


def _times(start: float, end: float, count: int) -> list[float]:
    """Evenly spaced from the beginning on, as the frames of a whole video are."""
    return [start + (end - start) * number / count for number in range(count)]


def _cut(clip: MediaClip, start: float, end: float) -> MediaClip:
    """What lies between two times; frames that were on show more than once are kept once."""
    kept = [n for n, index in enumerate(clip.indices) if index not in clip.indices[:n]]
    sound = clip.sound
    if sound is not None:
        first = round((start - clip.sound_start) * clip.sound_rate)
        last = round((end - clip.sound_start) * clip.sound_rate)
        sound = sound[:, max(first, 0) : max(last, 0)]  # (C, N)
        sound = sound if sound.shape[1] >= MIN_SAMPLES else None
    return replace(
        clip,
        info=replace(clip.info, duration=end - start),
        frames=None if clip.frames is None else clip.frames[kept],
        times=tuple(max(clip.times[n] - start, 0.0) for n in kept),
        indices=tuple(clip.indices[n] for n in kept),
        sound=sound,
        sound_start=0.0,
    )


def _frames_of(medium: Medium, num_frames: int) -> FramesArray:
    """Evenly spaced pictures of a folder, (T, H, W, 3); those between start and end."""
    assert medium.fps is not None
    paths = _pictures(medium.path)
    first = min(round((medium.start or 0.0) * medium.fps), len(paths))
    last = len(paths) if medium.end is None else round(medium.end * medium.fps) + 1
    paths = paths[first:last]
    if not paths:
        raise UnsupportedMediaError(
            f"{medium.path.name} has no frames between {medium.start} and {medium.end} s"
        )
    chosen = uniform_indices(len(paths), num_frames)
    frames = [_picture(paths[index]) for index in chosen]
    if len({frame.shape for frame in frames}) > 1:
        raise UnsupportedMediaError(f"the frames in {medium.path.name} differ in size")
    return FramesArray(np.stack(frames), times=[index / medium.fps for index in chosen])


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MediaNotFoundError(f"no such folder of frames: {folder}")
    found = [path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    return sorted(found, key=lambda path: path.name)


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (*DAMAGE, Image.DecompressionBombError):
        raise CorruptMediaError(
            f"{path.parent.name}/{path.name} is no picture that decodes"
        ) from None
