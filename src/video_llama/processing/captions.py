"""Captions as training text: how raw ones are cleaned, and the layouts of the two stages.

Layouts, each piece tokenised on its own:

    stage 1   [start] MEDIA [caption + line break]
    stage 2   [start] [prompt before] MEDIA [prompt after] [caption + end mark]
"""

import re

from video_llama.errors import OptionError
from video_llama.processing.conversation import PartKind
from video_llama.processing.segments import Segment, SegmentWriter

MAX_CAPTION_WORDS = 50
STAGE1_MAX_TOKENS = 32  # the text of a stage-1 sample, its media not counted
STAGE1_END = "\n"

# The stage-2 prompt, and the text that ends a caption (None: the EOS token).
CAPTION_PROMPTS: dict[str, tuple[str, str | None]] = {
    "vicuna": ("###Human: {} ###Assistant: ", "###"),
    "llama_2": ("[INST] <<SYS>>\n \n<</SYS>>\n\n{} [/INST] ", None),
}


def clean_caption(caption: str, max_words: int = MAX_CAPTION_WORDS) -> str:
    """Lower case, without most punctuation, at most `max_words` words (BLIP's caption rule)."""
    caption = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    caption = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:max_words])


def caption_segments(caption: str, kind: PartKind) -> list[Segment]:
    """A stage-1 sample: a medium, its caption and a line break; only the text is supervised."""
    writer = SegmentWriter()
    writer.media(kind, 0)
    writer.text(caption + STAGE1_END, supervised=True)
    return writer.finish()


def prompted_caption_segments(
    caption: str, kind: PartKind, template: str, instruction: str | None = None
) -> list[Segment]:
    """A stage-2 sample: an instruction about a medium, and its caption, which alone is supervised.

    Args:
        caption: the text to write.
        kind: of the medium.
        template: "vicuna" or "llama_2"; others train on conversations only.
        instruction: by default "Describe this image in detail.", or video, or audio.

    Raises:
        OptionError: the template has no such layout.
    """
    if template not in CAPTION_PROMPTS:
        raise OptionError(
            f"the template {template!r} has no caption prompt; there are "
            f"{', '.join(CAPTION_PROMPTS)}, others take a conversation"
        )
    prompt, end = CAPTION_PROMPTS[template]
    before, after = prompt.split("{}")
    tag = kind.capitalize()
    writer = SegmentWriter()
    writer.text(f"{before}<{tag}>")
    writer.media(kind, 0)
    writer.text(f"</{tag}> {instruction or f'Describe this {kind} in detail.'}{after}")
    writer.cut()
    writer.text(caption + (end or ""), supervised=True)
    if end is None:
        writer.special("eos", supervised=True)
    return writer.finish()
