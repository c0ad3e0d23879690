"""Opening a container with PyAV so that nothing but its own bytes is read.

Three locks, each enough alone: the demuxers are an explicit list, in which none that reads
playlists or other files occurs; no protocol is allowed to them; and every attempt to open
something else is refused and remembered. JPEG 2000 is not decoded, here as in `sniff.py`.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Literal, TypeVar, cast

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from video_llama.errors import (
    CorruptMediaError,
    ForbiddenSourceError,
    MediaLimitError,
    UnsupportedMediaError,
)
from video_llama.media.limits import Limits
from video_llama.media.sniff import Content
from video_llama.media.source import ByteSource

# Demuxers that read media from the bytes they are given. Not here, for what they open or run:
# hls, dash, concat, image2, sdp, rtsp, rtp, webm_dash_manifest, imf, lavfi, capture devices.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,kux,asf,asf_o,"
    "ogg,gif,wav,w64,mp3,flac,aac,ac3,eac3,dts,truehd,mlp,aiff,caf,au,amr,amrnb,amrwb,ape,wv,tta,"
    "tak,mpc,mpc8,opus,oma,dsf,voc,rm,nut,mxf,dv,h261,h263,h264,hevc,vvc,av1,obu,ivf,m4v,vc1,"
    "yuv4mpegpipe,swf,wtv,gxf,avs,dirac,cavsvideo,rpl,ircam,sox,adx,gsm"
)
# All but JPEG 2000's. A container is opened by decoding a frame of each track whose header leaves
# something unsaid, so a look at the tracks of one that is open comes too late.
DECODERS = ",".join(sorted(name for name in av.codecs_available if "jpeg2000" not in name))
_REFUSED_CODEC = "jpeg2000"
_RIFF_UNTOLD = 0x7FFFFF00  # from here on: recorded to a pipe, or longer than the field can say
_BUFFER = 1 << 17  # bytes per read: fewer calls into Python
_CHECK_EVERY = 16  # packets between looks at the clock
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails
_Track = TypeVar("_Track", VideoStream, AudioStream)
_MAX_READ_ERRORS = 1000  # in a row: a demuxer that skips damage says so once per packet


class Container:
    """An open container, its chosen tracks, and what went wrong while it was read.

    Attributes:
        av: PyAV's container.
        video: the track of pictures; None if there is none. Cover art is not a video.
        audio: the track of sound, or None.
        cover: cover art, when there is some.
        warnings: what a user should know about the choice of tracks.
        read_errors: packets that could not be read.
    """

    def __init__(self, source: ByteSource, content: Content, limits: Limits) -> None:
        self.source, self.limits = source, limits
        self.name = source.label
        self.warnings: list[str] = []
        self.read_errors = 0
        self._as_written = False
        self._content = content
        self._references: list[str] = []
        self.av = self._open()
        try:
            self._refuse_references()
            tracks = len(self.av.streams.video) + len(self.av.streams.audio)
            limits.check_streams(tracks, self.name)  # not fonts and subtitles
            self.cover: VideoStream | None = None
            self.video = self._choose_video()
            self.audio = self._choose_audio()
            if self.video is not None and self.video.metadata.get("alpha_mode") == "1":
                self.warnings.append(
                    "the transparency of the video is not decoded: what lies under it is shown"
                )
            self._check_header()
        except BaseException:
            self.av.close()
            raise

    @property
    def is_cover_only(self) -> bool:
        """Whether the pictures are nothing but cover art."""
        return self.video is not None and bool(self.video.disposition & _COVERS)

    def reopen(self, *, as_written: bool = False) -> None:
        """Begin again on the same bytes: the one way back that works for every format.

        With `as_written`, from now on, clocks are taken as they are: else one that is set back by
        more than a minute is taken for one that is full (after 26 hours) and began at 0 again.
        """
        self._as_written |= as_written
        # A track is gone with its container: its number is all that may be kept.
        tracks = [track.index if track else None for track in (self.video, self.audio, self.cover)]
        self.av.close()
        self.av = self._open()
        again = [self.av.streams[at] if at is not None else None for at in tracks]
        self.video = cast(VideoStream | None, again[0])
        self.audio = cast(AudioStream | None, again[1])
        self.cover = cast(VideoStream | None, again[2])
        self._prepare_decoder(self.video)

    def packets(self, *streams: Stream) -> Iterator[Packet]:
        """Packets of some tracks in file order, the last of each one empty: it flushes.

        Damage is skipped and counted in `read_errors`.
        """
        for stream in self.av.streams:
            stream.discard = Discard.default if stream in streams else Discard.all
        errors, count, check = 0, 0, self.source.deadline.check
        # Each frame of a GIF builds on the one before: whatever is wanted, all are decoded.
        animated = self.av.format.name == "gif"
        while True:
            try:
                for packet in self.av.demux(streams):
                    errors, count = 0, count + 1
                    if animated and packet.size:
                        self.limits.check_animation(count, self.name)
                    if not count % _CHECK_EVERY:
                        check()
                    yield packet
            except av.error.FFmpegError as error:
                errors += 1
                self.read_errors += 1
                if errors >= _MAX_READ_ERRORS or isinstance(error, av.error.OSError):
                    return
            else:
                return

    def __enter__(self) -> "Container":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.av.close()
        # PyAV's container holds a method of this one. Without that circle decoders and their
        # threads end here, not whenever the garbage collector comes by: in a forked process, where
        # there are no threads to end, it would wait for them for ever.
        del self.av
        self.video = self.audio = self.cover = None

    def _open(self) -> InputContainer:
        self.source.seek(0)
        timeout = self.source.deadline.remaining
        try:
            return av.open(
                self.source,
                "r",
                options={"max_pixels": str(self.limits.pixels)},
                container_options={
                    "format_whitelist": DEMUXERS,
                    "protocol_whitelist": "none",
                    "codec_whitelist": DECODERS,
                    "correct_ts_overflow": "0" if self._as_written else "1",
                    # Off by default; on, so that a reference is seen, and refused, not skipped.
                    "enable_drefs": "1",
                },
                metadata_errors="replace",
                buffer_size=_BUFFER,
                timeout=(timeout, timeout),
                io_open=self._refuse_to_open,
            )
        except av.error.ExitError:
            raise MediaLimitError(
                f"{self.name} was not opened within {self.limits.deadline:g} seconds"
            ) from None
        except ForbiddenSourceError:
            self._refuse_references()
            raise
        except (av.error.FFmpegError, ValueError):
            self._refuse_references()
            raise self._explain() from None

    def _refuse_to_open(self, url: str, *_: object) -> object:
        self._references.append(url)
        raise ForbiddenSourceError("a reference to another file")

    def _refuse_references(self) -> None:
        if self._references:
            raise ForbiddenSourceError(
                f"{self.name} refers to other files, which are not followed; "
                "give a file that holds its own pictures and sound"
            )

    def _explain(self) -> Exception:
        if self._content != "container":
            return UnsupportedMediaError(
                f"{self.name} is not a video, sound or picture that can be read"
            )
        head = self.source.head(12)
        if head[4:8] in (b"ftyp", b"mdat", b"wide", b"free", b"skip"):
            return CorruptMediaError(
                f"{self.name} is cut short: its index (moov) is missing, so nothing can be decoded;"
                " copy or record it again"
            )
        return CorruptMediaError(f"{self.name} is damaged at its beginning and cannot be opened")

    def _choose_video(self) -> VideoStream | None:
        films = []
        for stream in self.av.streams.video:
            self._refuse_codec(stream)
            if stream.disposition & _COVERS:
                self.cover = self.cover or stream
            else:
                films.append(stream)
        readable = [stream for stream in films if stream.codec_context is not None]
        if films and not readable:
            self.warnings.append("there is no decoder for the pictures; only the sound is used")
        stream = self._choose(readable, "video")
        self._prepare_decoder(stream)
        return stream

    def _refuse_codec(self, stream: VideoStream) -> None:
        context = stream.codec_context
        if context is not None and context.codec.canonical_name == _REFUSED_CODEC:
            raise UnsupportedMediaError(
                f"the pictures of {self.name} are JPEG 2000, which is not read: use H.264"
            )

    def _prepare_decoder(self, stream: VideoStream | None) -> None:
        if stream is not None and stream.codec_context is not None:
            stream.codec_context.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(self.limits.pixels)}

    def _choose_audio(self) -> AudioStream | None:
        tracks = list(self.av.streams.audio)
        readable = [track for track in tracks if track.codec_context is not None]
        return self._choose(readable or tracks, "audio")

    def _choose(self, streams: list[_Track], kind: Literal["video", "audio"]) -> _Track | None:
        if len(streams) <= 1:
            return streams[0] if streams else None
        # Of several programmes, the sound of the one that the pictures are of.
        best = self.av.streams.best(kind, related=self.video if kind == "audio" else None)
        marked = [s for s in streams if s.disposition & Disposition.default]
        chosen = marked[0] if len(marked) == 1 else next((s for s in streams if s == best), None)
        chosen = chosen or streams[0]
        self.warnings.append(
            f"{len(streams)} {kind} tracks: number {streams.index(chosen) + 1} is used"
        )
        return chosen

    def _check_header(self) -> None:
        # MPEG-TS has no header; its length is guessed, by a clock that may have been set back.
        if (end := self.av.duration) is not None and self.av.format.name != "mpegts":
            # Some formats tell the end on a clock that may begin late, and some the length.
            begin = self.av.start_time or 0
            seconds = (end - begin if 0 < begin < end else end) / av.time_base
            self.limits.check_duration(seconds, self.name)
        for stream in (self.video, self.cover):
            if stream is not None and stream.codec_context is not None:
                self.limits.check_pixels(stream.width, stream.height, self.name)


def riff_bytes(source: ByteSource) -> int:
    """How long a WAV or AVI says that it is; 0 for other formats and where it is not told."""
    head = source.head(8)
    told = int.from_bytes(head[4:8], "little")
    if head[:4] != b"RIFF" or told >= _RIFF_UNTOLD:
        return 0
    return told + 8
