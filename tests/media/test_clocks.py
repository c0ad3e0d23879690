"""Clocks that begin late or are set back, tracks in any order, and how long a medium lasts."""

import io
import struct
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from make import Film, Tone, picture, write

from video_llama.errors import MediaLimitError, OptionError
from video_llama.media.limits import Limits
from video_llama.media.reader import load_media, probe

RATE = 16_000
TALKING = Film("mpegts", tones=(Tone(seconds=3.0),), count=30)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_sound_track_that_comes_first_is_not_called_damaged(container: str) -> None:
    film = Film(container, tones=(Tone(),), count=20)
    other = load_media(write(film))
    clip = load_media(write(Film(container, tones=(Tone(),), count=20, sound_first=True)))
    assert clip.warnings == other.warnings == ()
    assert clip.sound.shape == other.sound.shape
    assert clip.frames.shape == other.frames.shape


@pytest.mark.parametrize("sound_first", [False, True])
def test_a_sound_track_without_sound_is_empty_wherever_it_is(sound_first: bool) -> None:
    film = Film("matroska", tones=(Tone(seconds=0.0),), count=20, sound_first=sound_first)
    clip = load_media(write(film))
    assert (clip.sound, clip.warnings) == (None, ("the sound track is empty",))


@pytest.mark.parametrize("container", ["matroska", "nut", "mpegts", "mp4"])
def test_a_clock_that_begins_late_is_not_missing_anything(container: str) -> None:
    data = write(Film(container, count=30, start=100.0))
    for info in (load_media(data).info, probe(data, limits=Limits(duration=10.0))):
        assert info.duration == pytest.approx(3.0, abs=0.15)
        assert info.warnings == ()


def cut(data: bytes, seconds: float) -> bytes:
    """A recording that is begun so many seconds into a broadcast."""
    target = io.BytesIO()
    with av.open(io.BytesIO(data)) as whole, av.open(target, "w", format="mpegts") as output:
        tracks = {s.index: output.add_stream_from_template(s) for s in whole.streams}
        begin = None
        for packet in whole.demux():
            if packet.dts is None:
                continue
            time = float(packet.pts * packet.time_base)
            begin = time if begin is None else begin
            if time - begin >= seconds:
                packet.stream = tracks[packet.stream.index]
                output.mux(packet)
    return target.getvalue()


def test_sound_keeps_its_time_where_the_first_frames_cannot_be_decoded() -> None:
    """A recording begins between keyframes; zero is the first frame that there is."""
    keys = {"x264-params": "keyint=30:scenecut=0:min-keyint=30", "bf": "0"}
    tone = Tone("mp2", 48_000, "mono", 6.0)
    data = cut(write(Film("mpegts", count=60, options=keys, tones=(tone,))), 1.0)
    with av.open(io.BytesIO(data)) as file:
        first_frame = min(float(frame.time) for frame in file.decode(video=0))
    with av.open(io.BytesIO(data)) as file:
        first_sound = next(float(frame.time) for frame in file.decode(audio=0))
    assert first_sound < first_frame - 1.5
    clip = load_media(data, num_frames=4)
    assert clip.times[0] == 0.0
    assert clip.sound_start == pytest.approx(first_sound - first_frame, abs=0.01)
    late = load_media(data, times=[clip.info.duration - 1.0 - (first_frame - first_sound)])
    assert late.indices[0] >= 15  # of thirty: times are those of the frames


def test_an_edit_list_hides_no_frames_that_are_missed() -> None:
    """As left by trimming without encoding: what is shown begins behind the keyframe."""
    data = bytearray(write(Film(count=30, options={"g": "30", "bf": "0", "threads": "1"})))
    scale, movie = (
        struct.unpack_from(">I", data, data.index(box) + 16)[0] for box in (b"mdhd", b"mvhd")
    )
    place = data.index(b"elst") + 12
    begin = struct.unpack_from(">i", data, place + 4)[0]
    shown = (round(0.2 * movie), begin + round(2.8 * scale))
    struct.pack_into(">Ii", data, place, *shown)
    clip = load_media(bytes(data), num_frames=8)
    assert set(clip.indices) == {0, 1}
    assert clip.warnings == ()


def test_films_that_were_joined_last_as_long_as_both() -> None:
    data = write(TALKING)
    clip = load_media(data + data)
    one = probe(data)
    assert clip.info.duration == pytest.approx(2 * one.duration, abs=0.2)
    assert clip.info.video.num_frames == 60
    assert clip.info.video.fps == pytest.approx(10, abs=0.5)
    assert clip.sound.shape[1] == pytest.approx(2 * load_media(data).sound.shape[1], abs=3000)


def test_a_clock_that_is_set_far_back_is_no_full_one() -> None:
    late = write(Film("mpegts", tones=(Tone(seconds=3.0, start=100.0),), count=30, start=100.0))
    clip = load_media(late + write(TALKING), num_frames=60)
    assert clip.info.duration == pytest.approx(6.0, abs=0.4)
    assert clip.warnings == ()
    assert probe(late + write(TALKING)).duration == pytest.approx(6.0, abs=0.4)
    assert clip.sound.shape[1] / RATE == pytest.approx(6.0, abs=0.4)
    for shown, stored in ((clip.frames[0], 0), (clip.frames[29], 29), (clip.frames[30], 0)):
        wanted = picture(stored).astype(int)
        assert np.abs(shown.astype(int) - wanted).mean() < 12


@pytest.mark.parametrize("start", [95_442.2, 95_443.0])
def test_a_clock_that_is_full_begins_at_0_again(start: float) -> None:
    """That of MPEG-TS has 33 bits: 26 hours and a half."""
    film = Film("mpegts", count=40, start=start, tones=(Tone(seconds=4.0, start=start),))
    data = write(replace(film, mux={"mpegts_copyts": "1"}))
    with av.open(io.BytesIO(data), container_options={"correct_ts_overflow": "0"}) as container:
        stamps = [packet.dts for packet in container.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)
    clip = load_media(data, num_frames=40)
    assert clip.info.duration == pytest.approx(4.0, abs=0.1)
    assert np.allclose(clip.times, np.arange(40) / 10, atol=0.01)
    assert clip.sound.shape[1] / RATE == pytest.approx(4.0, abs=0.1)
    for number, frame in enumerate(clip.frames):
        assert np.abs(frame.astype(int) - picture(number)).mean() < 12


def test_a_clock_that_jumps_half_a_day_is_too_long_and_no_fault() -> None:
    late = write(Film("mpegts", count=30, start=50_000.0))
    with pytest.raises(MediaLimitError, match="lasts"):
        load_media(write(Film("mpegts", count=30)) + late)


def test_chained_sounds_last_as_long_as_both() -> None:
    data = write(Film("ogg", count=0, tones=(Tone("opus", 48_000, seconds=3.0),)))
    clip = load_media(data + data)
    assert clip.info.duration == pytest.approx(6.0, abs=0.1)
    assert clip.sound.shape[1] / RATE == pytest.approx(6.0, abs=0.1)


def test_the_last_frame_is_shown_until_the_sound_ends() -> None:
    data = write(Film("matroska", count=10, tones=(Tone(seconds=3.0),)))
    for with_sound in (True, False):
        clip = load_media(data, times=[0.0, 0.95, 2.9], with_sound=with_sound)
        assert clip.indices == (0, 9, 9)
        with pytest.raises(OptionError, match=r"lasts 3\.\d"):
            load_media(data, times=[3.5], with_sound=with_sound)


@pytest.mark.parametrize("film", [Film("avi", "mpeg4"), Film("wav", count=0, tones=(Tone(),))])
def test_a_riff_file_that_was_cut_short_says_so(film: Film) -> None:
    if film.container == "wav":
        film = Film("wav", count=0, tones=(Tone("pcm_s16le"),))
    data = write(film)
    assert load_media(data).warnings == ()
    cut = load_media(data[: len(data) * 2 // 3])
    told = " ".join(cut.warnings)
    assert "bytes are there: the file is cut short" in told or "its header tells" in told


def test_a_riff_file_of_a_recorder_that_could_not_go_back_does_not(tmp_path) -> None:
    data = bytearray(write(Film("wav", count=0, tones=(Tone("pcm_s16le"),))))
    data[4:8] = b"\xff\xff\xff\xff"
    assert load_media(bytes(data)).warnings == ()


def test_fonts_are_no_tracks() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(3):
            output.add_attachment(f"{number}.ttf", "application/x-truetype-font", b"\0\1\0\0")
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(picture(index))
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert load_media(buffer.getvalue(), limits=Limits(streams=1)).info.video.num_frames == 10


def test_a_long_hole_in_a_sound_counts_as_sound() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (0, 600):
            silent = np.zeros((1, RATE), np.int16)
            frame = av.AudioFrame.from_ndarray(silent, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start * RATE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = buffer.getvalue()
    assert load_media(data).sound.shape[1] == pytest.approx(601 * RATE, abs=100)
    with pytest.raises(MediaLimitError, match="values"):
        load_media(data, limits=Limits(samples=100 * RATE))
