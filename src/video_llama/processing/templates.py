"""The prompt templates by name."""

from collections.abc import Sequence

from video_llama.errors import OptionError
from video_llama.processing.prompt_template import Layout, PromptTemplate, Turn
from video_llama.processing.published_templates import Llama2Template, VicunaTemplate
from video_llama.processing.segments import SegmentWriter


class PlainTemplate(PromptTemplate):
    r"""For small models of one's own: `{sound}{frames}Q: QUESTION\nA: ANSWER</s>`.

    Media stand before their question, sounds first, without tags or times; an absent one leaves
    nothing. Every turn after the first begins on a new line. A system text, if given, is the first
    line. Answers are tokenised apart from questions, so that the ids a model is trained on are the
    ids it generates, and the ids of a conversation begin with those of its earlier turns.
    """

    name = "plain"
    stop_strings = ("\nQ:",)

    def default_system(
        self,
        first: Turn,  # noqa: ARG002
        layout: Layout,  # noqa: ARG002
        has_audio_branch: bool,  # noqa: ARG002
    ) -> str:
        """None."""
        return ""

    def write(
        self,
        writer: SegmentWriter,
        system: str,
        turns: Sequence[Turn],
        layout: Layout,  # noqa: ARG002 - one layout for chat and training
        add_generation_prompt: bool,
    ) -> None:
        """Write a whole conversation."""
        if system:
            writer.text(system + "\n")
        for number, turn in enumerate(turns):
            if number:
                writer.text("\n")
            question = turn.joined()
            for part_number in question.heard:
                writer.media("audio", part_number)
            for part_number, part in question.seen:
                writer.media(part.kind, part_number)
            writer.text(f"Q: {question.text}")
            if turn.answer is not None or add_generation_prompt:
                writer.text("\nA:")
            writer.cut()
            if turn.answer is not None:
                writer.text(f" {turn.answer}" if turn.answer else "", supervised=True)
                writer.special("eos", supervised=True)


TEMPLATES: dict[str, PromptTemplate] = {
    template.name: template for template in (VicunaTemplate(), Llama2Template(), PlainTemplate())
}


def get_template(name: str) -> PromptTemplate:
    """The template of this name.

    Raises:
        OptionError: there is none.
    """
    if name not in TEMPLATES:
        raise OptionError(f"no prompt template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]
