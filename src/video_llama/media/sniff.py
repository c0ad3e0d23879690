"""What some bytes are, judged by their beginning alone.

Names and MIME types are never believed. This is also where text that would send a reader to other
files is refused: playlists and stream descriptions.
"""

from typing import Literal

from video_llama.errors import ForbiddenSourceError, UnsupportedMediaError

SNIFF_BYTES = 4096

Content = Literal["picture", "container", "unknown"]

# Pictures go to Pillow. GIF is a container here: it is as often a short film.
_PICTURES: tuple[tuple[int, bytes], ...] = (
    (0, b"\xff\xd8\xff"),  # JPEG
    (0, b"\x89PNG\r\n\x1a\n"),
    (8, b"WEBP"),
    (0, b"BM"),
    (0, b"II*\x00"),  # TIFF
    (0, b"MM\x00*"),
    (0, b"II+\x00"),  # BigTIFF
    (0, b"MM\x00+"),
    (0, b"P6"),
    (0, b"P5"),
)
_PICTURE_BRANDS = (b"avif", b"avis")
_UNREADABLE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_CONTAINERS: tuple[tuple[int, bytes], ...] = (
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (4, b"skip"),
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (8, b"WAVE"),
    (0, b"GIF8"),
    (0, b"OggS"),
    (0, b"fLaC"),
    (0, b"ID3"),
    (0, b"FLV\x01"),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG video
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
    (0, b"FORM"),  # AIFF
    (0, b"caff"),
    (0, b"#!AMR"),
    (0, b".snd"),
    (0, b"RF64"),
    (0, b"YUV4MPEG2"),
    (0, b"DKIF"),  # IVF
)

_REFERENCES: tuple[tuple[bytes, str], ...] = (
    (b"#extm3u", "a playlist (M3U8)"),
    (b"ffconcat", "a concat playlist"),
    (b"[playlist]", "a playlist (PLS)"),
    (b"[reference]", "a reference file (ASF)"),
    (b"<asx", "a playlist (ASX)"),
    (b"<smil", "a playlist (SMIL)"),
    (b"v=0", "a stream description (SDP)"),
    (b"rtsptext", "a reference file (RTSP)"),
)
_XML_REFERENCES: tuple[tuple[bytes, str], ...] = (
    (b"<mpd", "a streaming manifest (DASH)"),
    (b"<playlist", "a playlist (XSPF)"),
    (b"<smil", "a playlist (SMIL)"),
    (b"<smoothstreamingmedia", "a streaming manifest"),
    (b"<imf", "a composition playlist"),
)


def sniff(head: bytes, name: str) -> Content:
    """Say which reader is for bytes that begin with `head` (about `SNIFF_BYTES` of them).

    Raises:
        ForbiddenSourceError: they are a playlist or another list of other files.
        UnsupportedMediaError: a format that is recognised and not read.
    """
    _refuse_references(head, name)
    if head[4:8] == b"ftyp" and len(head) >= 12:
        return _sniff_brand(head, name)
    if any(head[at : at + len(magic)] == magic for at, magic in _PICTURES):
        return "picture"
    if any(head[at : at + len(magic)] == magic for at, magic in _CONTAINERS):
        return "container"
    if _is_transport_stream(head) or _is_mpeg_audio(head):
        return "container"
    if head.startswith((b"\x00\x00\x00\x0cjP", b"\xff\x4f\xff\x51")):
        raise UnsupportedMediaError(f"{name} is a JPEG 2000 picture, which is not read: use JPEG")
    if head.lstrip()[:5].lower() in (b"<svg ", b"<?xml") and b"<svg" in head.lower():
        raise UnsupportedMediaError(f"{name} is an SVG drawing, which is not read: use PNG")
    return "unknown"


def _refuse_references(head: bytes, name: str) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1024].lower()
    found = next((what for start, what in _REFERENCES if text.startswith(start)), None)
    if found is None and text.startswith((b"<?xml", b"<mpd")):
        found = next((what for tag, what in _XML_REFERENCES if tag in text), None)
    if found is not None:
        raise ForbiddenSourceError(
            f"{name} is {found}: it points to other files, which are not followed; "
            "give the media file itself"
        )


def _sniff_brand(head: bytes, name: str) -> Content:
    """ISO files say who they are in a brand: films and some pictures share the container."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12]} | {head[at : at + 4] for at in range(16, size - 3, 4)}
    if head[8:12] in _PICTURE_BRANDS or brands & {b"avif"}:
        return "picture"
    if head[8:12] in _UNREADABLE_BRANDS:
        raise UnsupportedMediaError(f"{name} is a HEIC picture, which is not read: use JPEG")
    return "container"


def _is_transport_stream(head: bytes) -> bool:
    for packet, start in ((188, 0), (192, 4), (204, 0)):
        marks = head[start::packet][:5]
        if len(marks) >= 3 and set(marks) == {0x47}:
            return True
    return False


def _is_mpeg_audio(head: bytes) -> bool:
    """MP3 and AAC begin with eleven or twelve set bits."""
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFF
