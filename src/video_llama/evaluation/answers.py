"""Many questions to a model at once: left-padded prompts, one call, the same answers as alone.

Legend: B questions, L tokens of the longest prompt, D width of the language model, N new tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from video_llama.attachment import Attachment
from video_llama.chat import VideoLlama
from video_llama.evaluation.task import Question
from video_llama.generation import AnswerText, IdsToText
from video_llama.processing.tokens import check_fits, pad_token_id
from video_llama.prompt import Turn, write_prompt
from video_llama.reply import PLAIN_DECODING


@dataclass(frozen=True)
class PreparedQuestion:
    """A question whose prompt fits: its embeddings (L, D)."""

    question: Question
    embeddings: torch.Tensor


def prepare(
    question: Question,
    attachment: Attachment,
    assistant: VideoLlama,
    *,
    instruction: str,
    max_new_tokens: int,
) -> PreparedQuestion:
    """Write the prompt of a question; the medium goes with the first one of the conversation.

    Raises:
        PromptTooLongError: prompt and answer do not fit in the model's context.
    """
    text = f"{question.text} {instruction}" if instruction else question.text
    asked = [*question.before, (text, "")]
    turns = [
        Turn(words, () if number else (0,), answer) for number, (words, answer) in enumerate(asked)
    ]
    prompt = write_prompt(turns, None, [attachment], assistant.processor)
    if assistant.context is not None:
        check_fits(len(prompt.keys), max_new_tokens, assistant.context)
    return PreparedQuestion(question, prompt.embed(assistant.model, [attachment])[0])


@torch.inference_mode()
def answer_together(
    prepared: Sequence[PreparedQuestion], assistant: VideoLlama, max_new_tokens: int
) -> list[str]:
    """The likeliest answer to each question, cleaned as a chat cleans it."""
    if not prepared:
        return []
    embeddings, mask = _pad_left([one.embeddings for one in prepared])
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        # Whatever the model's own file of generation settings asks for beyond these is not meant.
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        eos_token_id=sorted(assistant.stop_ids) or None,
        pad_token_id=pad_token_id(assistant.processor.tokenizer),
    )
    new_ids = assistant.model.generate(  # (B, N)
        inputs_embeds=embeddings,
        attention_mask=mask,
        generation_config=settings,
        stopping_criteria=StoppingCriteriaList([StopTexts(assistant)]),
    )
    return [answer_text(row, assistant) for row in new_ids.tolist()]


def answer_text(ids: Sequence[int], assistant: VideoLlama) -> str:
    """The text of generated ids, up to the first mark that ends an answer."""
    template = assistant.processor.prompt_template
    to_text = IdsToText(partial(assistant.processor.tokenizer.decode, **PLAIN_DECODING))
    clean = AnswerText(
        template.stop_strings, [template.answer_prefix] if template.answer_prefix else []
    )
    pieces: list[str] = []
    for token in ids:
        if token in assistant.stop_ids or clean.stopped:
            break
        pieces.append(clean.add(to_text.add(token)))
    rest = clean.add(to_text.finish()) + clean.finish()
    return "".join(pieces) + rest


class StopTexts(StoppingCriteria):
    """Ends the rows whose text holds a stop text of the template; texts can span tokens."""

    def __init__(self, assistant: VideoLlama) -> None:
        self.stops = assistant.processor.prompt_template.stop_strings
        self.decode = partial(assistant.processor.tokenizer.batch_decode, **PLAIN_DECODING)
        # A token has at least a byte, but for the marks that some tokenizers put between words.
        self.tail = 2 + 2 * max((len(stop.encode()) for stop in self.stops), default=0)

    def __call__(
        self,
        input_ids: torch.Tensor,
        scores: torch.Tensor | None,  # noqa: ARG002 - as transformers calls it
        **kwargs: Any,  # noqa: ARG002
    ) -> torch.Tensor:
        """New ids so far (B, N) -> which rows are at their end (B)."""
        texts = self.decode(input_ids[:, -self.tail :]) if self.stops else [""] * len(input_ids)
        ended = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def _pad_left(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (L, D) of B prompts as (B, L, D), and their mask (B, L)."""
    longest = max(len(row) for row in rows)
    embeddings = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=rows[0].device)
    for number, row in enumerate(rows):
        embeddings[number, longest - len(row) :] = row
        mask[number, longest - len(row) :] = 1
    return embeddings, mask
