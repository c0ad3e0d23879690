"""Stretches of videos and folders of frames."""

import av
import numpy as np
import pytest
from PIL import Image

from video_llama.attachment import MediaOptions
from video_llama.errors import CorruptMediaError, MediaNotFoundError, UnsupportedMediaError
from video_llama.evaluation.media import load_stretch, read_medium
from video_llama.evaluation.task import Medium
from video_llama.media.reader import load_media


@pytest.fixture
def load(assistant):
    def load(medium, **options):
        return load_stretch(medium, assistant.processor, MediaOptions(**options))

    return load


def test_a_whole_file_is_read_as_a_chat_reads_it(load, films):
    clip = load(Medium(films / "three.mkv"))
    expected = load_media(films / "three.mkv", num_frames=4)
    assert clip.times == expected.times
    assert np.array_equal(clip.frames, expected.frames)
    assert np.array_equal(clip.sound, expected.sound)


def test_a_stretch_is_as_if_it_were_a_file(load, films):
    whole = load_media(films / "three.mkv", num_frames=100)  # 2 s, 8 frames a second
    clip = load(Medium(films / "three.mkv", 0.5, 1.5))
    assert clip.indices == (4, 6, 8, 10)
    assert clip.times == pytest.approx((0.0, 0.25, 0.5, 0.75))
    assert np.array_equal(clip.frames, whole.frames[[4, 6, 8, 10]])
    assert np.array_equal(clip.sound, whole.sound[:, 8000:24000])
    assert clip.info.duration == pytest.approx(1.0)


def test_a_stretch_ends_with_its_video(load, films):
    clip = load(Medium(films / "three.mkv", 1.5, 99.0))
    assert clip.indices == (12, 13, 14, 15)
    clip = load(Medium(films / "three.mkv", 1.9, None))
    assert clip.indices == (15,)  # on show all along, and taken once
    clip = load(Medium(films / "three.mkv", None, 0.5), num_frames=2)
    assert clip.indices == (0, 2)


def test_a_stretch_that_goes_on_behind_the_picture_keeps_its_last_frame(load, films, tmp_path):
    path = tmp_path / "long_sound.mkv"
    with av.open(str(films / "one.mkv")) as film, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(film.streams.video[0])
        audio = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        for packet in film.demux(film.streams.video[0]):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), "s16", "mono")
        frame.sample_rate = 16000
        out.mux([*audio.encode(frame), *audio.encode(None)])  # 3 s beside 1 s of picture
    clip = load(Medium(path, 0.5, 3.0))
    assert clip.indices == (4, 7)
    assert clip.sound.shape == (1, 40000)
    assert load(Medium(path, 2.0, 3.0)).indices == (7,)


def test_a_stretch_of_a_sound(load, films):
    clip = load(Medium(films / "sound.wav", 0.25, 0.5))
    assert clip.frames is None
    assert clip.sound.shape == (1, 4000)


def test_a_stretch_behind_the_end_is_told(load, films):
    with pytest.raises(UnsupportedMediaError, match=r"lasts 2\.00 s, and 5\.00 to 6\.00"):
        load(Medium(films / "three.mkv", 5.0, 6.0))


def test_sound_is_left_out_on_demand(assistant, films):
    medium = Medium(films / "three.mkv")
    assert read_medium(medium, assistant.processor, MediaOptions()).use.sound == "used"
    silent = read_medium(medium, assistant.processor, MediaOptions(with_sound=False))
    assert (silent.use.sound, silent.clips) == ("left out", None)


def test_a_frame_that_is_too_large_is_damaged(load, tmp_path, monkeypatch):
    Image.new("RGB", (30, 20)).save(tmp_path / "00001.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CorruptMediaError, match=r"00001\.png"):
        load(Medium(tmp_path, fps=3.0))


def test_a_folder_of_frames(load, tmp_path):
    for number in range(12):
        pixels = np.full((20, 30, 3), 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number + 1:05d}.png")
    clip = load(Medium(tmp_path, fps=3.0))
    assert clip.times == (0.0, 1.0, 2.0, 3.0)
    assert [int(frame.mean()) for frame in clip.frames] == [0, 60, 120, 180]
    clip = load(Medium(tmp_path, 1.0, 2.0, fps=3.0))  # frames 3 to 6
    assert [int(frame.mean()) for frame in clip.frames] == [60, 80, 100, 120]
    with pytest.raises(UnsupportedMediaError, match="no frames between"):
        load(Medium(tmp_path, 50.0, 60.0, fps=3.0))
    (tmp_path / "00001.png").write_bytes(b"broken")
    with pytest.raises(CorruptMediaError, match=r"00001\.png"):
        load(Medium(tmp_path, fps=3.0))
    with pytest.raises(MediaNotFoundError):
        load(Medium(tmp_path / "nowhere", fps=3.0))
