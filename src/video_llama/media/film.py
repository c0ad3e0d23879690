"""Films and sound files: one pass over the packets, then the wanted frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import av
from av.packet import Packet

from video_llama.errors import CorruptMediaError, UnsupportedMediaError
from video_llama.media.clip import (
    AudioStreamInfo,
    MediaClip,
    MediaInfo,
    MediaKind,
    VideoStreamInfo,
)
from video_llama.media.container import Container, riff_bytes
from video_llama.media.limits import Limits
from video_llama.media.pixels import display_matrix, rotation_of, swaps_sides
from video_llama.media.request import Request
from video_llama.media.sniff import Content
from video_llama.media.sound import ChannelRule, Sound, SoundDecoder
from video_llama.media.source import ByteSource
from video_llama.media.video import Frames, first_frame, read_frames
from video_llama.media.video_index import RESTART, VideoIndex

_HALF_CLOCK = 1 << 32  # ticks of MPEG-TS, whose clock has 33 bits
_SHORTFALL = (1.0, 0.05)  # seconds and share by which a file may end before its header says
_STILL_CODECS = frozenset({"gif", "apng", "webp"})  # with one frame, a picture


class _Extent:
    """When the packets of a track begin and end, in seconds of the container's clock.

    Where the clock is set back, as in recordings that were joined, it goes on from the end so far.
    """

    def __init__(self, seconds_per_tick: float) -> None:
        self.start: float | None = None
        self.end: float | None = None
        self._seconds_per_tick = seconds_per_tick
        self._shift = 0.0

    def add(self, packet: Packet) -> None:
        if packet.pts is None or not packet.size:
            return
        start = packet.pts * self._seconds_per_tick + self._shift
        if self.end is not None and start < self.end - RESTART:
            self._shift += self.end - start
            start = self.end
        end = start + _length(packet) * self._seconds_per_tick
        if self.start is None or self.end is None:
            # Below 0 lies what an encoder put in front, to be dropped.
            self.start, self.end = max(start, 0.0), end
        elif end > self.end:
            self.end = end


def _length(packet: Packet) -> int:
    """Ticks of a packet; what the end of an Ogg file cuts has a negative length, as unsigned."""
    ticks = packet.duration or 0
    return ticks - 2**32 if 2**31 <= ticks < 2**32 else ticks


@dataclass
class _Scan:
    """What one pass over the packets gave."""

    index: VideoIndex | None
    audio: _Extent | None
    header_seconds: float | None

    @property
    def _spans(self) -> list[tuple[float, float]]:
        spans = []
        if self.index is not None and self.index.start is not None:
            spans.append((self.index.start, self.index.start + (self.index.duration or 0.0)))
        if self.audio is not None and self.audio.start is not None and self.audio.end is not None:
            spans.append((self.audio.start, self.audio.end))
        return spans

    @property
    def start(self) -> float | None:
        """Of the first packet, on the container's clock."""
        return min((start for start, _ in self._spans), default=None)

    @property
    def seconds(self) -> float | None:
        """From the first packet to the end of the last; the header's word without timestamps."""
        start = self.start
        if start is None:
            return self.header_seconds
        return max(end for _, end in self._spans) - start


def load_container(
    source: ByteSource, content: Content, request: Request, limits: Limits
) -> MediaClip:
    """Frames and sound of a container.

    Raises:
        MediaError: as `load_media` says.
    """
    with Container(source, content, limits) as container:
        _require_track(container)
        rule = request.sound_channels if request.with_sound else None
        # For times, how long the medium lasts is needed, heard or not.
        timed = request.with_sound or request.times is not None
        scan, decoder = _scan(container, rule, with_audio=timed)
        origin = scan.index.start if scan.index is not None else None
        audio = _audio_info(container)
        frames, late = None, 0.0
        if scan.index is not None and request.with_frames:
            # The last frame stays on show while there is sound.
            end = scan.seconds
            if end is not None and origin is not None and scan.start is not None:
                end -= origin - scan.start  # on the clock of the frames
            frames = read_frames(container, scan.index, partial(_pick, request, end))
            _require_enough(frames, scan.index, request, container.name)
            late = frames.late
        # Zero is the first frame that there is: a recording may begin where none can be decoded.
        sound, warnings = _finish_sound(decoder, None if origin is None else origin + late, request)
        warnings += frames.warnings if frames is not None else ()
        info = _info(container, scan, frames, audio)
    return MediaClip(
        info=info,
        frames=frames.pixels if frames is not None else None,
        times=frames.times if frames is not None else (),
        indices=frames.indices if frames is not None else (),
        sound=sound.samples,
        sound_start=sound.start,
        warnings=info.warnings + warnings,
    )


def _pick(
    request: Request, end: float | None, times: Sequence[float], late: float = 0.0
) -> list[int]:
    """Wanted frames; `end` is on a clock that begins `late` seconds before the first frame."""
    return request.pick(times, end=None if end is None else end - late)


def probe_container(source: ByteSource, content: Content, limits: Limits) -> MediaInfo:
    """What a container holds: every packet is counted, one frame is decoded.

    Raises:
        MediaError: as `probe` says.
    """
    with Container(source, content, limits) as container:
        _require_track(container)
        scan, _ = _scan(container, None, with_audio=True)
        return _info(container, scan, None, _audio_info(container))


def _require_track(container: Container) -> None:
    if container.video is not None or container.audio is not None:
        return
    if container.cover is None:
        raise UnsupportedMediaError(f"{container.name} holds neither pictures nor sound to decode")
    container.warnings.append("there is nothing but a cover picture; it is taken as a picture")
    container.video = container.cover


def _scan(
    container: Container, rule: ChannelRule | None, *, with_audio: bool
) -> tuple[_Scan, SoundDecoder | None]:
    """Read all packets once: pictures are indexed; sound is decoded where there is a rule for its
    channels."""
    try:
        return _pass(container, rule, with_audio=with_audio)
    except _ClockSetBackError:
        container.reopen(as_written=True)
        return _pass(container, rule, with_audio=with_audio, as_written=True)


class _ClockSetBackError(Exception):
    """A clock that was set back has been taken for one that was full."""


def _pass(
    container: Container, rule: ChannelRule | None, *, with_audio: bool, as_written: bool = False
) -> tuple[_Scan, SoundDecoder | None]:
    decoder = None
    if container.audio is not None and rule is not None:
        decoder = SoundDecoder(container.audio, rule, container.limits, container.name)
    video = container.video
    audio = container.audio if with_audio or video is None else None
    index = VideoIndex(video) if video is not None else None
    extent = _Extent(float(audio.time_base or 0)) if audio is not None else None
    duration = container.av.duration
    audio_index = audio.index if audio is not None else -1
    wraps = container.av.format.name == "mpegts" and not as_written
    last: int | None = None
    for packet in container.packets(*(stream for stream in (video, audio) if stream is not None)):
        if wraps and packet.dts is not None:
            if last is not None and packet.dts - last > _HALF_CLOCK:
                raise _ClockSetBackError
            last = packet.dts
        # The empty packets at the end all bear the number 0; whose they are their track knows.
        at = packet.stream_index if packet.size else packet.stream.index
        if index is not None and at != audio_index:
            index.add(packet)
        elif extent is not None:
            extent.add(packet)
            if decoder is not None:
                decoder.push(packet)
    if index is not None:
        index.finish()
    scan = _Scan(index, extent, duration / av.time_base if duration is not None else None)
    if scan.seconds is not None:
        container.limits.check_duration(scan.seconds, container.name)
    return scan, decoder


def _finish_sound(
    decoder: SoundDecoder | None, origin: float | None, request: Request
) -> tuple[Sound, tuple[str, ...]]:
    if decoder is None:
        return Sound(None, 0.0, ()), ()
    try:
        sound = decoder.finish(origin)
    except CorruptMediaError as error:
        if request.on_bad_sound == "error":
            raise
        return Sound(None, 0.0, ()), (str(error),)
    return sound, sound.warnings


def _require_enough(frames: Frames, index: VideoIndex, request: Request, name: str) -> None:
    """Fewer frames than asked for are fine in a short video, not in a damaged one."""
    promised = max(index.promised - index.hidden, index.count)
    if request.samples_freely and frames.count < min(request.num_frames, promised):
        raise CorruptMediaError(
            f"{name} is damaged: {frames.count} of its {promised} frames can be decoded, "
            f"and {request.num_frames} are asked for"
        )


def _info(
    container: Container, scan: _Scan, frames: Frames | None, audio: AudioStreamInfo | None
) -> MediaInfo:
    warnings = [*container.warnings, *_shortfall(container, scan)]
    if container.cover is not None and container.video is not container.cover:
        warnings.append("the cover picture is not used")
    kind: MediaKind = "audio" if scan.index is None else "video"
    video = None
    if scan.index is not None:
        count = frames.count if frames is not None else scan.index.count
        if (count == 1 and scan.index.codec in _STILL_CODECS) or container.is_cover_only:
            kind = "image"
        video = _video_info(container, scan.index, frames, count, kind)
    return MediaInfo(
        kind=kind,
        container=container.av.format.name,
        duration=None if kind == "image" else scan.seconds,
        video=video,
        audio=audio,
        size_bytes=container.source.size,
        name=container.name,
        warnings=tuple(warnings),
    )


def _video_info(
    container: Container, index: VideoIndex, frames: Frames | None, count: int, kind: MediaKind
) -> VideoStreamInfo:
    if frames is not None:
        (width, height), matrix = frames.size, frames.matrix
    else:
        container.reopen()
        first = first_frame(container)
        width, height, matrix = first.width, first.height, display_matrix(first)
    stream = container.video
    assert stream is not None
    aspect = float(stream.sample_aspect_ratio or 0) or 1.0
    if swaps_sides(matrix):
        width, height, aspect = height, width, 1.0 / aspect
    return VideoStreamInfo(
        codec=index.codec,
        width=width,
        height=height,
        rotation=rotation_of(matrix),
        fps=None if kind == "image" else index.fps,
        num_frames=count,
        pixel_aspect=aspect,
    )


def _audio_info(container: Container) -> AudioStreamInfo | None:
    stream = container.audio
    if stream is None:
        return None
    if stream.codec_context is None:
        return AudioStreamInfo("unknown", 0, 0)
    context = stream.codec_context
    return AudioStreamInfo(
        context.codec.canonical_name, context.sample_rate, context.layout.nb_channels
    )


def _shortfall(container: Container, scan: _Scan) -> Sequence[str]:
    """Signs that the file ends before it should."""
    index = scan.index
    if index is not None and index.promised > len(index.pts):
        missing = index.promised - len(index.pts)
        return [f"{missing} of {index.promised} frames are missing: the file is cut short"]
    seconds, header = scan.seconds, scan.header_seconds
    least, share = _SHORTFALL
    # Some formats tell how long they last and some when they end, on a clock that may begin late.
    if seconds is not None and header is not None:
        reached = seconds + max(scan.start or 0.0, 0.0)
        if header - reached > max(least, share * header):
            told = f"{header:.1f} seconds its header tells"
            return [f"the file ends after {seconds:.1f} of the {told}"]
    if (told_bytes := riff_bytes(container.source)) > container.source.size:
        return [
            f"{container.source.size:,} of {told_bytes:,} bytes are there: the file is cut short"
        ]
    if container.read_errors:
        return [f"{container.read_errors} packets could not be read"]
    return []
