"""One sample of training data: a conversation about media, or a caption, not yet opened."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from video_llama.errors import DataError
from video_llama.processing.captions import clean_caption
from video_llama.processing.conversation import PartKind

Source = Path | str | bytes  # a file, a data: URL, or the bytes of a medium
Find = Callable[[PartKind, Any], Source]  # from what a row names to the medium

KINDS: tuple[PartKind, ...] = ("image", "video", "audio")
_SUFFIXES = (
    ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"),
    ("mp4", "mkv", "webm", "avi", "mov", "m4v", "mpg", "mpeg", "flv"),
    ("wav", "mp3", "flac", "ogg", "opus", "m4a", "aac"),
)
# What a member of a shard is by its suffix; what a medium holds, its content decides later.
SUFFIX_KINDS: dict[str, PartKind] = {
    suffix: kind for kind, suffixes in zip(KINDS, _SUFFIXES, strict=True) for suffix in suffixes
}


@dataclass(frozen=True)
class Sample:
    """What is to be learnt from one row.

    Attributes:
        key: names it in messages and files: "filter_cap.json#17", rows counted from 0.
        messages: a conversation in the form of `processing.conversation` that ends with an answer;
            the sources of its media are files, data: URLs or bytes.
        caption: the answer is the caption of the one medium. With no text beside the medium it is
            learnt as stage 1 learns captions, with an instruction beside it as stage 2 does; see
            `processing.captions`.
        others: answers that would do as well as the last one; training draws among all of them.
        identity: the row's own name in its data set, where there is one that should be unique.
    """

    key: str
    messages: tuple[dict[str, Any], ...]
    caption: bool = False
    others: tuple[str, ...] = ()
    identity: str = ""

    @property
    def bare_caption(self) -> bool:
        """Whether it is a caption without an instruction, which stage 1 cleans."""
        return self.caption and len(self.messages[0]["content"]) == 1

    @property
    def answers(self) -> tuple[str, ...]:
        """The last answer, and those that would do as well."""
        return (self.messages[-1]["content"], *self.others)

    def media(self) -> list[tuple[PartKind, Source]]:
        """Kind and source of all media in the order of the conversation."""
        parts = [
            part
            for message in self.messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if isinstance(part, dict) and part["type"] != "text"
        ]
        return [(part["type"], part[part["type"]]) for part in parts]


class Rows(Protocol):
    """The rows of a data set; see `data.formats.open_dataset`."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """One row; media are not opened. Raises DataError for a bad one."""
        ...


def caption_sample(
    key: str,
    kind: PartKind,
    source: Source,
    caption: str,
    *,
    instruction: str = "",
    others: tuple[str, ...] = (),
    identity: str = "",
) -> Sample:
    """A medium and its caption."""
    content: list[dict[str, Any]] = [{"type": kind, kind: source}]
    if instruction:
        content.append({"type": "text", "text": instruction})
    messages = (
        {"role": "user", "content": content},
        {"role": "assistant", "content": caption},
    )
    return Sample(key, messages, caption=True, others=others, identity=identity)


def cleaned_caption(caption: str) -> str:
    """A caption as stage 1 learns it.

    Raises:
        DataError: nothing is left of it.
    """
    cleaned = clean_caption(caption)
    if not cleaned:
        raise DataError(f"nothing is left of the caption {caption[:40]!r} once it is cleaned")
    return cleaned


def media_path(key: str, folder: Path, name: Any) -> Path:
    """The file a row names, which must lie in the folder of the media.

    Names are compared, links are not followed: a folder of links to files elsewhere is a usual way
    to lay out data, and only the person who trains can make one.

    Raises:
        DataError: not a name, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"{key}: a file name is expected where {_shown(name)} stands")
    path = Path(name)
    if path.is_absolute():
        path = _inside(path, folder)
    outside = path.is_absolute() or path.drive or ".." in name.replace("\\", "/").split("/")
    if outside or "://" in name:
        raise DataError(
            f"{key}: {_shown(name)} leads out of the folder of the media, {folder.resolve()}; "
            "give the folder that holds all media, and names inside it"
        )
    return folder / path


def _inside(path: Path, folder: Path) -> Path:
    """A whole path relative to the folder it lies in, or as it is. One of them may be spelled with
    links, which are followed in folders alone."""
    if path.is_relative_to(folder.absolute()):
        return path.relative_to(folder.absolute())
    parent, real = path.parent.resolve(), folder.resolve()
    return parent.relative_to(real) / path.name if parent.is_relative_to(real) else path


def require_text(key: str, value: Any, what: str) -> str:
    """A text that is not empty.

    Raises:
        DataError: it is not.
    """
    if not isinstance(value, str):
        raise DataError(f"{key}: {what} must be a text, not {_shown(value)}")
    if not value.strip():
        raise DataError(f"{key}: {what} is empty")
    return value


def require_mapping(key: str, value: Any) -> dict[str, Any]:
    """A row that is an object with named fields.

    Raises:
        DataError: it is not.
    """
    if not isinstance(value, dict):
        raise DataError(f"{key}: a row must be an object with named fields, not {_shown(value)}")
    return value


def require_field(key: str, row: dict[str, Any], name: str) -> Any:
    """One field of a row.

    Raises:
        DataError: the row lacks it.
    """
    if name not in row:
        raise DataError(f"{key}: there is no {name!r}; the row has {', '.join(row) or 'nothing'}")
    return row[name]


def require_id(key: str, row: dict[str, Any], name: str) -> str | int:
    """What tells a row of annotations from others: a text or a whole number.

    Raises:
        DataError: the row lacks it, or it is something else.
    """
    value = require_field(key, row, name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{key}: {name!r} is a text or a whole number, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
