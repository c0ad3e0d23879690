"""The real clips: each loads, and is what the list says."""

from pathlib import Path

import numpy as np
import pytest
from conftest import manifest

from video_llama.media.reader import load_media, probe

ROWS = manifest()


@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_every_clip_is_what_the_list_says(row: dict[str, str], media: Path) -> None:
    clip = load_media(media / row["file"])
    info = clip.info
    assert info.size_bytes == int(row["bytes"])
    assert info.kind == ("image" if row["kind"] == "image" else info.kind)
    if "video" in row["kind"] or row["kind"] == "image":
        _check_picture(clip, row)
    else:
        assert clip.frames is None
    if row["audio_codec"]:
        assert info.audio.codec == row["audio_codec"]
        assert (info.audio.rate, info.audio.channels) == (
            int(row["audio_rate"]),
            int(row["audio_channels"]),
        )
        assert clip.has_sound
        assert clip.sound.shape[1] / clip.sound_rate == pytest.approx(info.duration, abs=0.3)
    else:
        assert not clip.has_sound
        assert info.audio is None
    if row["seconds"]:
        assert info.duration == pytest.approx(float(row["seconds"]), abs=0.15)
    assert clip.silent == ("digital silence" in row["description"])
    assert probe(media / row["file"]) == info


def _check_picture(clip, row: dict[str, str]) -> None:
    video = clip.info.video
    width, height = (int(side) for side in row["size"].split("x"))
    rotation = int(row["rotation"] or 0)
    upright = (height, width) if rotation in (90, 270) else (width, height)
    assert (video.width, video.height) == upright
    assert video.rotation == rotation
    assert clip.frames.shape[1:] == (upright[1], upright[0], 3)
    if row["kind"] != "image":
        assert video.codec == row["video_codec"].split()[0]
        assert len(clip.frames) == 8
        assert video.fps == pytest.approx(float(row["fps"]), rel=0.03)


def test_a_turned_clip_shows_what_the_straight_one_shows(media: Path) -> None:
    from PIL import Image

    times = [0.0, 1.0, 2.0]
    straight = load_media(media / "skateboarding_dog.mp4", times=times, with_sound=False).frames
    turned = load_media(media / "skateboarding_dog_rot.mp4", times=times, with_sound=False).frames
    small = np.stack([np.asarray(Image.fromarray(frame).resize((270, 480))) for frame in straight])
    assert np.abs(small.astype(int) - turned).mean() < 6
