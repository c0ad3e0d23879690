"""Media that break readers: what is answered, and that nothing else is ever opened."""

import builtins
import io
import struct
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from make import Film, Tone, decode_all, picture, sine, with_cover, write
from PIL import Image

from video_llama.errors import (
    CorruptMediaError,
    ForbiddenSourceError,
    MediaError,
    MediaLimitError,
    OptionError,
    UnsupportedMediaError,
)
from video_llama.media import container as container_module
from video_llama.media.reader import Limits, load_media, probe
from video_llama.media.sound import SoundDecoder

FAST_START = {"movflags": "faststart"}


# Cut short


def test_an_mp4_without_its_index_says_so() -> None:
    data = write(Film(count=60))
    with pytest.raises(CorruptMediaError, match=r"cut short.*moov"):
        load_media(data[: len(data) // 2])


@pytest.mark.parametrize(
    "film",
    [
        Film(count=60, mux=FAST_START, options={"g": "10"}, size=(160, 120)),
        Film("matroska", count=60, options={"g": "10"}, size=(160, 120)),
        Film("mpegts", count=60, options={"g": "10"}, size=(160, 120)),
        Film("avi", "mjpeg", count=200, pix_fmt="yuvj420p"),
        Film("webm", "libvpx-vp9", count=60, options={"g": "10"}, size=(160, 120)),
    ],
    ids=lambda film: f"{film.container} {film.codec}",
)
def test_what_is_left_of_a_cut_file_is_used(film: Film) -> None:
    data = write(film)
    clip = load_media(data[: len(data) // 2])
    whole, _ = decode_all(data)
    assert len(clip.frames) == 8
    assert clip.info.video.num_frames < film.count
    for index, frame in zip(clip.indices[:-1], clip.frames, strict=False):
        assert np.array_equal(frame, whole[index])


def test_a_cut_file_is_reported() -> None:
    data = write(Film(count=60, mux=FAST_START, options={"g": "10"}, size=(160, 120)))
    clip = load_media(data[: int(len(data) * 0.7)])
    assert any("frames" in warning for warning in clip.warnings)
    late = write(Film("flv", count=60, options={"g": "10"}, size=(160, 120)))
    clip = load_media(late[: len(late) // 2])
    assert any("seconds its header tells" in warning for warning in clip.warnings)


def test_too_few_frames_are_an_error() -> None:
    data = write(Film(count=60, mux=FAST_START, options={"g": "250"}, size=(160, 120)))
    start = data.index(b"mdat") + 4
    with pytest.raises(CorruptMediaError):
        load_media(data[: start + 200])
    few = data[: start + (len(data) - start) // 20]
    with pytest.raises(CorruptMediaError, match=r"of its 60 frames|no frame"):
        load_media(few, num_frames=8)


# Damaged inside


def spoil(data: bytes, packets: Collection[int]) -> bytes:
    """Overwrite whole packets of the video."""
    broken = bytearray(data)
    with av.open(io.BytesIO(data)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number in packets and packet.size and packet.pos is not None:
                broken[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    return bytes(broken)


def test_damaged_packets_are_counted_and_the_rest_is_used() -> None:
    data = write(Film(count=40, options={"g": "1"}))
    whole, _ = decode_all(data)
    # The last but one, too: decoders that work ahead lose its good neighbour when they drain.
    lost = [10, 11, 12, 20, 38]
    clip = load_media(spoil(data, lost), indices=range(35))
    assert clip.info.video.num_frames == 35
    assert clip.warnings == ("5 of 40 frames could not be decoded",)
    left = [frame for index, frame in enumerate(whole) if index not in lost]
    assert np.array_equal(clip.frames, np.stack(left))
    assert clip.times[-1] == pytest.approx(3.9)


def test_frames_that_build_on_damaged_ones_are_left_out() -> None:
    data = write(Film(count=40, options={"g": "8", "bf": "0"}))
    whole, times = decode_all(data)
    clip = load_media(spoil(data, range(10, 13)), num_frames=20)
    assert len(clip.frames) == 20
    for time, frame in zip(clip.times, clip.frames, strict=True):
        number = min(range(40), key=lambda index: abs(times[index] - time))
        assert np.array_equal(frame, whole[number]), f"frame {number}"


def test_a_video_of_which_nothing_decodes() -> None:
    data = spoil(write(Film(count=20)), range(20))
    for read in (load_media, probe):
        with pytest.raises(CorruptMediaError, match="no frame"):
            read(data)


def test_random_damage_never_ends_in_another_error() -> None:
    rng = np.random.default_rng(7)
    films = [
        Film(count=12, options={"bf": "2"}, tones=(Tone(seconds=1),)),
        Film("matroska", count=12, tones=(Tone("pcm_s16le", 16_000, seconds=1),)),
        Film("mpegts", count=12, tones=(Tone(seconds=1),)),
        Film("avi", "mpeg4", count=12),
        Film("gif", "gif", pix_fmt="rgb8", count=6),
    ]
    for film in films:
        data = write(film)
        for _ in range(12):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), rng.integers(1, 40)):
                broken[place] = rng.integers(0, 256)
            try:
                clip = load_media(bytes(broken), num_frames=4, limits=Limits(deadline=20))
            except MediaError:
                continue
            assert clip.frames is not None or clip.sound is not None


# Missing tracks


def test_a_film_without_frames() -> None:
    with pytest.raises((UnsupportedMediaError, CorruptMediaError)):
        load_media(write_empty())


def write_empty() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
    return buffer.getvalue()


def png(size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(0, size)).save(buffer, "PNG")
    return buffer.getvalue()


def test_cover_art_is_no_video() -> None:
    sound = write(Film("flac", count=0, tones=(Tone("flac", seconds=1.0),)))
    clip = load_media(with_cover(sound, png()))
    assert clip.info.kind == "audio"
    assert clip.info.video is None
    assert clip.frames is None
    assert clip.has_sound
    assert any("cover" in warning for warning in clip.warnings)
    assert probe(with_cover(sound, png())).video is None


def test_a_cover_and_nothing_else_is_a_picture() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        art = output.add_stream("png", rate=1)
        art.width, art.height, art.pix_fmt = 32, 32, "rgb24"
        art.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(png())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = art, 0, 0, True
        output.mux(packet)
    clip = load_media(buffer.getvalue())
    assert clip.info.kind == "image"
    assert np.array_equal(clip.frames[0], picture(0, (32, 32)))
    assert any("cover" in warning for warning in clip.warnings)


# Nothing but the given bytes


PLAYLISTS = [
    b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
    b"\xef\xbb\xbf#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
    b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    b"<?xml version='1.0'?>\n<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
    b"<MPD></MPD>",
    b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
    b"[playlist]\nFile1=http://127.0.0.1/a.mp3\n",
    b"[Reference]\r\nRef1=http://127.0.0.1/a.wmv\r\n",
    b"<asx version='3.0'><entry><ref href='http://127.0.0.1/a'/></entry></asx>",
    b"<smil><body><video src='http://127.0.0.1/a'/></body></smil>",
    b"RTSPtextRTSP://127.0.0.1/a\r\n",
]


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_playlists_are_refused(playlist: bytes, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(playlist)
    for source in (playlist, path):
        for read in (probe, load_media):
            with pytest.raises(ForbiddenSourceError, match="not followed"):
                read(source)


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_playlists_that_hide_behind_other_bytes_open_nothing(playlist: bytes) -> None:
    for hidden in (bytes(8) + playlist, b"RIFF\x00\x10\x00\x00AVI " + playlist):
        with pytest.raises(MediaError):
            load_media(hidden)


def test_the_demuxers_that_open_other_files_are_off_without_the_look_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(write(Film(count=3)))
    monkeypatch.setattr("video_llama.media.reader.sniff", lambda head, name: "unknown")
    for playlist in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
    ):
        with pytest.raises(MediaError):
            load_media(playlist.encode())
    for name in ("hls", "concat", "dash", "image2", "sdp", "rtsp", "rtp", "lavfi", "tty"):
        assert name not in container_module.DEMUXERS.split(",")


def box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload) + 8) + kind + payload


def rewrite(data: bytes, path: tuple[bytes, ...], payload: bytes) -> bytes:
    """Replace the payload of a nested box of an ISO file."""
    out, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + size]
        if kind == path[0]:
            body = payload if len(path) == 1 else rewrite(body, path[1:], payload)
        out += box(kind, body)
        at += size
    return out


def alias(target: str) -> bytes:
    """A data reference of an old QuickTime film: the pictures are in another file."""
    name = target.encode()
    record = bytes(10) + b"\x00" + bytes(27) + bytes(12) + b"\x00" + bytes(63) + bytes(16)
    record += struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2)
    record += struct.pack(">HH", 0xFFFF, 0)
    return bytes(4) + struct.pack(">I", 1) + box(b"alis", bytes(4) + record)


def test_references_to_other_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(Film("mov", "mjpeg", pix_fmt="yuvj420p", count=3))
    where = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    given = rewrite(data, where, alias("/tmp/other/film.mov"))
    opened: list[object] = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    for read in (probe, load_media):
        with pytest.raises(ForbiddenSourceError, match="refers to other files"):
            read(given)
    assert opened == []


# JPEG 2000: its decoder is not reached, however the pictures come


@pytest.mark.parametrize("container", ["mov", "mp4", "avi", "matroska"])
def test_jpeg_2000_in_a_film_is_refused(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(container, "jpeg2000", pix_fmt="rgb24", count=5, tones=(Tone(seconds=0.5),))
    data = write(film)
    seen = []  # how pixels are stored is known from the first one decoded
    refuse = container_module.Container._refuse_codec

    def look(self: container_module.Container, stream: av.VideoStream) -> None:
        seen.append(stream.pix_fmt)
        refuse(self, stream)

    monkeypatch.setattr(container_module.Container, "_refuse_codec", look)
    for read in (probe, load_media):
        with pytest.raises(UnsupportedMediaError, match="JPEG 2000"):
            read(data)
    assert seen == [None, None]
    with av.open(io.BytesIO(data)) as plain:
        assert plain.streams.video[0].pix_fmt == "rgb24"  # opening alone decodes


# Limits


@pytest.fixture(scope="module")
def clip() -> bytes:
    return write(Film(count=30, tones=(Tone(seconds=3.0), Tone(seconds=3.0)), container="matroska"))


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"bytes": 1000}, "bytes"),
        ({"pixels": 64 * 48 - 1}, "pixels"),
        ({"duration": 2.0}, "seconds"),
        ({"streams": 2}, "3 tracks"),
        ({"samples": 100_000}, "values"),
        ({"frames": 4}, "frames"),
    ],
)
def test_each_limit_is_a_setting(clip: bytes, limit: dict, words: str) -> None:
    with pytest.raises(MediaLimitError, match=words):
        load_media(clip, limits=Limits(**limit))


def test_limits_in_headers_hold_before_anything_is_decoded(
    clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("video_llama.media.film._scan", None)
    for limit in ({"pixels": 100}, {"duration": 1.0}, {"streams": 1}):
        with pytest.raises(MediaLimitError):
            load_media(clip, limits=Limits(**limit))


def test_a_header_that_lies_about_the_length_does_not_help() -> None:
    data = write(Film("matroska", count=0, tones=(Tone("pcm_s16le", 8000, "mono", 30.0),)))
    lying = data.replace(struct.pack(">d", 30_000.0), struct.pack(">d", 1000.0))
    assert lying != data
    with pytest.raises(MediaLimitError):
        load_media(lying, limits=Limits(duration=5.0))


def test_a_small_file_with_a_great_deal_of_sound() -> None:
    tone = Tone("libopus", 48_000, "stereo", 60.0, level=0.0)
    data = write(Film("ogg", count=0, tones=(tone,)))
    assert len(data) < 20_000
    with pytest.raises(MediaLimitError, match="values"):
        load_media(data, limits=Limits(samples=1_000_000))


def wav(rate: int, count: int) -> bytes:
    """Half a volt of sound whose header tells any rate."""
    values = b"\x00\x10" * count
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2 & 0xFFFFFFFF, 2, 16)
    inside = b"WAVEfmt " + form + b"data" + struct.pack("<I", len(values)) + values
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


@pytest.mark.parametrize("rate", [1, 64, 999, 2_000_003, 2_147_483_629])
def test_a_rate_that_no_sound_has_is_refused(rate: int) -> None:
    """Filters for the high ones take gigabytes, and what is heard of the low ones does."""
    with pytest.raises(MediaLimitError, match=f"{rate:,} samples a second; from 1,000 to"):
        load_media(wav(rate, 2000), limits=Limits(duration=1e9))
    assert load_media(wav(8000, 2000)).sound.shape == (1, 4000)


def test_sound_that_lasts_longer_than_it_may_is_not_decoded_to_its_end() -> None:
    data = write(Film("matroska", count=0, tones=(Tone("pcm_s16le", 8000, "mono", 60.0),)))
    decoder = SoundDecoder.push
    pushed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SoundDecoder, "push", lambda *a: pushed.append(1) or decoder(*a))
        patch.setattr(Limits, "check_duration", _only_what_is_decoded(Limits.check_duration))
        with pytest.raises(MediaLimitError, match="at most 5 are read"):
            load_media(data, limits=Limits(duration=5.0))
        few = len(pushed)
        load_media(data)
    assert few < (len(pushed) - few) / 8


def _only_what_is_decoded(real):
    """As for a file whose header and timestamps tell little."""

    def check(self, seconds: float, name: str) -> None:
        if seconds < 59.0:
            real(self, seconds, name)

    return check


def test_frames_that_take_too_much_together_are_refused() -> None:
    data, small = write(Film(count=12)), Limits(all_pixels=64 * 48 * 8)
    assert load_media(data, num_frames=8, limits=small).frames.shape[0] == 8
    with pytest.raises(MediaLimitError, match=r"9 frames of .* are 64x48: 27,648 pixels together"):
        load_media(data, num_frames=9, limits=small)
    frames = [Image.fromarray(picture(number)) for number in range(9)]
    animated = io.BytesIO()
    frames[0].save(animated, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(MediaLimitError, match="pixels together"):
        load_media(animated.getvalue(), num_frames=9, limits=small)


def test_a_deadline_ends_what_takes_too_long(clip: bytes) -> None:
    with pytest.raises(MediaLimitError, match="within"):
        load_media(clip, limits=Limits(deadline=1e-6))


def test_a_reader_that_hangs_is_stopped(clip: bytes) -> None:
    class Slow(io.BytesIO):
        def read(self, count: int = -1) -> bytes:
            import time

            time.sleep(0.2)
            return super().read(min(count, 100) if count > 0 else count)

    with pytest.raises(MediaLimitError, match="within"):
        load_media(Slow(clip), limits=Limits(deadline=1.0))


def test_an_error_of_the_file_object_is_the_callers() -> None:
    class Broken(io.BytesIO):
        def read(self, count: int = -1) -> bytes:
            if count > 0 and self.tell() > 1000:
                raise ConnectionResetError("gone")
            return super().read(count)

    with pytest.raises(ConnectionResetError):
        load_media(Broken(write(Film("matroska", count=60, size=(160, 120)))))


# Other oddities


def test_a_size_that_changes_on_the_way() -> None:
    first = write(Film("mpegts", count=10, size=(64, 48)))
    second = write(Film("mpegts", count=10, size=(96, 64), start=1.0))
    clip = load_media(first + second, num_frames=20)
    assert clip.frames.shape[1:] == (48, 64, 3)
    assert any("size" in warning for warning in clip.warnings)


def test_bytes_before_and_behind_do_not_disturb() -> None:
    data = write(Film("mpegts", count=20, options={"g": "5"}))
    clip = load_media(b"\x00" * 57 + data + b"\xff" * 100)
    assert len(clip.frames) == 8


def test_the_last_frame_of_a_damaged_film_is_not_promised() -> None:
    data = write(Film(count=40, options={"g": "1"}))
    with pytest.raises(OptionError, match="34 frames"):
        load_media(spoil(data, range(10, 16)), indices=[0, 12, 39])


def test_messages_are_short_and_name_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret folder" / "clip.mp4"
    path.parent.mkdir()
    path.write_bytes(write(Film(count=30))[:500])
    with pytest.raises(MediaError) as caught:
        load_media(path)
    assert "secret folder" not in str(caught.value)
    assert "clip.mp4" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_sound_with_one_broken_track_and_no_picture() -> None:
    wave = sine(440, 1.0, 16_000)
    data = write(replace(Film("flac", count=0), tones=(Tone("flac", 16_000, "mono", 1.0),)))
    start = len(data) // 3
    broken = data[:start] + bytes(len(data) - start)
    clip = load_media(broken, on_bad_sound="warn")
    assert clip.sound is None or clip.sound.shape[1] < len(wave) + 16_000
