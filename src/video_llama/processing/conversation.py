"""What was said, and about which media: the form every template renders.

A conversation is given as a list of `{"role": ..., "content": ...}` with the roles "system", "user"
and "assistant". The content is a text or a list of parts:

    {"type": "text", "text": "What do you hear?"}
    {"type": "video", "video": "clip.mp4"}                 also "image" and "audio"

The source of a medium stands under its type, "url" or "path"; it may be left out when clips or
features are handed over separately. A video part may say `"sound": False` (leave its sound unused)
or, without a source, `"sound": True` and `"times": [0.0, 1.2, ...]` (seconds of its frames).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from video_llama.errors import PromptError

Role = Literal["system", "user", "assistant"]
PartKind = Literal["image", "video", "audio"]

ROLES = ("system", "user", "assistant")
PART_KINDS = ("image", "video", "audio")


@dataclass(frozen=True)
class MediaPart:
    """A picture, video or sound in a message.

    Attributes:
        kind: what is looked at or listened to.
        sound: of a video: its sound is listened to as well. None: whatever the medium has.
        times: of a video: seconds of its frames; None where nobody knows.
        source: where the medium comes from; None when it is handed over separately.
    """

    kind: PartKind
    sound: bool | None = None
    times: tuple[float, ...] | None = None
    source: Any = None

    @property
    def is_heard(self) -> bool:
        """Whether a sound of it goes into the prompt."""
        return self.kind == "audio" or (self.kind == "video" and bool(self.sound))

    @property
    def is_seen(self) -> bool:
        """Whether frames of it go into the prompt."""
        return self.kind != "audio"


@dataclass(frozen=True)
class Message:
    """One turn; neighbouring texts are already joined."""

    role: Role
    parts: tuple[str | MediaPart, ...]

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """The media of this message, in order."""
        return tuple(part for part in self.parts if isinstance(part, MediaPart))

    @property
    def text(self) -> str:
        """The texts of this message, joined by a space."""
        return " ".join(part for part in self.parts if isinstance(part, str))


def parse_conversation(conversation: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Read and check a conversation.

    Raises:
        PromptError: an unknown role or part, an empty question, media outside the user's messages,
            a system message that is not the first, or an answer without a question.
    """
    messages = [_parse_message(number, raw) for number, raw in enumerate(conversation, start=1)]
    if not any(message.role == "user" for message in messages):
        raise PromptError("the conversation has no message of the user; add what is asked")
    previous = "system"
    for number, message in enumerate(messages, start=1):
        if message.role == "system" and number > 1:
            raise PromptError(f"message {number} is a system message; only the first may be one")
        if message.role == "assistant" and previous != "user":
            raise PromptError(f"message {number} is an answer, but no question precedes it")
        if message.role == "user" and not message.parts:
            raise PromptError(f"message {number} is empty; ask something or give a medium")
        if message.role != "user" and message.media:
            raise PromptError(f"message {number} holds media; only the user's messages may")
        previous = message.role
    return messages


def _parse_message(number: int, raw: Mapping[str, Any]) -> Message:
    if not isinstance(raw, Mapping) or "role" not in raw or "content" not in raw:
        raise PromptError(f"message {number} must be a mapping with 'role' and 'content'")
    role, content = raw["role"], raw["content"]
    if role not in ROLES:
        raise PromptError(f"message {number} has the role {role!r}; roles are {', '.join(ROLES)}")
    if isinstance(content, str):
        return Message(role, (content,) if content else ())
    if not isinstance(content, Sequence):
        raise PromptError(f"the content of message {number} must be a text or a list of parts")
    return Message(role, _join_texts([_parse_part(number, part) for part in content]))


def _parse_part(number: int, part: Any) -> str | MediaPart:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind not in PART_KINDS:
        raise PromptError(
            f"message {number} has a part of type {kind!r}; give "
            '{"type": "text", "text": ...} or a type of image, video or audio'
        )
    times = part.get("times")
    source = next((part[key] for key in (kind, "url", "path") if part.get(key) is not None), None)
    return MediaPart(
        kind=kind,
        sound=part.get("sound"),
        times=None if times is None else tuple(float(time) for time in times),
        source=source,
    )


def _join_texts(parts: Sequence[str | MediaPart]) -> tuple[str | MediaPart, ...]:
    joined: list[str | MediaPart] = []
    for part in parts:
        if part == "":
            continue
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] = f"{joined[-1]} {part}"
        else:
            joined.append(part)
    return tuple(joined)


def join_messages(first: Message, second: Message) -> Message:
    """Two messages of one role as one."""
    return Message(first.role, _join_texts(first.parts + second.parts))
