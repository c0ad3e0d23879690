"""What a loaded medium gives a prompt, and videos of different lengths as one batch."""

from collections.abc import Sequence

import numpy as np
import torch

from video_llama.errors import UnsupportedMediaError
from video_llama.media.clip import MIN_SAMPLES, MediaClip
from video_llama.processing.conversation import MediaPart


def describe_part(part: MediaPart, clip: MediaClip, has_audio_branch: bool) -> MediaPart:
    """What a part of a message turns out to be, now that its medium is loaded: content decides.

    A video without pictures is a sound, and a picture named a video is a picture. A part named
    "audio" is only listened to, one named "image" only looked at. The sound of a video is used if
    there is one that is more than digital silence, the model has an audio branch, and the part does
    not refuse it.

    Raises:
        UnsupportedMediaError: nothing of the medium can be used.
    """
    long_enough = clip.sound is not None and clip.sound.shape[1] >= MIN_SAMPLES
    has_sound = long_enough and not clip.silent
    if part.kind == "audio" or clip.frames is None:
        if has_sound and has_audio_branch:
            return MediaPart("audio", source=part.source)
        if long_enough and clip.silent:
            raise UnsupportedMediaError(
                f"{_name(clip)} is digital silence, which there is nothing to hear in; "
                "give a medium that has a sound"
            )
        if not has_sound:
            raise UnsupportedMediaError(
                f"{_name(clip)} has no sound to listen to; give a medium that has one"
            )
        raise UnsupportedMediaError(
            f"{_name(clip)} can only be listened to, and this model has no audio branch; "
            "give a picture or a video, or use a model that has one"
        )
    if clip.info.kind == "image":
        return MediaPart("image", source=part.source)
    heard = has_sound and has_audio_branch and part.kind == "video" and part.sound is not False
    return MediaPart("video", sound=heard, times=clip.times, source=part.source)


def require_media(array: np.ndarray | None, clip: MediaClip, what: str) -> np.ndarray:
    """The frames or the sound of a medium.

    Raises:
        UnsupportedMediaError: it has none.
    """
    if array is None:
        raise UnsupportedMediaError(f"{_name(clip)} has no {what}")
    return array


def stack_frames(videos: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Videos of (T, 3, S, S) as one batch, padded with zeros to the longest.

    Returns:
        `pixel_values_videos` (V, T, 3, S, S) and, if lengths differ, `video_frame_mask` (V, T),
        True for real frames; nothing for no videos.
    """
    if not videos:
        return {}
    lengths = torch.tensor([len(video) for video in videos])
    pixels = torch.nn.utils.rnn.pad_sequence(list(videos), batch_first=True)
    data = {"pixel_values_videos": pixels}
    if (lengths != lengths[0]).any():
        data["video_frame_mask"] = torch.arange(pixels.shape[1]) < lengths.unsqueeze(1)
    return data


def _name(clip: MediaClip) -> str:
    return clip.info.name or "the medium"
