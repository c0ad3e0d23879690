"""Frames of films: whatever the codec, those of a full decode."""

import io
import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make import Film, Tone, decode_all, picture, write
from PIL import Image

from video_llama.errors import OptionError
from video_llama.media import video, walk
from video_llama.media.reader import load_media, probe
from video_llama.media.sampling import uniform_indices

OPEN_GOP = "open-gop=1:keyint=8:bframes=3:b-pyramid=normal"
FILMS = {
    "h264 B-frames": Film(options={"bf": "3", "g": "8"}),
    "h264 open GOP": Film(options={"x264-params": OPEN_GOP}),
    "h264 one keyframe": Film(options={"g": "250"}),
    "h264 intra refresh": Film("mpegts", options={"x264-params": "intra-refresh=1:keyint=10"}),
    "h264 10 bit 4:4:4": Film(pix_fmt="yuv444p10le", options={"g": "8"}),
    "h264 fragmented": Film(mux={"movflags": "frag_keyframe+empty_moov"}, options={"g": "8"}),
    "h264 MPEG-TS": Film("mpegts", options={"bf": "2", "g": "8"}, tones=(Tone(seconds=3),)),
    "h264 FLV": Film("flv", options={"g": "8"}),
    "h264 AVI": Film("avi", options={"bf": "2", "g": "8"}),
    "h264 bare": Film("h264", options={"bf": "2", "g": "8"}, fps=25),
    "hevc open GOP": Film(
        "matroska", "libx265", options={"x265-params": "log-level=none:keyint=8:open-gop=1"}
    ),
    "vp8 hidden frames": Film(
        "webm", "libvpx", options={"g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}
    ),
    "vp9": Film("webm", "libvpx-vp9", options={"g": "8", "deadline": "realtime"}),
    "av1": Film("matroska", "libsvtav1", options={"g": "8", "preset": "12"}),
    "mpeg4 packed AVI": Film("avi", "mpeg4", options={"bf": "2", "g": "8"}),
    "mpeg4 mp4": Film("mp4", "mpeg4", options={"bf": "2", "g": "8"}),
    "mpeg2 MPEG-TS": Film("mpegts", "mpeg2video", options={"bf": "2", "g": "6"}, fps=25),
    "mpeg2 program stream": Film("mpeg", "mpeg2video", options={"bf": "2", "g": "6"}, fps=25),
    "mjpeg AVI": Film("avi", "mjpeg", pix_fmt="yuvj420p"),
    "prores": Film("mov", "prores_ks", pix_fmt="yuv422p10le"),
    "wmv": Film("asf", "wmv2", options={"g": "8"}),
    "gif": Film("gif", "gif", pix_fmt="rgb8"),
    "lossless": Film("matroska", "ffv1"),
}


@pytest.fixture(scope="module")
def films() -> dict[str, tuple[bytes, list[np.ndarray], list[float]]]:
    return {}


def film(films: dict, name: str) -> tuple[bytes, list[np.ndarray], list[float]]:
    if name not in films:
        data = write(FILMS[name])
        films[name] = (data, *decode_all(data))
    return films[name]


@pytest.mark.parametrize("name", FILMS)
def test_every_frame_is_that_of_a_full_decode(films: dict, name: str) -> None:
    data, frames, _ = film(films, name)
    rng = random.Random(name)
    choices = [list(range(len(frames))), [0], [len(frames) - 1]]
    choices += [sorted(rng.sample(range(len(frames)), 3)) for _ in range(4)]
    for indices in choices:
        clip = load_media(data, indices=indices, with_sound=False)
        assert clip.indices == tuple(indices)
        for index, got in zip(indices, clip.frames, strict=True):
            assert np.array_equal(got, frames[index]), f"frame {index} of {indices}"
    assert clip.info.video.num_frames == len(frames)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_choice_of_frames_in_any_order(films: dict, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["h264 B-frames", "h264 open GOP", "hevc open GOP", "vp9"]))
    source, frames, _ = film(films, name)
    indices = data.draw(st.lists(st.integers(0, len(frames) - 1), min_size=1, max_size=6))
    clip = load_media(source, indices=indices, with_sound=False)
    assert all(
        np.array_equal(got, frames[index]) for index, got in zip(indices, clip.frames, strict=True)
    )


@pytest.mark.parametrize("name", ["h264 B-frames", "h264 MPEG-TS", "vp9", "gif"])
def test_times_come_from_timestamps(films: dict, name: str) -> None:
    data, frames, times = film(films, name)
    clip = load_media(data, indices=range(len(frames)), with_sound=False)
    assert clip.times == pytest.approx(times, abs=1e-6)
    assert clip.info.video.fps == pytest.approx(FILMS[name].fps, rel=0.05)


def test_the_walk_skips_what_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one full decode for an ordinary file: the walk finds its frames."""
    data = write(Film(count=60, options={"g": "10", "bf": "2"}))
    monkeypatch.setattr(video, "_read_everything", None)
    assert load_media(data, indices=[0, 17, 59]).indices == (0, 17, 59)


def test_when_jumping_is_impossible_the_whole_track_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = write(Film(count=60, options={"g": "10", "bf": "2"}))
    frames, _ = decode_all(data)

    def nowhere(*_: object) -> None:
        raise walk.UnforeseenError

    monkeypatch.setattr(walk.Walk, "_jump", nowhere)
    clip = load_media(data, indices=[3, 40])
    assert np.array_equal(clip.frames, np.stack([frames[3], frames[40]]))


def test_a_jump_that_lands_late_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(Film("mpegts", count=80, options={"g": "10", "bf": "2"}))
    frames, _ = decode_all(data)
    landings: list[int | None] = []
    original = walk.Walk._land

    def land(self: walk.Walk, key: int):
        landed, packets = original(self, key)
        landings.append(landed)
        return (key + 10 if len(landings) == 1 else landed), packets

    monkeypatch.setattr(walk.Walk, "_land", land)
    clip = load_media(data, indices=[45])
    assert np.array_equal(clip.frames[0], frames[45])
    assert len(landings) > 1


def test_variable_frame_rate_keeps_true_time() -> None:
    times = [0.0, 0.1, 0.2, 1.0, 1.05, 3.0, 3.1, 3.2, 7.5, 7.6]
    data = write(Film(count=len(times), times=times, options={"bf": "2"}))
    clip = load_media(data, num_frames=10)
    assert clip.times == pytest.approx(times, abs=1e-3)
    shown = load_media(data, times=[0.15, 0.99, 1.0, 6.0, 7.55])
    assert shown.indices == (1, 2, 3, 7, 8)


def test_times_count_from_the_first_frame() -> None:
    clip = load_media(write(Film("matroska", start=12.5)))
    assert clip.times[0] == 0.0
    assert clip.times[-1] == pytest.approx(2.6, abs=0.01)
    assert clip.info.duration == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_upright(rotation: int) -> None:
    plain = load_media(write(Film(options={"qp": "0"}))).frames
    clip = load_media(write(Film(options={"qp": "0"}, rotation=rotation)))
    expected = np.rot90(plain, rotation // 90, axes=(1, 2))
    assert np.array_equal(clip.frames, expected)
    info = clip.info.video
    assert (info.height, info.width) == expected.shape[1:3]
    assert info.rotation == rotation
    assert probe(write(Film(rotation=rotation))).video.rotation == rotation


def test_odd_sizes_keep_every_pixel() -> None:
    for size in ((63, 47), (17, 33), (2, 2)):
        film = Film(size=size, pix_fmt="yuv444p", codec="libx264", count=4)
        assert load_media(write(film)).frames.shape == (4, size[1], size[0], 3)


def test_ten_bits_become_eight() -> None:
    eight = load_media(write(Film(pix_fmt="yuv444p", options={"qp": "0"}))).frames
    ten = load_media(write(Film(pix_fmt="yuv444p10le", options={"qp": "0"}))).frames
    assert ten.dtype == np.uint8
    assert np.abs(ten.astype(int) - eight.astype(int)).mean() < 2


def test_alpha_is_laid_over_white() -> None:
    data = write(Film("mov", "qtrle", pix_fmt="argb", count=2))
    opaque = load_media(data).frames
    assert np.abs(opaque[0].astype(int) - decode_all(data)[0][0]).max() == 0
    buffer = io.BytesIO()
    import av

    with av.open(buffer, "w", format="mov") as output:
        stream = output.add_stream("qtrle", rate=5)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "argb"
        rgba = np.zeros((8, 8, 4), np.uint8)
        rgba[:4] = (200, 0, 0, 255)
        rgba[4:] = (200, 0, 0, 0)
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="argb")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    frame = load_media(buffer.getvalue()).frames[0]
    assert tuple(frame[0, 0]) == (200, 0, 0)
    assert tuple(frame[7, 7]) == (255, 255, 255)


def test_pixels_that_are_not_square_stay_as_stored() -> None:
    data = write(Film("matroska", aspect=Fraction(4, 3)))
    clip = load_media(data)
    assert clip.frames.shape[1:] == (48, 64, 3)
    assert clip.info.video.pixel_aspect == pytest.approx(4 / 3)
    turned = probe(write(Film("mov", "mjpeg", pix_fmt="yuvj420p", aspect=Fraction(2), rotation=90)))
    assert turned.video.pixel_aspect == pytest.approx(0.5)


def test_of_two_video_tracks_one_is_used_and_it_is_said() -> None:
    clip = load_media(write(Film("matroska", tracks=2)))
    assert any("2 video tracks" in warning for warning in clip.warnings)
    assert clip.frames is not None


def test_sampling_by_number_and_at_random() -> None:
    data = write(Film(count=20))
    assert load_media(data, num_frames=6).indices == tuple(uniform_indices(20, 6))
    assert load_media(data, num_frames=100).indices == tuple(range(20))
    draws = [
        load_media(data, num_frames=6, sampling="head_tail", rng=random.Random(seed)).indices
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert load_media(data, num_frames=1, sampling="head_tail").indices == (0,)


def test_chance_is_the_same_on_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(Film(count=20))
    fast = load_media(data, sampling="head_tail", rng=random.Random(3))
    slow_way = random.Random(3)
    monkeypatch.setattr(walk.Walk, "read", lambda *_: _give_up())
    slow = load_media(data, sampling="head_tail", rng=slow_way)
    assert slow.indices == fast.indices
    assert np.array_equal(slow.frames, fast.frames)
    again = load_media(data, sampling="head_tail", rng=slow_way)
    assert again.indices != slow.indices


def _give_up() -> None:
    raise walk.UnforeseenError


def test_one_frame_and_a_tenth_of_a_second() -> None:
    one = load_media(write(Film(count=1)))
    assert one.frames.shape[0] == 1
    assert one.info.kind == "video"
    short = load_media(write(Film(count=3, fps=30)))
    assert short.times == pytest.approx([0, 1 / 30, 2 / 30], abs=1e-3)


def test_a_gif_of_one_frame_is_a_picture() -> None:
    clip = load_media(write(Film("gif", "gif", pix_fmt="rgb8", count=1)))
    assert clip.info.kind == "image"
    assert clip.info.duration is None


def test_sound_alone_or_frames_alone() -> None:
    data = write(Film(tones=(Tone(),)))
    heard = load_media(data, with_frames=False)
    assert heard.frames is None
    assert heard.has_sound
    assert heard.info.video.num_frames == 30
    seen = load_media(data, with_sound=False)
    assert not seen.has_sound
    assert seen.info.audio is not None
    assert probe(data) == heard.info
    assert (seen.info.video, seen.info.audio) == (heard.info.video, heard.info.audio)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"indices": [30]}, "no frame 30"),
        ({"indices": [-1]}, "below 0"),
        ({"times": [99.0]}, "lasts"),
        ({"times": []}, "empty"),
        ({"indices": [1], "times": [1.0]}, "not both"),
        ({"num_frames": 0}, "at least 1"),
        ({"num_frames": 4.0}, "whole number"),
        ({"indices": "12"}, "list of numbers"),
        ({"times": ["1"]}, "list of numbers"),
        ({"sampling": "sometimes"}, "uniform"),
        ({"sound_channels": "left"}, "mean"),
        ({"on_bad_sound": "ignore"}, "warn"),
    ],
)
def test_arguments_that_cannot_be_met(arguments: dict, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        load_media(write(Film(tones=(Tone(seconds=0.5),))), **arguments)


def test_frames_are_named_by_arrays_as_well() -> None:
    film = write(Film())
    expected = load_media(film, indices=[0, 7, 3])
    for indices in (np.array([0, 7, 3]), torch.tensor([0, 7, 3]), (np.int64(0), 7, 3)):
        assert np.array_equal(load_media(film, indices=indices).frames, expected.frames)
    for times in (np.array([0.0, 0.7, 0.3]), torch.tensor([0.0, 0.7, 0.3])):
        assert load_media(film, times=times).indices == (0, 7, 3)


def test_frames_that_came_out_damaged_are_counted() -> None:
    """A frame that others refer to, and that nobody asked for."""
    options = {"g": "60", "sc_threshold": "1000000000"}
    whole = write(Film("mp4", "mpeg4", count=60, fps=25, size=(320, 240), options=options))
    with av.open(io.BytesIO(whole)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0)]
    assert load_media(whole, indices=[40]).warnings == ()
    broken = bytearray(whole)
    start, size = places[20]
    broken[start + size // 2 : start + size] = bytes(size - size // 2)
    clip = load_media(bytes(broken), indices=[40])
    assert clip.warnings == ("1 frames of the video are damaged",)
    assert load_media(bytes(broken), indices=[10]).warnings == ()


def film_of_jpegs(rotation: int) -> bytes:
    """JPEG pictures with EXIF, as cameras put them into films."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    output_bytes = io.BytesIO()
    with av.open(output_bytes, "w", format="mov") as output:
        stream = output.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(4):
            picture_bytes = io.BytesIO()
            Image.fromarray(picture(index)).save(picture_bytes, "JPEG", exif=exif, quality=95)
            packet = av.Packet(picture_bytes.getvalue())
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base = Fraction(1, 10)
            output.mux(packet)
    return output_bytes.getvalue()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_frames_with_exif(rotation: int) -> None:
    """PyAV has no name for what stands beside the pixels there."""
    clip = load_media(film_of_jpegs(rotation))
    assert clip.info.video is not None
    assert clip.info.video.rotation == rotation
    expected = np.rot90(picture(0), rotation // 90)
    assert np.abs(clip.frames[0].astype(int) - expected).mean() < 12


@pytest.mark.parametrize("colorspace", [8, 10, 14])
def test_colours_that_are_not_converted_are_told(colorspace: int) -> None:
    output_bytes = io.BytesIO()
    with av.open(output_bytes, "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = colorspace
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(picture(index)).reformat(format="yuv420p")
            frame.pts, frame.time_base, frame.colorspace = index, Fraction(1, 10), colorspace
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    clip = load_media(output_bytes.getvalue())
    assert clip.frames.shape == (3, 48, 64, 3)
    assert clip.warnings == ("the colours are of a kind that is not converted; they may be off",)


def test_a_film_has_the_size_it_begins_with() -> None:
    sizes = ((64, 48), (96, 64))
    data = b"".join(
        write(Film("mpegts", size=size, count=10, start=float(number)))
        for number, size in enumerate(sizes)
    )
    whole = load_media(data, num_frames=20)
    late = load_media(data, indices=[15])
    for clip in (whole, late):
        assert (clip.info.video.width, clip.info.video.height) == sizes[0]
        assert clip.frames.shape[1:3] == sizes[0][::-1]
        assert any("changes its size" in words for words in clip.warnings)
    assert np.array_equal(late.frames[0], whole.frames[15])
    assert (probe(data).video.width, probe(data).video.height) == sizes[0]


def test_times_end_with_the_film_where_sound_began_before_it() -> None:
    film = write(Film(start=1.5, tones=(Tone(seconds=1),)))
    assert load_media(film, times=[2.9]).indices == (29,)
    with pytest.raises(OptionError, match=r"no frame at 3\.1 s"):
        load_media(film, times=[3.1])


def test_transparency_that_is_not_decoded_is_told() -> None:
    film = write(Film("webm", "libvpx-vp9", count=3, pix_fmt="yuva420p"))
    assert any("transparency" in words for words in load_media(film).warnings)
