"""What a decoding process sends back: numbers and texts, never objects.

A decoder may have been taken over by the file it reads. Unpickling what such a process sends would
hand it the server; so a reply is a line of JSON and plain arrays of floats, and is checked.

Legend: T frames, S side of a frame, C clips of a sound, M mel bins, F mel frames.
"""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from video_llama.answer import MediaUse
from video_llama.attachment import ReadMedium
from video_llama.processing.conversation import MediaPart

_LENGTH = 8  # bytes that tell how long the JSON is
_LARGEST = 1 << 30  # values of one array
# What reading a reply can raise that `pack` did not make.
MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def pack(medium: ReadMedium) -> bytes:
    """A medium that was read: frames (1, T, 3, S, S) and clips (1, C, 1, M, F) in full."""
    arrays = {
        name: tensor.numpy()
        for name, tensor in (("frames", medium.frames), ("clips", medium.clips))
        if tensor is not None
    }
    head = {
        "part": {"kind": medium.part.kind, "sound": medium.part.sound, "times": medium.part.times},
        "use": asdict(medium.use),
        "warnings": medium.warnings,
        "decode_seconds": medium.decode_seconds,
        "shapes": {name: array.shape for name, array in arrays.items()},
    }
    text = json.dumps(head).encode()
    blocks = [np.ascontiguousarray(array, dtype=np.float32).tobytes() for array in arrays.values()]
    return b"".join([len(text).to_bytes(_LENGTH, "big"), text, *blocks])


def unpack(reply: bytes) -> ReadMedium:
    """The other way.

    Raises:
        MALFORMED: it is not what `pack` makes.
    """
    at = _LENGTH + int.from_bytes(reply[:_LENGTH], "big")
    head = json.loads(reply[_LENGTH:at])
    arrays: dict[str, torch.Tensor] = {}
    for name, shape in head["shapes"].items():
        count = math.prod(_shape(shape))
        block = np.frombuffer(reply, np.float32, count, at)
        # A copy: the reply itself is read-only, and of any alignment.
        arrays[name] = torch.from_numpy(block.copy()).reshape(*shape)
        at += count * block.itemsize
    if at != len(reply) or not all(bool(array.isfinite().all()) for array in arrays.values()):
        raise ValueError("not a medium")
    return ReadMedium(
        part=_part(head["part"]),
        use=MediaUse(**head["use"]),
        warnings=tuple(str(warning) for warning in head["warnings"]),
        frames=arrays.get("frames"),
        clips=arrays.get("clips"),
        decode_seconds=float(head["decode_seconds"]),
    )


def _shape(shape: Any) -> list[int]:
    sizes = [int(size) for size in shape]
    if len(sizes) != 5 or min(sizes) < 1 or math.prod(sizes) > _LARGEST:
        raise ValueError("not the shape of a medium")
    return sizes


def _part(given: dict[str, Any]) -> MediaPart:
    times = given["times"]
    if given["kind"] not in ("image", "video", "audio"):
        raise ValueError("not a kind of medium")
    return MediaPart(
        kind=given["kind"],
        sound=given["sound"],
        times=None if times is None else tuple(float(time) for time in times),
    )
