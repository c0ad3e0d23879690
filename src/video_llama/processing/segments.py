"""A rendered conversation: pieces of text, special tokens and places for media.

Text is never searched for special tokens or placeholders: what a user types is text, and only a
template puts specials and media where they belong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from video_llama.processing.conversation import PartKind

SpecialKind = Literal["start", "bos", "eos"]
SPECIAL_TEXT = {"start": "", "bos": "<s>", "eos": "</s>"}  # how they are shown to people
MEDIA_TEXT = {"image": "<image>", "video": "<video>", "audio": "<audio>"}


@dataclass(frozen=True)
class Text:
    """A piece of text that is tokenised on its own.

    `supervised` are the character ranges [start, end) a model is trained to write: answers and
    the mark that ends them.
    """

    text: str
    supervised: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Special:
    """One special token. "start" is whatever the tokenizer puts before a text, if anything."""

    kind: SpecialKind
    supervised: bool = False


@dataclass(frozen=True)
class Media:
    """The place of a medium: a run of placeholders.

    `part` is the number of the media part in the conversation, from 0; the picture and the sound
    of one video have the same.
    """

    kind: PartKind
    part: int


Segment = Text | Special | Media


class SegmentWriter:
    """Collects segments; neighbouring texts grow together unless `cut` is called between them."""

    def __init__(self) -> None:
        self.segments: list[Segment] = [Special("start")]
        self._text = ""
        self._supervised: list[tuple[int, int]] = []

    def text(self, text: str, *, supervised: bool = False) -> None:
        """Add text."""
        if supervised and text:
            self._supervised.append((len(self._text), len(self._text) + len(text)))
        self._text += text

    def special(self, kind: SpecialKind, *, supervised: bool = False) -> None:
        """Add a special token."""
        self.cut()
        self.segments.append(Special(kind, supervised))

    def media(self, kind: PartKind, part: int) -> None:
        """Add the place of a medium."""
        self.cut()
        self.segments.append(Media(kind, part))

    def cut(self) -> None:
        """End the piece of text: what follows is tokenised on its own."""
        if self._text:
            self.segments.append(Text(self._text, tuple(self._supervised)))
        self._text, self._supervised = "", []

    def finish(self) -> list[Segment]:
        """All segments."""
        self.cut()
        return self.segments


def segments_to_text(segments: Sequence[Segment]) -> str:
    """The prompt for people to read; media stand as `<image>`, `<video>` and `<audio>`."""
    pieces = []
    for segment in segments:
        match segment:
            case Text(text=text):
                pieces.append(text)
            case Special(kind=kind):
                pieces.append(SPECIAL_TEXT[kind])
            case Media(kind=kind):
                pieces.append(MEDIA_TEXT[kind])
    return "".join(pieces)
