"""The messages of a request as questions with media."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from video_llama.prompt import Turn
from video_llama.server.gate import Kind
from video_llama.server.protocol import (
    AssistantMessage,
    AudioPart,
    FilePart,
    ImagePart,
    InputAudioPart,
    MediaPart,
    Message,
    SystemMessage,
    TextPart,
    UserMessage,
    VideoPart,
)
from video_llama.server.refusal import Refusal


@dataclass(frozen=True)
class MediaRef:
    """A medium that a message names.

    Attributes:
        kind: of the part that names it.
        place: what the gate is asked to open.
        param: the field it stands in, for messages.
    """

    kind: Kind
    place: str
    param: str


@dataclass(frozen=True)
class Conversation:
    """A request's messages; `turns` name media by their number in `media`, the last one asks."""

    system: str | None
    turns: tuple[Turn, ...]
    media: tuple[MediaRef, ...]


def read_messages(messages: Sequence[Message]) -> Conversation:
    """Questions, answers and media of a conversation.

    Questions in a row are one. In a question media come before the text, as the model has learnt
    it, wherever a message puts them.

    Raises:
        Refusal: 400, an order of messages that is no conversation, or nothing asked.
    """
    system: str | None = None
    turns: list[Turn] = []
    media: list[MediaRef] = []
    for number, message in enumerate(messages):
        if isinstance(message, SystemMessage):
            if number:
                raise _bad(number, "only the first message may be a system message")
            system = _text(message.content) or None
        elif isinstance(message, AssistantMessage):
            if not turns or isinstance(messages[number - 1], AssistantMessage):
                raise _bad(number, "an answer follows a question of the user")
            turns[-1] = Turn(turns[-1].question, turns[-1].media, _text(message.content))
        else:
            found = list(_media(message, number))
            own = tuple(range(len(media), len(media) + len(found)))
            media += found
            turn = Turn(_text(message.content), own)
            if number and isinstance(messages[number - 1], UserMessage):
                turn = _join(turns.pop(), turn)
            turns.append(turn)
    last = len(messages) - 1
    if not isinstance(messages[-1], UserMessage):
        raise _bad(last, "the last message is the user's question")
    if not all(turn.question.strip() for turn in turns):
        raise _bad(last, "a question has no text; ask something about the media")
    return Conversation(system, tuple(turns), tuple(media))


def _bad(number: int, words: str) -> Refusal:
    return Refusal(400, words, code="invalid_messages", param=f"messages.{number}")


def _join(first: Turn, second: Turn) -> Turn:
    texts = [turn.question for turn in (first, second) if turn.question]
    return Turn(" ".join(texts), first.media + second.media)


def _text(content: "str | Sequence[TextPart | MediaPart]") -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.text for part in content if isinstance(part, TextPart))


def _media(message: UserMessage, number: int) -> Iterator[MediaRef]:
    if isinstance(message.content, str):
        return
    for place, part in enumerate(message.content):
        if not isinstance(part, TextPart):
            yield _reference(part, f"messages.{number}.content.{place}")


def _reference(part: MediaPart, param: str) -> MediaRef:
    match part:
        case ImagePart():
            return MediaRef("image", part.image_url.url, param)
        case VideoPart():
            return MediaRef("video", part.video_url.url, param)
        case AudioPart():
            return MediaRef("audio", part.audio_url.url, param)
        case InputAudioPart():
            sound = part.input_audio
            return MediaRef("audio", f"data:audio/{sound.format};base64,{sound.data}", param)
        case FilePart():
            places = [one for one in (part.file.file_id, part.file.file_data) if one is not None]
            if len(places) != 1:
                words = "a file part gives either file_id or file_data"
                raise Refusal(400, words, code="invalid_value", param=param)
            return MediaRef("file", places[0], param)
