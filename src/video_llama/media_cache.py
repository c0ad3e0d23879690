"""Media, read and encoded once: asked again, by whatever conversation, they are neither.

What is kept of a medium is known by SHA-256 over its content, how it is read, and the weights and
the configuration of the branches. A name is not part of the content, but shows in answers and
warnings: the same file under another name is read again.
"""

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from video_llama.answer import MediaUse
from video_llama.attachment import Attachment, MediaOptions, ReadMedium, encode, read
from video_llama.engine.features import FeatureCache, Features, Fingerprint
from video_llama.engine.own_thread import in_own_thread
from video_llama.errors import CorruptMediaError, UnsupportedMediaError
from video_llama.media.arrays import to_numpy
from video_llama.media.clip import MediaClip
from video_llama.media.image import DAMAGE, orientation_of
from video_llama.media.reader import MediaSource
from video_llama.media.source import (
    ByteSource,
    FrameFiles,
    FramesArray,
    SoundArray,
    open_source,
    scheme_of,
)
from video_llama.processing.conversation import MediaPart
from video_llama.processing.processor import VideoLlamaProcessor

if TYPE_CHECKING:
    from video_llama.models import VideoLlamaForConditionalGeneration

_CHUNK = 1 << 20
# Of reading and encoding: raised where the same medium gives other features than before.
VERSION = 1


class MediaCache:
    """Turns media into attachments. May be used by several threads.

    Attributes:
        features: what is kept.
    """

    def __init__(
        self,
        model: "VideoLlamaForConditionalGeneration",
        processor: VideoLlamaProcessor,
        features: FeatureCache | None = None,
    ) -> None:
        self.features = FeatureCache() if features is None else features
        self._model = model
        self._processor = processor
        self._weights = Fingerprint([model.vision_branch, model.audio_branch])
        self._encoding = threading.Lock()

    @property
    def hits(self) -> int:
        """How often a medium was known, or was being encoded just then."""
        return self.features.hits

    @property
    def misses(self) -> int:
        """How often a medium was read and encoded."""
        return self.features.misses

    def open(self, source: MediaSource | MediaClip, options: MediaOptions) -> Attachment:
        """Read and encode a medium, unless it is known.

        Raises:
            MediaError: it cannot be read, or nothing of it can be used by this model.
        """
        started = time.perf_counter()
        source, name, digest = identify(source, options)
        if digest is None:
            return self._encode(self._read(source, options))
        searched = time.perf_counter() - started

        def read_it() -> ReadMedium:
            medium = self._read(source, options)
            return replace(medium, decode_seconds=medium.decode_seconds + searched)

        return self.attach(digest, options, read_it, name=name, searched=searched)

    def attach(
        self,
        digest: str,
        options: MediaOptions,
        read_it: Callable[[], ReadMedium],
        *,
        name: str = "",
        searched: float = 0.0,
    ) -> Attachment:
        """The attachment of a medium whose content has this digest.

        Args:
            digest: of the content.
            options: how it is read; part of what it is known by.
            read_it: reads it, when it is not known.
            name: under which it is known.
            searched: seconds that went before.

        Raises:
            MediaError: what `read_it` raises.
        """
        started = time.perf_counter()
        new: list[Attachment] = []
        key = self._key(digest, options)

        def make() -> Features:
            new.append(self._encode(read_it()))
            return pack(new[0])

        features = self.features.get(_digest(key, name), make)
        if new:
            return replace(new[0], key=key)
        seconds = searched + time.perf_counter() - started
        known = unpack(features, self._model.device)
        return replace(known, key=key, decode_seconds=seconds)

    def find(self, digest: str, options: MediaOptions) -> Attachment | None:
        """As `attach`, of a medium that is known already; None, and at once, of any other."""
        started = time.perf_counter()
        key = self._key(digest, options)
        features = self.features.find(_digest(key, ""))
        if features is None:
            return None
        known = unpack(features, self._model.device)
        return replace(known, key=key, decode_seconds=time.perf_counter() - started)

    def _read(self, source: MediaSource | MediaClip, options: MediaOptions) -> ReadMedium:
        return in_own_thread(partial(read, source, self._processor, options))

    def _encode(self, medium: ReadMedium) -> Attachment:
        # One at a time: all would run on the one device, and need its memory together.
        with self._encoding:
            return in_own_thread(partial(encode, medium, self._model))

    def _key(self, digest: str, options: MediaOptions) -> str:
        # From where a medium may be fetched changes nothing of what it is.
        settings = {name: value for name, value in asdict(options).items() if name != "policy"}
        processor = self._processor.to_dict()
        config = self._model.config.to_dict()
        del config["text_config"]  # it is not asked
        known = json.dumps([VERSION, settings, processor, config], sort_keys=True, default=str)
        return _digest(digest, known, self._weights.digest())


def pack(attachment: Attachment) -> Features:
    """What is kept of an attachment."""
    named = {"video": attachment.video_features, "audio": attachment.audio_features}
    part = {name: getattr(attachment.part, name) for name in ("kind", "sound", "times")}
    return Features(
        {name: tensor for name, tensor in named.items() if tensor is not None},
        {"part": part, "use": asdict(attachment.use), "warnings": list(attachment.warnings)},
    )


def unpack(features: Features, device: torch.device) -> Attachment:
    """The attachment that was kept; it has taken no time."""
    tensors = {name: tensor.to(device) for name, tensor in features.tensors.items()}
    part = features.facts["part"]
    times = None if part["times"] is None else tuple(part["times"])
    return Attachment(
        part=MediaPart(part["kind"], sound=part["sound"], times=times),
        use=MediaUse(**features.facts["use"]),
        warnings=tuple(features.facts["warnings"]),
        video_features=tensors.get("video"),
        audio_features=tensors.get("audio"),
        decode_seconds=0.0,
        encode_seconds=0.0,
    )


def identify(
    source: MediaSource | MediaClip, options: MediaOptions
) -> tuple[MediaSource | MediaClip, str, str | None]:
    """A source to read from, its name, and the digest of its content.

    What comes from an address or a pipe is fetched here, once. The digest is None for what has
    none: a picture of several frames.

    Raises:
        MediaError: it cannot be had.
    """
    if isinstance(source, MediaClip):
        return source, source.info.name, digest_of_clip(source)
    opened = open_source(source, options.limits, options.policy)
    if not isinstance(opened, ByteSource):
        return source, "", digest_of_decoded(opened)
    with opened:
        if not _can_be_read_again(source):
            source = NamedBytes(opened.read(), opened.label)
        found = hashlib.sha256()
        opened.seek(0)
        while chunk := opened.read(_CHUNK):
            found.update(chunk)
    return source, opened.label, found.hexdigest()


def _can_be_read_again(source: MediaSource) -> bool:
    if isinstance(source, str):
        return scheme_of(source) is None
    if isinstance(source, (bytes, bytearray, memoryview, os.PathLike)):
        return True
    seekable = getattr(source, "seekable", None)
    return seekable is not None and seekable()


class NamedBytes(io.BytesIO):
    """Bytes that were fetched, with the name of the place they came from."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def digest_of_clip(clip: MediaClip) -> str:
    """Of everything a clip holds."""
    plain = replace(clip, frames=None, sound=None)
    return _digest("clip", repr(plain), _array(clip.frames), _array(clip.sound))


def digest_of_decoded(
    source: FramesArray | SoundArray | FrameFiles | Image.Image,
) -> str | None:
    """Of media that are arrays or pictures already."""
    if isinstance(source, FrameFiles):
        return _digest("files", *(hashlib.sha256(one).hexdigest() for one in source.pictures))
    if isinstance(source, SoundArray):
        return _digest("sound", str(source.rate), _array(source.samples))
    if isinstance(source, FramesArray):
        sound = None if source.sound is None else digest_of_decoded(source.sound)
        when = None if source.times is None else list(source.times)
        return _digest("frames", str(when), str(source.fps), str(sound), _array(source.frames))
    if getattr(source, "n_frames", 1) > 1:
        return None
    try:
        facts = (source.mode, source.size, orientation_of(source), source.getpalette())
        pixels = hashlib.sha256(source.tobytes()).hexdigest()
    except DAMAGE as error:
        raise CorruptMediaError(f"the picture does not decode: {error}") from None
    return _digest("picture", repr(facts), repr(source.info.get("transparency")), pixels)


def _array(values: "np.ndarray | torch.Tensor | None") -> str:
    if values is None:
        return "none"
    given = f"{values.dtype} " if isinstance(values, torch.Tensor) else ""
    whole: Any = np.ascontiguousarray(to_numpy(values))
    if whole.dtype.hasobject:
        raise UnsupportedMediaError("frames and sound are arrays of numbers, not of objects")
    content = hashlib.sha256(whole.reshape(-1).view(np.uint8).data).hexdigest()
    return f"{given}{whole.dtype} {whole.shape} {content}"


def _digest(*parts: str) -> str:
    """Of several texts; where one ends and the next begins is part of it."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
