"""Decoding in processes of their own: the same media, and what breaks a decoder breaks no more."""

import errno
import io
import json
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from video_llama.attachment import MediaOptions, read
from video_llama.errors import (
    BusyError,
    CorruptMediaError,
    ForbiddenSourceError,
    MediaError,
    MediaLimitError,
    UnsupportedMediaError,
)
from video_llama.media.limits import Limits
from video_llama.media.source import FrameFiles
from video_llama.server import decoding
from video_llama.server.decoding import Cancelled, DecodingPool
from video_llama.server.gate import GatePolicy
from video_llama.server.wire import pack, unpack

PLAIN = MediaOptions()


def same(one, other) -> bool:
    pairs = ((one.frames, other.frames), (one.clips, other.clips))
    facts = [replace(medium, frames=None, clips=None, decode_seconds=0) for medium in (one, other)]
    return facts[0] == facts[1] and all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in pairs
    )


def test_the_same_as_in_this_process(decoders, assistant, clip_path, png) -> None:
    film = clip_path.read_bytes()
    cases = [
        (film, PLAIN),
        (film, MediaOptions(with_picture=False)),
        (film, MediaOptions(with_sound=False, fps=3)),
        (png(), PLAIN),
        (FrameFiles((png(), png(colour="blue"))), PLAIN),
    ]
    for source, options in cases:
        assert same(decoders.read(source, options), read(source, assistant.processor, options)), (
            options
        )


def test_several_threads_share_the_processes(decoders, clip_path, png, background) -> None:
    sources = [clip_path.read_bytes(), png(), png(colour="blue")] * 3
    expected = [decoders.read(source, PLAIN) for source in sources]
    running = [background(lambda s=source: decoders.read(s, PLAIN)) for source in sources]
    for one, other in zip(running, expected, strict=True):
        assert same(one.end(), other)


def test_what_is_wrong_with_a_medium_is_told_as_elsewhere(decoders, clip_path) -> None:
    for source, options, error in (
        (b"#EXTM3U\nfile:///etc/passwd\n", PLAIN, ForbiddenSourceError),
        (b"not media at all", PLAIN, UnsupportedMediaError),
        (clip_path.read_bytes()[:300], PLAIN, MediaError),
        (clip_path.read_bytes(), MediaOptions(limits=Limits(duration=0.1)), MediaLimitError),
    ):
        before = decoders.process_ids
        with pytest.raises(error):
            decoders.read(source, options)
        assert decoders.process_ids == before  # a bad file costs no process


# Small files that hold much


def huge_png(side: int) -> bytes:
    """A PNG of a few kilobytes whose header promises a great many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def test_a_small_picture_of_very_many_pixels(decoders) -> None:
    limits = GatePolicy().limits["image"]
    with pytest.raises(MediaLimitError, match="pixels"):
        decoders.read(huge_png(40_000), MediaOptions(limits=limits))


def opus(seconds: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as output:
        stream = output.add_stream("libopus", rate=48_000)
        stream.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2 * 48_000), np.int16), format="s16", layout="stereo"
        )
        frame.sample_rate = 48_000
        for second in range(seconds):
            frame.pts = second * 48_000
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def test_a_small_sound_that_decodes_to_very_much(decoders) -> None:
    sound = opus(30)
    assert len(sound) < 100_000
    limits = replace(GatePolicy().limits["audio"], samples=1_000_000)
    with pytest.raises(MediaLimitError, match="decodes to more"):
        decoders.read(sound, MediaOptions(limits=limits))
    limits = replace(GatePolicy().limits["audio"], duration=10)
    with pytest.raises(MediaLimitError, match="seconds"):
        decoders.read(sound, MediaOptions(limits=limits))


def test_a_playlist_behind_other_bytes(decoders, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    playlist = f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    hidden = b"RIFF" + struct.pack("<I", 4096) + b"AVI " + playlist.encode()
    for content in (hidden, playlist.encode(), b"\x00" * 16 + playlist.encode()):
        with pytest.raises(MediaError) as caught:
            decoders.read(content, PLAIN)
        assert "secret" not in str(caught.value)


def avi(subtitles: bytes, png: bytes) -> bytes:
    """Two frames, and a track of text as AVI has it ("GAB2"): a whole file of subtitles."""

    def chunk(kind: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def track(kind: bytes, form: bytes) -> bytes:
        head = kind + struct.pack("<4x I 8x 4I 4x I 12x", 0, 1, 10, 0, 2, 0)
        return chunk(b"LIST", b"strl", chunk(b"strh", head), chunk(b"strf", form))

    pictures = struct.pack("<IiiHH4sI16x", 40, 32, 24, 1, 24, b"MPNG", 32 * 24 * 3)
    head = chunk(b"avih", struct.pack("<10I16x", 100_000, 0, 0, 0, 2, 0, 2, 0, 32, 24))
    text = b"GAB2\0" + struct.pack("<HIHHI", 2, 2, 0, 4, len(subtitles)) + subtitles
    return chunk(
        b"RIFF",
        b"AVI ",
        chunk(b"LIST", b"hdrl", head, track(b"vids", pictures), track(b"txts", b"")),
        chunk(b"LIST", b"movi", chunk(b"01tx", text), *[chunk(b"00dc", png)] * 2),
    )


def test_a_playlist_as_the_subtitles_of_an_avi(decoders, png, tmp_path: Path) -> None:
    """The decoder once opened what they named: files, and addresses."""
    trap = tmp_path / "secret.ts"
    os.mkfifo(trap)  # whoever opens it hangs
    subtitles = b"1\n00:00:00,000 --> 00:00:00,100\nWords\n\n"
    with av.open(io.BytesIO(avi(subtitles, png()))) as plain:
        assert plain.streams[1].codec_context.name == "srt"  # they are read when it is opened
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/secret.ts"
        for place in (f"file://{trap}", str(trap), address):
            playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{place}\n#EXT-X-ENDLIST\n"
            content = avi(playlist.encode(), png())
            medium = decoders.read(content, MediaOptions(limits=Limits(deadline=10)))
            assert medium.use.frames == 2
            assert medium.use.sound == "absent"
        with pytest.raises(BlockingIOError):
            listening.accept()


# What happens to the processes


@pytest.fixture
def pool(assistant, png) -> Iterator[DecodingPool]:
    """One of its own, whose one process is up."""
    pool = DecodingPool(assistant.processor, workers=1)
    pool.read(png(), PLAIN)
    yield pool
    pool.close()


def still_decodes(pool: DecodingPool, content: bytes) -> bool:
    return pool.read(content, PLAIN).frames is not None


def test_a_decoder_that_is_killed_costs_its_own_request(pool, png, background) -> None:
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)  # so that it is killed while it is asked
    asking = background(lambda: pool.read(png(), PLAIN))
    time.sleep(0.3)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(CorruptMediaError, match="broke its decoder"):
        asking.end()
    assert pool.replaced == 1
    assert pool.process_ids != [process]
    assert still_decodes(pool, png())


def test_a_decoder_that_dies_with_nothing_to_do_is_not_missed(pool, png) -> None:
    (process,) = pool.process_ids
    os.kill(process, signal.SIGKILL)
    time.sleep(0.3)
    assert still_decodes(pool, png())


def test_a_decoder_that_cannot_be_started_now_is_started_later(pool, png, monkeypatch) -> None:
    """There may be no descriptors, processes or memory for a moment."""
    real, tries = pool._start, []

    def start():
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return real()

    monkeypatch.setattr(pool, "_start", start)
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    gone = threading.Event()
    threading.Timer(0.3, gone.set).start()
    with pytest.raises(Cancelled):
        pool.read(png(), PLAIN, gone)
    with pytest.raises(BusyError, match="in a moment"):
        pool.read(png(), PLAIN)
    assert still_decodes(pool, png())
    assert len(tries) == 3


def test_a_decoder_that_does_not_come_up_is_no_fault_of_the_medium(
    assistant, png, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(decoding, "_work", os._exit)
    pool = DecodingPool(assistant.processor, workers=1)
    try:
        with pytest.raises(BusyError, match="did not come up"):
            pool.read(png(), PLAIN)
        assert "a decoder did not come up" in caplog.text
    finally:
        pool.close()


def test_a_decoder_that_hangs_is_ended(pool, png, background, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "_GRACE", 0.2)
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    options = MediaOptions(limits=Limits(deadline=0.3))
    with pytest.raises(MediaLimitError, match="not decoded within"):
        background(lambda: pool.read(png(), options)).end(30)
    assert not Path(f"/proc/{process}").exists()
    assert still_decodes(pool, png())


@pytest.mark.parametrize("leaves", [False, True])
def test_a_decoder_that_stops_while_it_is_given_a_large_medium_is_ended(
    pool, png, background, monkeypatch, leaves
) -> None:
    monkeypatch.setattr(decoding, "_GRACE", 0.2)
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    large, gone = bytes(2 << 20), threading.Event()  # more than fits between two processes
    options = MediaOptions(limits=Limits(deadline=60 if leaves else 0.3))
    asking = background(lambda: pool.read(large, options, gone))
    if leaves:
        time.sleep(0.3)
        gone.set()
    with pytest.raises(Cancelled if leaves else MediaLimitError):
        asking.end(30)
    assert still_decodes(pool, png())


def answer_instead_of(pool, monkeypatch) -> Connection:
    """Where to write what the pool's process is to have answered."""
    (worker,) = pool._all
    mine, other = multiprocessing.Pipe()
    # This keeps the former one; the process would end when that is closed.
    monkeypatch.setattr(worker, "connection", mine)
    return other


def test_a_decoder_that_stops_within_its_reply_is_ended(pool, png, background, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "_GRACE", 0.2)
    other = answer_instead_of(pool, monkeypatch)  # it cannot be made to do that
    os.write(other.fileno(), struct.pack("!i", 1000) + b"m")
    options = MediaOptions(limits=Limits(deadline=0.3))
    with pytest.raises(MediaLimitError, match="not decoded within"):
        background(lambda: pool.read(png(), options)).end(30)
    assert still_decodes(pool, png())


def test_a_reply_of_more_bytes_than_the_medium_can_have(pool, png, monkeypatch) -> None:
    other = answer_instead_of(pool, monkeypatch)
    os.write(other.fileno(), struct.pack("!i", 1 << 30))
    with pytest.raises(CorruptMediaError):
        pool.read(png(), MediaOptions(limits=GatePolicy().limits["video"]))
    assert still_decodes(pool, png())


def test_whoever_goes_away_takes_the_work_along(pool, png, background) -> None:
    (process,) = pool.process_ids
    os.kill(process, signal.SIGSTOP)
    gone = threading.Event()
    asking = background(lambda: pool.read(png(), PLAIN, gone))
    waiting = background(lambda: pool.read(png(), PLAIN, gone))  # for the same process
    time.sleep(0.3)
    gone.set()
    for one in (asking, waiting):
        with pytest.raises(Cancelled):
            one.end(30)
    assert still_decodes(pool, png())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no limit on memory here")
def test_a_medium_that_wants_too_much_memory(assistant, png) -> None:
    pool = DecodingPool(assistant.processor, workers=1, memory=96 << 20)
    try:
        with pytest.raises(MediaLimitError, match="memory"):
            pool.read(png(9000, 9000), PLAIN)
        assert still_decodes(pool, png())
    finally:
        pool.close()


def test_no_process_is_left_behind(assistant, eventually, png) -> None:
    pool = DecodingPool(assistant.processor, workers=1)
    process = pool.process_ids[0]
    pool.close()
    eventually(lambda: not Path(f"/proc/{process}").exists())
    with pytest.raises(BusyError, match="shutting down"):
        pool.read(png(), PLAIN)


# What comes back


def test_replies_are_data(assistant, clip_path) -> None:
    medium = read(clip_path.read_bytes(), assistant.processor, PLAIN)
    assert same(unpack(pack(medium)), medium)


class Evil:
    def __reduce__(self):
        return (os.abort, ())


def test_a_decoder_that_was_taken_over_cannot_send_objects(pool, monkeypatch, png) -> None:
    head = {
        "part": {"kind": "video", "sound": None, "times": None},
        "use": {},
        "warnings": [],
        "decode_seconds": 0.0,
        "shapes": {"frames": [1, 1, 3, 2**20, 2**20]},
    }
    text = json.dumps(head).encode()
    odd_shapes = ([], {"frames": [1e999, 1, 1, 1, 1]}, {"frames": [10**200, 10**200, 1, 1, 1]})
    odd = [json.dumps({**head, "shapes": shapes}).encode() for shapes in odd_shapes]
    odd.append(b"[" * 200_000)
    replies = [
        pickle.dumps(Evil()),
        b"m" + pickle.dumps(Evil()),
        b"m" + len(text).to_bytes(8, "big") + text,
        *(b"m" + len(one).to_bytes(8, "big") + one for one in odd),
        b"m" + (2**60).to_bytes(8, "big"),
        b"m",
        b"r" + json.dumps(["KeyboardInterrupt", "x"]).encode(),
        b"r" + json.dumps(["__builtins__", "x"]).encode(),
        b"r[]",
        b"",
    ]
    for reply in replies:
        monkeypatch.setattr(decoding._Worker, "ask", lambda *_, reply=reply: reply)
        with pytest.raises(CorruptMediaError):
            pool.read(png(), PLAIN)
    assert pool.replaced == len(replies)


def test_numbers_that_are_none_are_refused(assistant, png) -> None:
    medium = read(png(), assistant.processor, PLAIN)
    assert medium.frames is not None
    medium.frames[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not a medium"):
        unpack(pack(medium))
