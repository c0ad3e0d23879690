"""Decoding forward over some frames of a track, jumping where a keyframe lies between.

The walk trusts an index of the packets and checks it at every step: whatever the index did not
foresee ends the walk, and the caller decodes the whole track instead.
"""

from collections.abc import Iterator

import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from video_llama.media.container import Container
from video_llama.media.pixels import display_matrix, upright_rgb
from video_llama.media.video_index import VideoIndex

# For these, skipping frames that no other frame refers to is safe and never changes the others.
_SKIPPING_CODECS = frozenset({"h264", "hevc"})
_UNSPECIFIED = 2  # colour space of a frame that does not tell, in FFmpeg
_JUMP = 4  # packets: a keyframe nearer than this is reached by decoding on
_MARGINS = (0.0, 1.0, 10.0)  # seconds to aim before a keyframe when a jump lands behind it


class UnforeseenError(Exception):
    """The index and the decoder disagree."""


class FrameDecoder:
    """Decodes packets of one track, counting errors instead of stopping at them.

    Attributes:
        told: width and height as the container says.
        size, matrix: width, height and display matrix of the first frame that came out.
        errors: packets that did not decode.
        corrupt: frames that came out damaged.
        resized: a wanted frame was of another size.
        odd_colours: a wanted frame had colours of a kind that cannot be converted.
        late: seconds of the first frame behind that of the first packet.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._context = stream.codec_context
        self.told = (self._context.width, self._context.height)
        self.size = (0, 0)
        self.matrix: tuple[int, int, int, int] | None = None
        self.errors = 0
        self.corrupt = 0
        self.resized = False
        self.odd_colours = False
        self.late = 0.0

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """Frames that come out after a packet; the empty last one drains the decoder."""
        if packet.size == 0 and packet.dts is not None:
            return []  # AVI's "show the last one again"; an empty packet would end the decoder
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            self.errors += 1
            return []
        for frame in frames:
            self.corrupt += frame.is_corrupt
            if not all(self.size):
                self.size, self.matrix = (frame.width, frame.height), display_matrix(frame)
        return frames

    def pixels(self, frame: VideoFrame) -> np.ndarray:
        """Upright RGB of the size of the first frame, uint8 (H, W, 3)."""
        self.resized |= (frame.width, frame.height) != self.size
        try:
            return upright_rgb(frame, *self.size)
        except av.error.FFmpegError:
            # Of a kind that FFmpeg does not convert, as YCgCo: taken for what the size suggests.
            self.odd_colours = True
            frame.colorspace = _UNSPECIFIED
            return upright_rgb(frame, *self.size)


class Walk:
    """Decodes forward over the wanted frames, jumping where a keyframe lies between."""

    def __init__(self, container: Container, index: VideoIndex) -> None:
        assert container.video is not None
        self._container, self._index = container, index
        self._stream = container.video
        self._decoder = FrameDecoder(self._stream)
        self._context = self._stream.codec_context
        self._skips = index.codec in _SKIPPING_CODECS and not index.invented_pts
        self._skipping = False
        self._sent = -1  # position of the last packet given to the decoder
        self._shown: int | None = None  # timestamp of the last frame that came out
        self._begin: int | None = None  # timestamp of the keyframe that was jumped to
        self._packets: Iterator[Packet] = iter(())
        self._positions: dict[int | None, int] | None = None
        self._found: dict[int, np.ndarray] = {}

    def read(self, wanted: list[int]) -> tuple[dict[int, np.ndarray], FrameDecoder]:
        """Frames by index, and what decoded them; `wanted` is sorted."""
        ranks = {self._index.order[rank]: rank for rank in wanted}
        for pts, rank in ranks.items():
            if rank in self._found:
                continue
            key = self._index.key_before(pts)
            if self._sent < 0 or key > self._sent + _JUMP:
                self._jump(key)
            self._decode_until(pts, ranks)
        decoder = self._decoder
        # Of what size the first frame is, is not known after a jump, but it should be as told.
        other = all(decoder.size) and all(decoder.told) and decoder.size != decoder.told
        if decoder.resized or other:
            raise UnforeseenError
        return self._found, self._decoder

    def _decode_until(self, pts: int, ranks: dict[int, int]) -> None:
        for packet in self._packets:
            if packet.size:
                self._sent += 1
                if self._sent >= len(self._index.pts) or packet.pts != self._index.pts[self._sent]:
                    raise UnforeseenError
                self._skip_unless(packet.pts in ranks)
            frames = self._decoder.decode(packet)
            if self._decoder.errors:
                raise UnforeseenError
            for frame in frames:
                self._keep(frame, ranks)
            if ranks[pts] in self._found:
                return
            if self._shown is not None and self._shown > pts:
                break
        raise UnforeseenError

    def _keep(self, frame: VideoFrame, ranks: dict[int, int]) -> None:
        # Frames come out in the order of showing; another order means false timestamps.
        if frame.pts is None or (self._shown is not None and frame.pts <= self._shown):
            raise UnforeseenError
        self._shown = frame.pts
        # What is shown before the keyframe needs frames in front of it, and nobody wants it.
        if frame.is_corrupt and (self._begin is None or frame.pts >= self._begin):
            raise UnforeseenError
        if frame.pts in ranks:
            self._found[ranks[frame.pts]] = self._decoder.pixels(frame)

    def _skip_unless(self, wanted: bool) -> None:
        if self._skips and self._skipping == wanted:
            self._context.skip_frame = "DEFAULT" if wanted else "NONREF"
            self._skipping = not wanted

    def _jump(self, key: int) -> None:
        """Continue at a keyframe: nothing before it reaches the decoder."""
        for landed, packets in self._landings(key):
            if landed is None or landed > key:
                continue
            self._sent, self._shown = key - 1, None
            self._begin = self._index.pts[key]
            self._packets = packets
            return
        raise UnforeseenError

    def _landings(self, key: int) -> Iterator[tuple[int | None, Iterator[Packet]]]:
        """Ways to get to a keyframe: where each lands, and the packets from the keyframe on."""
        pts = self._index.pts[key]
        assert pts is not None
        for margin in _MARGINS:
            target = pts - round(margin / self._index.seconds_per_tick)
            try:
                self._container.av.seek(target, stream=self._stream)
            except (av.error.FFmpegError, OverflowError):
                break
            yield self._land(key)
        self._container.reopen()
        assert self._container.video is not None
        self._stream = self._container.video
        self._context = self._stream.codec_context
        self._decoder = FrameDecoder(self._stream)
        self._skipping = False
        yield self._land(key)

    def _land(self, key: int) -> tuple[int | None, Iterator[Packet]]:
        packets = (p for p in self._container.packets(self._stream) if p.size or p.dts is None)
        first = next(packets, None)
        if first is None or not first.size:
            return None, packets
        if self._positions is None:
            self._positions = {pts: at for at, pts in enumerate(self._index.pts)}
        landed = self._positions.get(first.pts)
        if landed is None or landed > key:
            return landed, packets
        for _ in range(key - landed):
            first = next(packets, None)
        return landed, _chain(first, packets)


def _chain(first: Packet | None, rest: Iterator[Packet]) -> Iterator[Packet]:
    if first is not None:
        yield first
    yield from rest
