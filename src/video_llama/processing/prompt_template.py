"""What all prompt templates have in common: turns, stop marks, clean-up of answers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from transformers import PreTrainedTokenizerBase

from video_llama.errors import OptionError, PromptError
from video_llama.processing.conversation import MediaPart, Message, join_messages
from video_llama.processing.segments import Segment, SegmentWriter

Layout = Literal["chat", "training"]


@dataclass(frozen=True)
class Question:
    """A message of the user; `first_part` is the number of its first medium in the conversation."""

    message: Message
    first_part: int

    @property
    def text(self) -> str:
        """Its texts, joined."""
        return self.message.text

    @property
    def heard(self) -> list[int]:
        """Numbers of the media whose sound is listened to."""
        return [number for number, part in self.numbered_media() if part.is_heard]

    @property
    def seen(self) -> list[tuple[int, MediaPart]]:
        """Media that are looked at, with their numbers."""
        return [(number, part) for number, part in self.numbered_media() if part.is_seen]

    def numbered_media(self) -> list[tuple[int, MediaPart]]:
        """All media with their numbers."""
        return list(enumerate(self.message.media, start=self.first_part))


@dataclass(frozen=True)
class Turn:
    """Questions in a row and their answer, None where it is still to be given."""

    questions: tuple[Question, ...]
    answer: str | None

    def joined(self) -> Question:
        """The questions as one."""
        first, *rest = self.questions
        for question in rest:
            first = Question(join_messages(first.message, question.message), first.first_part)
        return first


class PromptTemplate(ABC):
    """How a conversation is written for a language model.

    Attributes:
        name: the key in `templates.TEMPLATES`.
        stop_strings: an answer ends before any of them.
        ends_with_eos: the end mark of an answer is the EOS token, not a stop string.
        answer_prefix: a mark the model may repeat before its answer, "" if none.
    """

    name: str
    stop_strings: tuple[str, ...] = ()
    ends_with_eos: bool = True
    answer_prefix: str = ""

    def render(
        self,
        messages: Sequence[Message],
        *,
        layout: Layout = "chat",
        add_generation_prompt: bool = False,
        has_audio_branch: bool = True,
    ) -> list[Segment]:
        """A conversation as segments.

        Args:
            messages: as `parse_conversation` gives them, facts of the media filled in.
            layout: that of the published chat, or that of its instruction tuning.
            add_generation_prompt: end with the opening of an answer.
            has_audio_branch: of the model; the published vision-only system has a system text for
                videos, the audio-visual one has none.

        Raises:
            PromptError: a generation prompt is wanted after an answer.
        """
        if add_generation_prompt and messages[-1].role != "user":
            raise PromptError(
                "the conversation ends with an answer, so there is nothing to answer; "
                "end with a message of the user or set add_generation_prompt=False"
            )
        turns = split_turns(messages)
        system = messages[0].text if messages[0].role == "system" else None
        if system is None:
            system = self.default_system(turns[0], layout, has_audio_branch)
        writer = SegmentWriter()
        self.write(writer, system, turns, layout, add_generation_prompt)
        return writer.finish()

    @abstractmethod
    def default_system(self, first: Turn, layout: Layout, has_audio_branch: bool) -> str:
        """The system text of a conversation that gives none; `first` is its first turn."""

    @abstractmethod
    def write(
        self,
        writer: SegmentWriter,
        system: str,
        turns: Sequence[Turn],
        layout: Layout,
        add_generation_prompt: bool,
    ) -> None:
        """Write a whole conversation."""

    def stop_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Token sequences that end an answer.

        With LLaMA's vocabulary "###" gives [835] and [2277, 29937]: on its own and after a line
        break. A stop string can also hide inside a longer token (".###"): compare the decoded text
        with `stop_strings` as well.

        Raises:
            OptionError: answers end with EOS, and the tokenizer has none.
        """
        if self.ends_with_eos:
            if tokenizer.eos_token_id is None:
                raise OptionError(
                    f"the template {self.name!r} ends answers with the EOS token, "
                    "which this tokenizer lacks; choose another template"
                )
            return [[tokenizer.eos_token_id]]
        found: list[list[int]] = []
        for stop in self.stop_strings:
            line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
            after_break = tokenizer("\n" + stop, add_special_tokens=False)["input_ids"]
            found.append(tokenizer(stop, add_special_tokens=False)["input_ids"])
            if after_break[: len(line_break)] == line_break:
                found.append(after_break[len(line_break) :])
        return found

    def decode_answer(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
        """The answer in generated ids, without what belongs to the template.

        As in the published system one leading unknown token and then one leading BOS are dropped;
        the answer ends before the first stop mark and begins after the last answer prefix.
        """
        kept = list(ids)
        for token in (tokenizer.unk_token_id, tokenizer.bos_token_id):
            if token is not None and kept[:1] == [token]:
                kept = kept[1:]
        if tokenizer.eos_token_id in kept:
            kept = kept[: kept.index(tokenizer.eos_token_id)]
        text = tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        return self.clean_answer(cast("str", text))  # a list only for a batch

    def clean_answer(self, text: str) -> str:
        """The answer in decoded text."""
        for stop in self.stop_strings:
            text = text.split(stop)[0]
        if self.answer_prefix:
            text = text.split(self.answer_prefix)[-1]
        return text.strip()


def split_turns(messages: Sequence[Message]) -> list[Turn]:
    """The questions and answers of a conversation, its media numbered from 0."""
    turns: list[Turn] = []
    questions: list[Question] = []
    number = 0
    for message in messages:
        if message.role == "user":
            questions.append(Question(message, number))
            number += len(message.media)
        elif message.role == "assistant":
            turns.append(Turn(tuple(questions), message.text))
            questions = []
    if questions:
        turns.append(Turn(tuple(questions), None))
    return turns
