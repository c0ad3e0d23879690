"""What the packets of a video track tell without decoding: which frames there are, and when.

Counts in headers lie, frame rates vary, and packets are stored in the order of decoding, not of
showing. The timestamps of all packets, sorted, are the frames in order of presentation.
"""

import bisect
from itertools import pairwise

from av.packet import Packet
from av.video.stream import VideoStream

# Formats whose packets are all marked as keyframes though each builds on the one before.
_SEQUENTIAL_CODECS = frozenset({"gif", "apng", "flic", "webp"})
_VP8_SHOWN = 0x10  # bit of a VP8 frame's first byte
RESTART = 1.0  # seconds back that are a new clock, not frames out of order


class VideoIndex:
    """Packets of one video track in file order; fill it with `add`, then call `finish`.

    Attributes:
        pts: presentation timestamps in file order, in units of the track's time base.
        keys: positions in file order of the packets where decoding can begin.
        order: timestamps of the shown frames in order of presentation.
        doubt: the index may be wrong: frames have to be counted by decoding them.
        promised: packets that the container's own table lists, where it has one.
        invented_pts: the container stores no presentation times: the demuxer makes them up, not
            always rightly.
    """

    def __init__(self, stream: VideoStream) -> None:
        # Everything is copied: a track is gone once its container was closed or opened again.
        # The table is looked at now, as for some formats it grows while packets are read.
        self.promised = len(stream.index_entries)
        self.invented_pts = "avi" in stream.container.format.name
        self.header_fps = float(stream.average_rate) if stream.average_rate else None
        self.codec = stream.codec_context.codec.canonical_name
        self.seconds_per_tick = float(stream.time_base or 0)
        self.pts: list[int | None] = []
        self.keys: list[int] = []
        self.order: list[int] = []
        self.doubt = False
        self._sequential = self.codec in _SEQUENTIAL_CODECS
        self._may_hide = self.codec == "vp8"
        self._dts: list[int | None] = []
        self._hidden: list[int] = []  # positions of packets that become no frame of their own
        self._key_times: list[int] = []
        self._last_pts: int | None = None  # highest, over hidden packets too
        self._last_duration = 0

    def add(self, packet: Packet) -> None:
        """Take the next packet of the track, the empty last one included."""
        # A long film has a hundred thousand packets: what can wait for `finish` does.
        if not packet.size:
            return
        pts, position = packet.pts, len(self.pts)
        if packet.is_keyframe and not (self._sequential and self.keys):
            self.keys.append(position)
        if packet.is_discard or (self._may_hide and not memoryview(packet)[0] & _VP8_SHOWN):
            self._hidden.append(position)
        self.pts.append(pts)
        self._dts.append(packet.dts)
        if pts is not None and (self._last_pts is None or pts > self._last_pts):
            self._last_pts, self._last_duration = pts, packet.duration or 0

    def finish(self) -> None:
        """Sort, once all packets are there, and look for signs that packets are not frames."""
        decoded = [dts for dts in self._dts if dts is not None]
        back = max((a - b for a, b in pairwise(decoded)), default=0)
        if back * self.seconds_per_tick > RESTART:
            self._go_on_where_set_back()
        shown = self.pts
        if self._hidden:
            hidden = set(self._hidden)
            shown = [pts for at, pts in enumerate(self.pts) if at not in hidden]
        known = [pts for pts in shown if pts is not None]
        self.order = sorted(known)
        if not known:
            self.doubt = True
            return
        self._key_times = [p for k in self.keys if (p := self.pts[k]) is not None]
        without_time = len(known) != len(shown)
        repeated = any(a == b for a, b in pairwise(self.order))
        disordered = any(a >= b for a, b in pairwise(self._key_times))
        set_back = back > 0
        starts_inside = not self._key_times or self.keys[0] != 0 or self.order[0] < known[0]
        reordered = self.invented_pts and any(a > b for a, b in pairwise(known))
        packed = reordered and self.codec not in ("h264", "hevc")
        self.doubt = without_time or repeated or disordered or set_back or starts_inside or packed

    def _go_on_where_set_back(self) -> None:
        """Recordings that were joined, each with a clock of its own, become one after another."""
        shift, last, step = 0, None, 0
        for position, dts in enumerate(self._dts):
            if dts is not None:
                if last is not None and (last - dts - shift) * self.seconds_per_tick > RESTART:
                    shift = last + step - dts
                elif last is not None:
                    step = max(dts + shift - last, 0)
                last = dts + shift
            if (pts := self.pts[position]) is not None:
                self.pts[position] = pts + shift
        self._last_pts = max((pts for pts in self.pts if pts is not None), default=None)
        self._last_duration = step

    @property
    def count(self) -> int:
        """Packets that should become frames."""
        return len(self.pts) - len(self._hidden)

    @property
    def hidden(self) -> int:
        """Packets that become no frame of their own, as those before what an edit list shows."""
        return len(self._hidden)

    @property
    def times(self) -> list[float]:
        """Seconds of every frame from the first one on, in order of presentation."""
        return [(pts - self.order[0]) * self.seconds_per_tick for pts in self.order]

    @property
    def start(self) -> float | None:
        """Seconds of the first frame on the container's clock."""
        return self.order[0] * self.seconds_per_tick if self.order else None

    @property
    def duration(self) -> float | None:
        """Seconds from the first frame to the end of the last."""
        if not self.order or self._last_pts is None:
            return None
        usual = (self.order[-1] - self.order[0]) // max(len(self.order) - 1, 1)
        end = self._last_pts + (self._last_duration or usual)
        return (end - self.order[0]) * self.seconds_per_tick

    @property
    def fps(self) -> float | None:
        """Mean frames per second; the header's word only for a single frame."""
        if len(self.order) > 1 and self.order[-1] > self.order[0]:
            span = (self.order[-1] - self.order[0]) * self.seconds_per_tick
            return (len(self.order) - 1) / span
        return self.header_fps

    def key_before(self, pts: int) -> int:
        """Position of the last keyframe shown at `pts` or before it.

        By time shown, not by place in the file: frames that follow a keyframe in the file and are
        shown before it need the frames in front of it (open groups of pictures).
        """
        return self.keys[max(bisect.bisect_right(self._key_times, pts) - 1, 0)]
