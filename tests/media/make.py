"""Media made for a test: small clips whose every frame and every second can be told apart."""

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

CLOCK = 90_000  # ticks per second of generated tracks


@dataclass(frozen=True)
class Tone:
    """A sine on each channel, `start` seconds after the beginning of the file."""

    codec: str = "aac"
    rate: int = 44_100
    layout: str = "stereo"
    seconds: float = 2.0
    start: float = 0.0
    hertz: tuple[float, ...] = (440.0, 880.0)
    level: float = 0.5


@dataclass(frozen=True)
class Film:
    """How to write one clip; see `write`."""

    container: str = "mp4"
    codec: str = "libx264"
    count: int = 30
    size: tuple[int, int] = (64, 48)
    fps: int = 10
    times: Sequence[float] | None = None
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    tones: tuple[Tone, ...] = ()
    tracks: int = 1
    rotation: int = 0
    aspect: Fraction | None = None
    mux: dict[str, str] = field(default_factory=dict)
    start: float = 0.0
    sound_first: bool = False


def picture(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Frame number `index`, uint8 (H, W, 3): a gradient, a walking bar and a bright corner."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[..., 0] = x * 200 // max(width - 1, 1)
    rgb[..., 1] = y * 200 // max(height - 1, 1)
    rgb[..., 2] = (x + y + 7 * index) % 160
    bar = (5 * index) % max(width - 4, 1)
    rgb[:, bar : bar + 4] = (250, 30 + 3 * (index % 60), 20)
    rgb[: height // 4, : width // 4] = 250
    return rgb


def write(film: Film) -> bytes:
    """Encode a film; the last of several video tracks is the others' pictures upside down."""
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        # To put the index of an MP4 in front, the muxer reads its own output again.
        path = Path(folder) / "film"
        front = "faststart" in film.mux.get("movflags", "")
        _write(film, str(path) if front else buffer)
        return path.read_bytes() if front else buffer.getvalue()


def _write(film: Film, target: str | io.BytesIO) -> None:
    with av.open(target, "w", format=film.container, options=film.mux) as output:
        sounds = [_sound_stream(output, tone) for tone in film.tones if film.sound_first]
        videos = [_video_stream(output, film) for _ in range(film.tracks if film.count else 0)]
        sounds = sounds or [_sound_stream(output, tone) for tone in film.tones]
        for track, stream in enumerate(videos):
            for index in range(film.count):
                _mux(output, stream, _frame(film, index, flipped=track > 0))
            _mux(output, stream, None)
        for stream, tone in zip(sounds, film.tones, strict=True):
            _write_tone(output, stream, tone)


def decode_all(data: bytes) -> tuple[list[np.ndarray], list[float]]:
    """Every frame of the first video track, as stored, and its time: the slow, sure way."""
    frames, times = [], []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            times.append(float(frame.pts * frame.time_base) if frame.pts is not None else 0.0)
    return frames, [time - min(times) for time in times]


def sine(hertz: float, seconds: float, rate: int, level: float = 0.5) -> np.ndarray:
    """float32 (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def with_cover(data: bytes, cover: bytes, codec: str = "png") -> bytes:
    """A FLAC or MP3 file with cover art, as music collections have it."""
    output_bytes = io.BytesIO()
    with av.open(io.BytesIO(data)) as source:
        name = source.format.name.split(",")[0]
        with av.open(output_bytes, "w", format=name) as output:
            sound = output.add_stream_from_template(source.streams.audio[0])
            art = output.add_stream(codec, rate=1)
            art.width, art.height, art.pix_fmt = 32, 32, "rgb24" if codec == "png" else "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = art, 0, 0, True
            output.mux(packet)
            for packet in source.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = sound
                    output.mux(packet)
    return output_bytes.getvalue()


def _video_stream(output: Any, film: Film) -> Any:
    stream = output.add_stream(film.codec, rate=film.fps)
    stream.width, stream.height = film.size
    stream.pix_fmt = film.pix_fmt
    stream.options = dict(film.options)
    if film.codec not in ("mpeg4", "gif", "mpeg2video", "msmpeg4", "wmv2"):
        stream.codec_context.time_base = Fraction(1, CLOCK)
    if output.format.name in ("mp4", "mov", "matroska", "flv"):
        stream.codec_context.flags |= Flags.global_header
    if film.aspect is not None:
        stream.codec_context.sample_aspect_ratio = film.aspect
    if film.rotation:
        stream.set_display_rotation(film.rotation)
    return stream


def _frame(film: Film, index: int, *, flipped: bool) -> av.VideoFrame:
    rgb = picture(index, film.size)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[::-1] if flipped else rgb))
    frame = frame.reformat(format=film.pix_fmt)
    time = film.times[index] if film.times is not None else index / film.fps
    base = Fraction(1, film.fps) if film.codec == "gif" else Fraction(1, CLOCK)
    frame.time_base = base
    frame.pts = round((time + film.start) / base)
    return frame


def _sound_stream(output: Any, tone: Tone) -> Any:
    stream = output.add_stream(tone.codec, rate=tone.rate, layout=tone.layout)
    if tone.codec in ("vorbis", "opus", "dca"):
        stream.codec_context.options = {"strict": "-2"}
    return stream


def _write_tone(output: Any, stream: Any, tone: Tone) -> None:
    channels = stream.codec_context.layout.nb_channels
    wave = np.stack(
        [
            sine(tone.hertz[c % len(tone.hertz)], tone.seconds, tone.rate, tone.level)
            for c in range(channels)
        ]
    )
    resampler = av.AudioResampler(stream.codec_context.format, tone.layout, tone.rate)
    size = 1024
    for at in range(0, wave.shape[1], size):
        chunk = np.ascontiguousarray(wave[:, at : at + size])
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=tone.layout)
        frame.sample_rate = tone.rate
        frame.time_base = Fraction(1, tone.rate)
        frame.pts = at + round(tone.start * tone.rate)
        for part in resampler.resample(frame):
            _mux(output, stream, part)
    _mux(output, stream, None)


def _mux(output: Any, stream: Any, frame: Any) -> None:
    for packet in stream.encode(frame):
        output.mux(packet)
