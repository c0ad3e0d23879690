r"""The templates of the published models, byte for byte: `vicuna` and `llama_2`.

Each has two layouts: that of the published chat, and the slightly different one of its instruction
tuning. What the published system has:

    picture, chat         <Image>I</Image>  QUESTION
    video, chat           <Video>V</Video> The video contains ... seconds.  QUESTION
    video with sound      Close your eyes, ... that: A. ... you see that <Video>V</Video>. ...
    picture, training     where it stands in the text: <Image>I</Image>\nQUESTION
    video, training       <Video>V</Video> The video contains ... seconds. QUESTION

What it does not have, written here in its manner:

    only sounds           Close your eyes, ... the sound that: A. Now answer my question based on
                          what you have just heard. QUESTION
    several media         sounds first, then pictures and videos, each in the order given: with a
                          sound in the wording of "video with sound", else one after the other
    media in later turns  as in the first turn
    sound in training     as in chat
    picture in training   a line break where the text beside it has no white space

Questions in a row: `vicuna` joins a text to the media uploaded before it and opens a new turn
otherwise, as published. The published `llama_2` takes the second of two uploads for the model's
answer; here they are joined.
"""

from collections.abc import Sequence

from video_llama.media.sampling import timestamp_text
from video_llama.processing.conversation import MediaPart
from video_llama.processing.prompt_template import Layout, PromptTemplate, Question, Turn
from video_llama.processing.segments import SegmentWriter

SYSTEM_TEXT = (
    "You are able to understand the visual content that the user provides. "
    "Follow the instructions carefully and explain your answers in detail."
)
TRAINING_SYSTEM_LLAMA_2 = " "
# The long runs of spaces belong to the published wording: its source broke lines inside strings.
HEAR = "Close your eyes, open your ears and you imagine only based on the sound that: "
SEE = "." + " " * 17 + "Close your ears, open your eyes and you see that "
ANSWER_BOTH = "." + " " * 18 + "Now answer my question based on what you have just seen and heard."
ANSWER_HEARD = ". Now answer my question based on what you have just heard."


class VicunaTemplate(PromptTemplate):
    """`###Human: QUESTION###Assistant: ANSWER###`; training ends each turn with a line break."""

    name = "vicuna"
    stop_strings = ("###",)
    ends_with_eos = False
    answer_prefix = "Assistant:"

    def default_system(self, first: Turn, layout: Layout, has_audio_branch: bool) -> str:
        """That of the published demos; none in training."""
        return _chat_system(first, has_audio_branch) if layout == "chat" else ""

    def write(
        self,
        writer: SegmentWriter,
        system: str,
        turns: Sequence[Turn],
        layout: Layout,
        add_generation_prompt: bool,
    ) -> None:
        """Write a whole conversation."""
        end = "###" if layout == "chat" else "\n###"
        writer.text(system + ("" if layout == "chat" else "\n\n") + "###")
        for turn in turns:
            for question in _join_uploads(turn):
                writer.text("Human: ")
                _write_question(writer, question, layout)
                writer.text(end)
            if turn.answer is not None or add_generation_prompt:
                writer.text("Assistant:")
            # The published chat leaves out the end mark of an empty answer.
            if turn.answer or (turn.answer is not None and layout == "training"):
                writer.text(f" {turn.answer}{end}", supervised=True)


class Llama2Template(PromptTemplate):
    """`[INST] <<SYS>>...<</SYS>> QUESTION [/INST] ANSWER </s><s>[INST] ...`."""

    name = "llama_2"
    stop_strings = ("</s>",)
    answer_prefix = "ASSISTANT:"

    def default_system(self, first: Turn, layout: Layout, has_audio_branch: bool) -> str:
        """That of the published demos; a single space in training."""
        return (
            _chat_system(first, has_audio_branch) if layout == "chat" else TRAINING_SYSTEM_LLAMA_2
        )

    def write(
        self,
        writer: SegmentWriter,
        system: str,
        turns: Sequence[Turn],
        layout: Layout,
        add_generation_prompt: bool,  # noqa: ARG002 - "[/INST]" ends a question and opens an answer
    ) -> None:
        """Write a whole conversation."""
        for number, turn in enumerate(turns):
            if number:
                writer.special("bos")
            writer.text("[INST] ")
            if number == 0:
                writer.text(f"<<SYS>>\n{system}\n<</SYS>>\n\n")
            _write_question(writer, turn.joined(), layout)
            writer.text(" [/INST]")
            if turn.answer:
                writer.text(f" {turn.answer} ", supervised=True)
                writer.special("eos", supervised=True)


def _chat_system(first: Turn, has_audio_branch: bool) -> str:
    """Which published demo has a system text: pictures in both, videos in the one without sound."""
    kinds = {part.kind for question in first.questions for part in question.message.media}
    if "image" in kinds or ("video" in kinds and not has_audio_branch):
        return SYSTEM_TEXT
    return ""


def _join_uploads(turn: Turn) -> list[Question]:
    """Texts join the media before them; other questions in a row stay apart."""
    questions: list[Question] = []
    for question in turn.questions:
        if questions and questions[-1].message.media and not question.message.media:
            upload = Turn((questions[-1], question), None)
            questions[-1] = upload.joined()
        else:
            questions.append(question)
    return questions


def _write_question(writer: SegmentWriter, question: Question, layout: Layout) -> None:
    if question.heard:
        _write_sounds(writer, question)
    elif layout == "chat":
        _write_uploads(writer, question)
    else:
        _write_in_place(writer, question)


def _write_sounds(writer: SegmentWriter, question: Question) -> None:
    """A question about sounds, and pictures if there are any."""
    writer.text(HEAR)
    for number in question.heard:
        writer.media("audio", number)
    if question.seen:
        writer.text(SEE)
        for number, part in question.seen:
            _write_tagged(writer, number, part)
    writer.text(ANSWER_BOTH if question.seen else ANSWER_HEARD)
    if question.text:
        writer.text(" " + question.text)


def _write_uploads(writer: SegmentWriter, question: Question) -> None:
    """A question about pictures and videos, which stand before it."""
    for number, part in question.seen:
        _write_tagged(writer, number, part)
        writer.text(" " + _times(part))
    if question.text:
        writer.text(" " + question.text if question.seen else question.text)


def _write_in_place(writer: SegmentWriter, question: Question) -> None:
    """A question whose pictures and videos stand where they were put in the text."""
    number = question.first_part
    before: str | MediaPart | None = None
    for part in question.message.parts:
        if isinstance(part, str):
            if isinstance(before, MediaPart) and before.kind == "image" and not part[0].isspace():
                writer.text("\n")
            writer.text(part)
        else:
            if _needs_break(before):
                writer.text("\n")
            _write_tagged(writer, number, part)
            if part.kind == "video":
                writer.text(" " + _times(part))
            number += 1
        before = part


def _needs_break(before: str | MediaPart | None) -> bool:
    """Whether a picture or video needs a line break after what stands before it."""
    if isinstance(before, str):
        return not before[-1].isspace()
    return before is not None and before.kind == "image"


def _write_tagged(writer: SegmentWriter, number: int, part: MediaPart) -> None:
    tag = part.kind.capitalize()
    writer.text(f"<{tag}>")
    writer.media(part.kind, number)
    writer.text(f"</{tag}>")


def _times(part: MediaPart) -> str:
    return timestamp_text(part.times) if part.kind == "video" and part.times else ""
