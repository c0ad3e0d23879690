"""Many questions at once are answered as each would be alone, and as a chat answers."""

import pytest
import torch

from video_llama.attachment import MediaOptions, encode
from video_llama.chat import VideoLlama
from video_llama.errors import PromptTooLongError
from video_llama.evaluation.answers import StopTexts, answer_text, answer_together, prepare
from video_llama.evaluation.media import read_medium
from video_llama.evaluation.task import Medium, Question
from video_llama.generation import GenerationOptions
from video_llama.prompt import Turn

NEW_TOKENS = 12
NAMES = ("one.mkv", "two.mkv", "three.mkv", "sound.wav", "picture.png")
TEXTS = ("What?", "What do you see, and what do you hear in all of this?", "Why is it so?")


def ready(assistant, films, name, text, **changes):
    medium = Medium(films / name)
    attachment = encode(read_medium(medium, assistant.processor, MediaOptions()), assistant.model)
    question = Question("q", medium, text, ("x",), **changes)
    return prepare(question, attachment, assistant, instruction="", max_new_tokens=NEW_TOKENS)


@pytest.mark.parametrize("template", ["plain", "vicuna", "llama_2"])
def test_together_alone_and_in_a_chat(tmp_path, films, save_tiny_model, template):
    assistant = VideoLlama.load(save_tiny_model(tmp_path / template, template=template))
    asked = [(name, text) for name in NAMES for text in TEXTS[: 2 if template == "plain" else 1]]
    prepared = [ready(assistant, films, name, text) for name, text in asked]
    assert len({len(one.embeddings) for one in prepared}) > 1, "all of one length: no padding"
    together = answer_together(prepared, assistant, NEW_TOKENS)
    alone = [answer_together([one], assistant, NEW_TOKENS)[0] for one in prepared]
    chat = [assistant.ask(films / name, text, max_new_tokens=NEW_TOKENS) for name, text in asked]
    assert together == alone == chat
    assert len(set(together)) > 3, "the answers do not depend on what is asked"


def test_no_questions_no_answers(assistant):
    assert answer_together([], assistant, NEW_TOKENS) == []


def test_earlier_turns_are_part_of_the_conversation(assistant, films):
    one = ready(assistant, films, "one.mkv", "And now?", before=(("What?", "A dog."),))
    session = assistant.chat(films / "one.mkv")
    session._turns, session._pending = [Turn("What?", (0,), "A dog.")], []  # as if it had been said
    expected = session.ask("And now?", max_new_tokens=NEW_TOKENS)
    assert answer_together([one], assistant, NEW_TOKENS) == [expected]
    bare = ready(assistant, films, "one.mkv", "And now?")
    assert len(one.embeddings) > len(bare.embeddings)


def test_a_prompt_that_does_not_fit(assistant, films):
    with pytest.raises(PromptTooLongError):
        ready(assistant, films, "one.mkv", "why " * 400)


def test_a_stop_text_ends_a_row_and_only_that_row(assistant):
    stop = StopTexts(assistant)
    ids = assistant.processor.tokenizer("Yes\nQ:", add_special_tokens=False)["input_ids"]
    other = assistant.processor.tokenizer("Yes, Qs", add_special_tokens=False)["input_ids"]
    rows = torch.tensor([ids, other[: len(ids)]])
    assert stop(rows, None).tolist() == [True, False]
    assert answer_text([*ids, 5, 6, 7], assistant) == "Yes"


def test_the_models_own_sampling_settings_change_nothing(assistant, films):
    one = ready(assistant, films, "one.mkv", "What?")
    expected = answer_together([one], assistant, NEW_TOKENS)
    own = assistant.model.generation_config
    before = own.to_dict()
    try:
        own.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=2)
        assert answer_together([one], assistant, NEW_TOKENS) == expected
    finally:
        own.update(**before)
    assert GenerationOptions().temperature == 0, "a chat is greedy, and so is this"
