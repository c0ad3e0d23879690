"""What requests and responses look like: OpenAI's chat completions, with vLLM's media parts.

A field that is not here is refused by name: a client that sends one expects it to do something. So
is a value that would do nothing; a few fields are accepted with the one value that means "off",
because clients send them unasked.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

MAX_MESSAGES = 256
MAX_TEXT = 1_000_000  # characters of one text
MAX_FRAMES = 128
MAX_CHOICES = 16
MAX_STOPS = 16
MAX_UUID = 128  # characters; it is a client's own mark and decides nothing here


class Strict(BaseModel):
    """A part of a request: nothing unknown, no numbers that are none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


Text = Annotated[str, Field(max_length=MAX_TEXT)]
Uuid = Annotated[str | None, Field(max_length=MAX_UUID)]
# The content of a medium may be long; the size of a body bounds it.
Place = Annotated[str, Field(min_length=1)]


class TextPart(Strict):
    """A text."""

    type: Literal["text"]
    text: Text


class ImageAddress(Strict):
    """Where a picture is. `detail` is accepted: every picture is seen in the model's own size."""

    url: Place
    detail: Literal["auto", "low", "high"] | None = None


class Address(Strict):
    """Where a medium is: a data: URL, an address of an allowed host, the id of a file."""

    url: Place


class Sound(Strict):
    """A sound in base64."""

    data: Place
    format: Literal["wav", "mp3", "flac", "ogg", "opus", "m4a", "aac", "webm", "mp4"]


class UploadedFile(Strict):
    """A file that was uploaded, or a data: URL."""

    file_id: Annotated[str | None, Field(max_length=64)] = None
    file_data: Place | None = None
    filename: Annotated[str | None, Field(max_length=255)] = None


class ImagePart(Strict):
    """A picture: it is looked at."""

    type: Literal["image_url"]
    image_url: ImageAddress
    uuid: Uuid = None


class VideoPart(Strict):
    """A video: it is looked at and, unless told otherwise, listened to."""

    type: Literal["video_url"]
    video_url: Address
    uuid: Uuid = None


class AudioPart(Strict):
    """A sound: it is listened to."""

    type: Literal["audio_url"]
    audio_url: Address
    uuid: Uuid = None


class InputAudioPart(Strict):
    """A sound in the request itself."""

    type: Literal["input_audio"]
    input_audio: Sound
    uuid: Uuid = None


class FilePart(Strict):
    """An uploaded file: its content decides what it is."""

    type: Literal["file"]
    file: UploadedFile
    uuid: Uuid = None


MediaPart = ImagePart | VideoPart | AudioPart | InputAudioPart | FilePart
UserPart = Annotated[TextPart | MediaPart, Field(discriminator="type")]


def _form(value: Any) -> str:
    return "text" if isinstance(value, str) else "parts"


UserContent = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[UserPart], Field(max_length=64), Tag("parts")],
    Discriminator(_form),
]
TextContent = Annotated[
    Annotated[Text, Tag("text")] | Annotated[list[TextPart], Field(max_length=64), Tag("parts")],
    Discriminator(_form),
]
Name = Annotated[str | None, Field(max_length=64)]


class SystemMessage(Strict):
    """What precedes the conversation."""

    role: Literal["system", "developer"]
    content: TextContent
    name: Name = None


class UserMessage(Strict):
    """A question, and what it is about."""

    role: Literal["user"]
    content: UserContent
    name: Name = None


class AssistantMessage(Strict):
    """An answer that was given before, as clients keep it: what none has here may be null."""

    role: Literal["assistant"]
    content: TextContent
    name: Name = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(Strict):
    """`include_usage`: the last chunk tells the tokens."""

    include_usage: bool = False


class ProcessorOptions(Strict):
    """`use_audio_in_video`: whether videos are listened to."""

    use_audio_in_video: bool = True


class VideoReading(Strict):
    """How many frames of a video are looked at; with `fps`, `num_frames` is the most."""

    num_frames: Annotated[int | None, Field(ge=1, le=MAX_FRAMES)] = None
    fps: Annotated[float | None, Field(gt=0, le=120)] = None


class MediaReading(Strict):
    """How media are read."""

    video: VideoReading = VideoReading()


class TextFormat(Strict):
    """The one form of answers there is."""

    type: Literal["text"]


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class ChatRequest(Strict):
    """The body of POST /v1/chat/completions."""

    @model_validator(mode="before")
    @classmethod
    def _asks_for_nothing(cls, given: Any) -> Any:
        """Some clients write every field out, null where nothing is asked for."""
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if value is not None or name in cls.model_fields
        }

    model: Annotated[str, Field(max_length=512)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=1_000_000)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1, le=1_000_000)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int | None, Field(ge=1, le=MAX_CHOICES)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    mm_processor_kwargs: ProcessorOptions | None = None
    media_io_kwargs: MediaReading | None = None
    response_format: TextFormat | None = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    user: Annotated[str | None, Field(max_length=512)] = None
    store: Literal[False] | None = None


# Responses


class TopLogprob(BaseModel):
    """A token and the logarithm of its probability.

    `bytes` are those of its text; null for a token that is only a part of a character.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(TopLogprob):
    """A token of the answer, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    """Of the tokens of an answer, or of a chunk of one."""

    content: list[TokenLogprobs]


class Answer(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: Answer
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class CachedTokens(BaseModel):
    """Tokens of the prompt that were kept from an earlier request."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens; those of all answers together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class ChatCompletion(BaseModel):
    """The body of a response; `warnings` tell what of the media was not used."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    warnings: list[str]


class Delta(BaseModel):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of one of the answers."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    """One event of a stream. The first of an answer has `warnings`, if there are any."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    warnings: list[str] | None = None


class Model(BaseModel):
    """A model that answers here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "video-llama"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class FileObject(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    """Files of whoever asks, and whether there are more after them."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    has_more: bool = False


class FileDeleted(BaseModel):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class ErrorFields(BaseModel):
    """What went wrong: words for a person, `code` for a program, `param` the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error, whatever its status."""

    error: ErrorFields


class State(BaseModel):
    """Whether the server lives, or is ready."""

    status: str


class Version(BaseModel):
    """Which software answers."""

    version: str
