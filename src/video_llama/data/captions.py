"""Captions of pictures: `filter_cap.json` of CC-595K (stage 1) and of MiniGPT-4 (stage 2).

    {"annotations": [{"image_id": "0001", "caption": "A dog on a lawn."}, ...]}

The picture is `IMAGES/0001.jpg`. Both data sets have this form; what differs is how they are
learnt. As "captions" a text is cleaned and follows its picture, as stage 1 has it; as
"descriptions" it is the answer to an instruction, as stage 2 has it.
"""

from functools import partial
from pathlib import Path

from video_llama.data.records import RecordRows, json_records, parse_json
from video_llama.data.sample import (
    Sample,
    caption_sample,
    media_path,
    require_field,
    require_mapping,
    require_text,
)
from video_llama.errors import DataError

LIST = "annotations"
SUFFIX = ".jpg"
INSTRUCTION = "Describe this image in detail."  # the one of the published stage 2


def open_captions(name: str, path: Path, media: Path, instruction: str = "") -> RecordRows:
    """The annotations of a `filter_cap.json`; with an instruction, as descriptions.

    Raises:
        DataError: it cannot be read, or has another form.
    """
    parse = partial(parse_caption, media=media, instruction=instruction)
    return RecordRows(name, json_records(path, LIST), parse)


def parse_caption(key: str, record: bytes, *, media: Path, instruction: str) -> Sample:
    """One annotation.

    Raises:
        DataError: it lacks an id or a caption.
    """
    row = require_mapping(key, parse_json(key, record))
    image_id = require_field(key, row, "image_id")
    if isinstance(image_id, bool) or not isinstance(image_id, (str, int)) or image_id == "":
        raise DataError(f"{key}: image_id must be a name or a number, not {image_id!r}")
    caption = require_text(key, require_field(key, row, "caption"), "the caption").strip()
    source = media_path(key, media, f"{image_id}{SUFFIX}")
    return caption_sample(
        key, "image", source, caption, instruction=instruction, identity=str(image_id)
    )
