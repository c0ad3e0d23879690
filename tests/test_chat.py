"""Conversations: what is kept, what is told, and that short cuts change no answer."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from video_llama import VideoLlama
from video_llama.engine.handle import Handle
from video_llama.errors import (
    MediaError,
    MediaNotFoundError,
    OptionError,
    PromptError,
    PromptTooLongError,
    UnsupportedMediaError,
)
from video_llama.media.reader import load_media
from video_llama.media.source import SoundArray
from video_llama.quantization import Int8Linear

QUESTIONS = ["What do you see?", "And what do you hear?", "你听到了什么?"]
SHORT = {"max_new_tokens": 24}


@pytest.fixture(scope="module")
def assistant(tiny_model_dir) -> VideoLlama:
    return VideoLlama.load(tiny_model_dir, device="cpu")


@pytest.fixture(scope="module", params=["plain", "vicuna", "llama_2"])
def any_assistant(request, tmp_path_factory, save_tiny_model) -> VideoLlama:
    folder = tmp_path_factory.mktemp("models") / request.param
    return VideoLlama.load(save_tiny_model(folder, template=request.param), device="cpu")


@pytest.fixture
def deaf(tiny_silent_model_dir) -> VideoLlama:
    return VideoLlama.load(tiny_silent_model_dir, device="cpu")


def count_calls(monkeypatch, model, name: str) -> list[int]:
    calls: list[int] = []
    real = getattr(model, name)

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(model, name, counted)
    return calls


# Short cuts


@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 4}])
def test_prefix_reuse_equals_the_full_run(any_assistant, clip_path, options, monkeypatch):
    kept = any_assistant.chat(clip_path)
    answers = [kept.answer(question, **SHORT, **options) for question in QUESTIONS]

    monkeypatch.setattr(any_assistant, "_engine", any_assistant.make_engine(kept_tokens=0))
    fresh = any_assistant.chat(clip_path)
    expected = [fresh.answer(question, **SHORT, **options) for question in QUESTIONS]

    assert [a.text for a in answers] == [a.text for a in expected]
    assert [a.tokens.generated for a in answers] == [a.tokens.generated for a in expected]
    assert [a.tokens.reused for a in expected] == [0, 0, 0]
    assert all(a.tokens.reused > 10 for a in answers[1:])


def test_greedy_ids_are_those_of_generate(any_assistant, clip_path):
    """The whole way beside transformers' own: processor, pixels, `generate`."""
    processor, model = any_assistant.processor, any_assistant.model
    clip = load_media(clip_path, num_frames=processor.num_frames)
    conversation = [{"role": "user", "content": [{"type": "video"}, QUESTIONS[0]]}]
    inputs = processor.apply_chat_template(conversation, clips=[clip])
    out = model.generate(
        **inputs, do_sample=False, max_new_tokens=24, eos_token_id=2, pad_token_id=0
    )
    new_ids = out[0, inputs["input_ids"].shape[1] :].tolist()

    answer = any_assistant.chat(clip_path).answer(QUESTIONS[0], **SHORT)
    # Special tokens inside an answer are not text; the clean-up of the published system shows them.
    shown = [token for token in new_ids if token not in processor.tokenizer.all_special_ids]
    assert answer.text == processor.decode_answer(shown)
    assert answer.tokens.prompt == inputs["input_ids"].shape[1]


def test_media_are_encoded_once(assistant, clip_path, monkeypatch):
    """By one conversation or by several."""
    assistant.media.features.clear()
    seen = count_calls(monkeypatch, assistant.model, "get_video_features")
    heard = count_calls(monkeypatch, assistant.model, "get_audio_features")
    chat = assistant.chat(clip_path)
    for question in QUESTIONS:
        chat.ask(question, **SHORT)
    chat.reset()
    chat.ask(QUESTIONS[0], **SHORT)
    assistant.chat(clip_path).ask(QUESTIONS[0], **SHORT)
    assert len(seen) == len(heard) == 1


def test_only_the_new_part_of_a_prompt_runs(assistant, clip_path, monkeypatch):
    chat = assistant.chat(clip_path)
    chat.ask("What?", max_new_tokens=4)
    lengths = []
    runner = assistant.engine._runner
    real = runner.prefill

    def measured(row, start, embeddings):
        lengths.append(len(embeddings))
        return real(row, start, embeddings)

    monkeypatch.setattr(runner, "prefill", measured)
    answer = chat.answer("And?", max_new_tokens=4)
    assert lengths == [answer.tokens.prompt - answer.tokens.reused]


def test_a_conversation_begun_again_answers_as_a_new_one(assistant, clip_path):
    chat = assistant.chat(clip_path)
    first = chat.answer(QUESTIONS[0], **SHORT)
    chat.ask(QUESTIONS[1], **SHORT)
    chat.reset()
    assert chat.history == []
    again = chat.answer(QUESTIONS[0], **SHORT)
    assert again.text == first.text
    assert again.tokens.reused == first.tokens.prompt - 1
    assert again.timings.decode == again.timings.encode == 0


def test_the_cache_tells_media_apart(assistant, clip_path, tmp_path, write_clip):
    """Placeholder ids are the same for every clip, what they stand for is not."""
    other = tmp_path / "other.mkv"
    write_clip(other, tone=90.0, seconds=0.5)
    chat = assistant.chat(clip_path, other)
    chat.ask(QUESTIONS[0], **SHORT)
    chat.reset()
    chat._pending.reverse()
    swapped = chat.ask(QUESTIONS[0], **SHORT)
    assert swapped == assistant.ask([other, clip_path], QUESTIONS[0], **SHORT)


def test_features_matter(assistant, clip_path, tmp_path):
    """Otherwise the tests above would prove nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
    assert assistant.ask(clip_path, "?", **SHORT) != assistant.ask([noise], "?", **SHORT)


# Streams


def test_streamed_text_is_the_whole_text(any_assistant, clip_path):
    for options in ({}, {"temperature": 2.0, "seed": 1}, {"temperature": 2.0, "seed": 2}):
        whole = any_assistant.chat(clip_path).answer(QUESTIONS[0], max_new_tokens=80, **options)
        chat = any_assistant.chat(clip_path)
        pieces = list(chat.stream(QUESTIONS[0], max_new_tokens=80, **options))
        assert "".join(pieces) == whole.text
        assert chat.last_answer is not None
        assert chat.last_answer.text == whole.text
        assert all(pieces)


def scripted(monkeypatch, assistant: VideoLlama, said: str) -> None:
    """Let the model say a text, byte by byte, then EOS."""
    script = [*assistant.processor.tokenizer(said, add_special_tokens=False)["input_ids"], 2]

    def follow(_, logits, rows) -> list[int]:
        chosen = [script[len(row.ids)] for row in rows]
        for row, token in zip(rows, chosen, strict=True):
            row.ids.append(token)
        return chosen

    monkeypatch.setattr("video_llama.engine.engine.Sampler.choose", follow)


SAYINGS = {
    "plain": [" a dog\nQ: and?", " 一只狗在叫 🐕", "", "\n", " Q: no stop"],
    "vicuna": [" Assistant: a dog.###Human: x", " a ## b", " 狗###", "Assist", " a dog. ##"],
    "llama_2": [" a dog </s> more", "ASSISTANT: 狗", " a < b"],
}


def test_an_answer_is_cleaned_as_its_template_says(any_assistant, clip_path, monkeypatch):
    template = any_assistant.processor.prompt_template
    for said in SAYINGS[template.name]:
        scripted(monkeypatch, any_assistant, said)
        chat = any_assistant.chat(clip_path)
        pieces = list(chat.stream("?"))
        assert "".join(pieces) == template.clean_answer(said)
        assert chat.last_answer is not None
        assert chat.last_answer.finish_reason == "stop"


def test_no_piece_is_half_a_character(assistant, clip_path, monkeypatch):
    scripted(monkeypatch, assistant, "狗 🐕 叫")
    assert list(assistant.chat(clip_path).stream("?")) == ["狗", " 🐕", " 叫"]


def test_a_stop_text_of_the_user_ends_the_answer(assistant, clip_path, monkeypatch):
    scripted(monkeypatch, assistant, "one two END three")
    answer = assistant.chat(clip_path).answer("?", stop="END")
    assert (answer.text, answer.finish_reason) == ("one two", "stop")


def test_a_closed_stream_stops_the_model(assistant, clip_path, monkeypatch):
    scripted(monkeypatch, assistant, "one two three")
    chat = assistant.chat(clip_path)
    stream = chat.stream("?")
    assert next(stream) + next(stream) == "on"
    stream.close()
    assert chat.last_answer is not None
    assert chat.last_answer.finish_reason == "cancelled"
    assert chat.last_answer.tokens.generated == 2
    assert chat.history[-1] == {"role": "assistant", "content": "on"}


def test_after_a_closed_stream_answers_are_the_same(assistant, clip_path, monkeypatch):
    stopped, fresh = assistant.chat(clip_path), assistant.chat(clip_path)
    for chat in (stopped, fresh):
        stream = chat.stream(QUESTIONS[0])
        for _ in range(5):
            next(stream)
        stream.close()
    continued = stopped.answer(QUESTIONS[1], **SHORT)
    assert continued.tokens.reused > 10
    assistant.engine.forget()
    anew = fresh.answer(QUESTIONS[1], **SHORT)
    assert (anew.text, anew.tokens.reused) == (continued.text, 0)


def test_a_stream_broken_off_before_a_word_was_not_asked(assistant, clip_path):
    chat = assistant.chat(clip_path)
    chat.stream("?").close()
    assert chat.history == []
    assert chat.answer("?", **SHORT).text == assistant.ask(clip_path, "?", **SHORT)


def test_a_stream_that_was_left_ends_before_the_next_question(assistant, clip_path, monkeypatch):
    scripted(monkeypatch, assistant, "one two three")
    chat = assistant.chat(clip_path)
    pieces = chat.stream("First?")
    begun = next(pieces)
    chat.ask("Second?")
    assert list(pieces) == []
    assert [(turn["content"], turn.get("media")) for turn in chat.history] == [
        ("First?", [clip_path.name]),
        (begun, None),
        ("Second?", None),
        ("one two three", None),
    ]
    assert chat.last_answer is not None
    assert chat.last_answer.text == "one two three"


def test_media_that_come_during_an_answer_go_with_the_next_question(assistant, clip_path):
    chat = assistant.chat(clip_path)
    pieces = chat.stream("First?", **SHORT)
    next(pieces)
    chat.add(np.zeros((8, 8, 3), np.uint8))
    pieces.close()
    chat.ask("Second?", **SHORT)
    assert [len(turn.get("media", [])) for turn in chat.history] == [1, 0, 1, 0]


def test_what_is_forgotten_during_an_answer_does_not_come_back(assistant, clip_path):
    chat = assistant.chat(clip_path)
    pieces = chat.stream("First?", **SHORT)
    next(pieces)
    chat.reset()
    pieces.close()
    assert chat.history == []
    assert chat.ask("?", **SHORT) == assistant.ask(clip_path, "?", **SHORT)


def test_a_conversation_is_asked_by_one_thread_at_a_time(assistant, clip_path, monkeypatch):
    chat = assistant.chat(clip_path)
    refused = []

    def ask_too(*given):
        with pytest.raises(PromptError, match="is being answered"), ThreadPoolExecutor() as pool:
            pool.submit(chat.ask, "Mine?").result()
        refused.append(1)
        return real(*given)

    real = Handle.wait
    monkeypatch.setattr(Handle, "wait", ask_too)
    chat.ask("?", **SHORT)
    assert refused
    assert len(chat.history) == 2


def test_warnings_are_told_by_the_first_answer(assistant, tmp_path, write_clip, monkeypatch):
    silent = write_clip(tmp_path / "silent.mp4", tone=None)
    chat = assistant.chat(silent)
    with monkeypatch.context() as patch:
        patch.setattr(Handle, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            chat.ask("?")
    assert "no sound" in chat.answer("?", **SHORT).warnings[0]
    assert chat.answer("?", **SHORT).warnings == ()


@pytest.mark.parametrize("at_once", [True, False])
def test_an_interrupt_leaves_a_usable_session(assistant, clip_path, monkeypatch, at_once):
    chat = assistant.chat(clip_path)
    chat.ask(QUESTIONS[0], **SHORT)
    with monkeypatch.context() as patch:
        calls = []

        def interrupted(*_):
            calls.append(1)
            if at_once or len(calls) == 4:
                raise KeyboardInterrupt
            return real(*_)

        real = Handle.__next__
        patch.setattr(Handle, "wait" if at_once else "__next__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            chat.answer(QUESTIONS[1]) if at_once else list(chat.stream(QUESTIONS[1]))
    assert len(chat.history) == (2 if at_once else 4)
    chat.reset()
    assert chat.ask(QUESTIONS[0], **SHORT) == assistant.ask(clip_path, QUESTIONS[0], **SHORT)


# What an answer tells


def test_an_answer_tells_what_was_used(assistant, clip_path):
    chat = assistant.chat(clip_path)
    answer = chat.answer(QUESTIONS[0], **SHORT)
    (use,) = answer.media
    assert (use.name, use.kind, use.picture, use.sound) == ("clip.mkv", "video", "used", "used")
    assert use.frames == 4
    assert use.duration == pytest.approx(1.0, abs=0.1)
    assert answer.timings.total >= answer.timings.decode + answer.timings.encode > 0
    assert answer.timings.generation >= 0
    assert 0 < answer.tokens.generated <= 24
    fields = answer.to_json()
    assert fields["answer"] == answer.text == str(answer)
    assert set(fields) == {"answer", "finish_reason", "tokens", "timings", "media", "warnings"}


@pytest.mark.parametrize(
    ("tone", "sound", "warning"),
    [(0.0, "silent", "digital silence"), (None, "absent", "no sound")],
)
def test_silence_and_absence_are_told_and_not_fed(
    assistant, tmp_path, tone, sound, warning, write_clip
):
    clip = write_clip(tmp_path / "quiet.mkv", tone=tone)
    chat = assistant.chat(clip)
    answer = chat.answer("?", **SHORT)
    assert answer.media[0].sound == sound
    assert any(warning in text for text in answer.warnings)
    # Nothing of it is in the prompt: the same as the frames alone.
    assert answer.text == assistant.chat(clip, with_sound=False).ask("?", **SHORT)
    assert chat.answer("?", **SHORT).warnings == ()


def test_sound_left_out_by_wish(assistant, clip_path):
    answer = assistant.chat(clip_path, with_sound=False).answer("?", **SHORT)
    assert answer.media[0].sound == "left out"
    assert answer.warnings == ()


def test_a_clip_that_was_loaded_without_its_sound_is_not_called_short(assistant, clip_path):
    clip = load_media(clip_path, with_sound=False)
    answer = assistant.chat(clip).answer("?", **SHORT)
    assert answer.media[0].sound == "left out"
    assert answer.warnings == ()


def test_the_sound_of_films_left_out_by_wish(assistant, clip_path, tmp_path, write_clip):
    film = assistant.chat(clip_path, with_film_sound=False).answer("?", **SHORT).media[0]
    assert (film.picture, film.sound) == ("used", "left out")
    tone = write_clip(tmp_path / "tone.wav", picture=False)
    sound = assistant.chat(tone, with_film_sound=False).answer("?", **SHORT).media[0]
    assert (sound.picture, sound.sound) == ("absent", "used")


def test_a_model_without_audio_branch_says_so(deaf, clip_path, tmp_path, write_clip):
    answer = deaf.chat(clip_path).answer("?", **SHORT)
    assert answer.media[0].sound == "not used (the model has no audio branch)"
    assert any("no audio branch" in text for text in answer.warnings)
    sound = write_clip(tmp_path / "tone.wav", picture=False)
    with pytest.raises(UnsupportedMediaError, match=r"tone\.wav .* no audio branch"):
        deaf.chat(sound)


def test_a_sound_alone_is_heard(assistant, tmp_path, write_clip):
    answer = assistant.chat(write_clip(tmp_path / "tone.wav", picture=False)).answer("?", **SHORT)
    assert (answer.media[0].picture, answer.media[0].sound) == ("absent", "used")


@pytest.mark.parametrize(("tone", "seconds"), [(0.0, 1.0), (440.0, 0.01)])
def test_nothing_to_see_or_hear_is_an_error(assistant, tmp_path, tone, seconds, write_clip):
    sound = write_clip(tmp_path / "x.wav", picture=False, tone=tone, seconds=seconds)
    with pytest.raises(UnsupportedMediaError, match=r"x\.wav .* nothing in it"):
        assistant.chat(sound)


def test_a_sound_that_fails_is_an_error_unless_it_may(assistant, tmp_path, monkeypatch, write_clip):
    clip = write_clip(tmp_path / "bad.mkv")
    real = load_media

    def failing(source, *, with_sound=True, **options):
        from video_llama.errors import CorruptMediaError

        if with_sound:
            raise CorruptMediaError("the sound of bad.mkv cannot be decoded")
        return real(source, with_sound=False, **options)

    monkeypatch.setattr("video_llama.attachment.load_media", failing)
    with pytest.raises(MediaError, match="cannot be decoded"):
        assistant.chat(clip)
    answer = assistant.chat(clip, on_bad_sound="warn").answer("?", **SHORT)
    assert answer.media[0].sound == "failed"
    assert answer.warnings == ("the sound of bad.mkv cannot be decoded",)


# Media


def test_all_forms_of_media(assistant, clip_path):
    expected = assistant.ask(clip_path, "?", **SHORT)
    data = clip_path.read_bytes()
    clip = load_media(clip_path, num_frames=4)
    with clip_path.open("rb") as file:
        forms = [str(clip_path), data, [clip_path], clip, file]
        assert [assistant.ask(form, "?", **SHORT) for form in forms] == [expected] * len(forms)


def test_arrays_are_media(assistant):
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    sound = SoundArray(np.sin(np.arange(16000) / 10).astype(np.float32), 16000)
    answer = assistant.chat(picture, sound).answer("?", **SHORT)
    assert [use.kind for use in answer.media] == ["image", "audio"]


def test_media_can_be_added_on_the_way(assistant, clip_path, tmp_path, write_clip):
    chat = assistant.chat(clip_path)
    chat.ask("What?", **SHORT)
    chat.add(write_clip(tmp_path / "second.wav", picture=False, tone=200.0))
    answer = chat.answer("And here?", **SHORT)
    assert [use.name for use in answer.media] == ["clip.mkv", "second.wav"]
    assert answer.tokens.reused > 0
    assert [message.get("media") for message in chat.history] == [
        ["clip.mkv"],
        None,
        ["second.wav"],
        None,
    ]


def test_bad_media_leave_a_session_as_it_was(assistant, clip_path, tmp_path):
    chat = assistant.chat(clip_path)
    with pytest.raises(MediaNotFoundError, match=r"nowhere\.mp4"):
        chat.add(clip_path, tmp_path / "nowhere.mp4")
    assert len(chat.media) == 1
    assert chat.ask("?", **SHORT) == assistant.ask(clip_path, "?", **SHORT)


def test_a_conversation_without_media(assistant):
    assert isinstance(assistant.chat().ask("Hello?", **SHORT), str)


def test_the_system_text_is_used(assistant, clip_path):
    plain = assistant.chat(clip_path).answer("?", **SHORT)
    told = assistant.chat(clip_path, system="Be brief.").answer("?", **SHORT)
    assert told.tokens.prompt == plain.tokens.prompt + len("Be brief.\n")


def test_the_number_of_frames_can_be_chosen(assistant, clip_path):
    assert assistant.chat(clip_path, num_frames=2).media[0].frames == 2
    assert assistant.chat(clip_path, fps=3).media[0].frames == 3
    assert assistant.chat(clip_path, fps=100, num_frames=5).media[0].frames == 5
    assert assistant.chat(clip_path, fps=0.01).media[0].frames == 1
    with pytest.raises(OptionError, match="fps"):
        assistant.chat(clip_path, fps=0.0)


def test_the_picture_can_be_left_out(assistant, clip_path, tmp_path, write_clip):
    use = assistant.chat(clip_path, with_picture=False).media[0]
    assert (use.picture, use.sound, use.frames) == ("left out", "used", 0)
    mute = write_clip(tmp_path / "mute.mkv", tone=None)
    with pytest.raises(UnsupportedMediaError, match="no sound to listen to"):
        assistant.chat(mute, with_picture=False)
    quiet = write_clip(tmp_path / "quiet.mkv", tone=0)
    with pytest.raises(UnsupportedMediaError, match="silence and has no picture that is to be"):
        assistant.chat(quiet, with_picture=False)


# Limits and options


def test_a_prompt_that_does_not_fit_says_by_how_much(assistant, clip_path):
    chat = assistant.chat(clip_path)
    with pytest.raises(PromptTooLongError, match="1024") as caught:
        chat.ask("x" * 2000)
    assert caught.value.excess > 900
    with pytest.raises(PromptTooLongError):
        chat.ask("?", max_new_tokens=1020)
    assert chat.history == []
    assert chat.ask("?", **SHORT) == assistant.ask(clip_path, "?", **SHORT)


def test_an_answer_takes_what_room_is_left(assistant, clip_path):
    length = assistant.chat(clip_path).answer("?", max_new_tokens=1).tokens.prompt
    filler = "x" * (1024 - 20 - length)
    answer = assistant.chat(clip_path).answer("?" + filler, temperature=3.0, seed=0)
    assert answer.tokens.generated <= 20


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(assistant, clip_path, question):
    with pytest.raises(PromptError, match="empty"):
        assistant.chat(clip_path).stream(question)


@pytest.mark.parametrize(("question", "said"), [(None, "NoneType"), ("half \ud83d", "UTF-8")])
def test_what_is_no_text_is_no_question(assistant, clip_path, question, said):
    with pytest.raises(PromptError, match=said):
        assistant.chat(clip_path).ask(question)


@pytest.mark.parametrize(("system", "said"), [(3, "int"), ("half \ud83d", "UTF-8")])
def test_what_is_no_text_is_no_system_text(assistant, system, said):
    with pytest.raises(PromptError, match=f"system text .*{said}"):
        assistant.chat(system=system)


def test_an_empty_system_text_is_none(any_assistant):
    """Instead of the template's own."""

    def length(system):
        chat = any_assistant.chat(np.zeros((8, 8, 3), np.uint8), system=system)
        return chat.answer("?", **SHORT).tokens.prompt

    own = any_assistant.processor.prompt_template.name != "plain"
    assert (length("") < length(None)) == own


def test_bad_options_are_named(assistant, clip_path):
    with pytest.raises(OptionError, match="temperature"):
        assistant.ask(clip_path, "?", temperature=-1)
    with pytest.raises(OptionError, match="beams"):
        assistant.ask(clip_path, "?", beams=4)
    with pytest.raises(OptionError, match="framez"):
        assistant.chat(clip_path, framez=4)
    with pytest.raises(OptionError, match="on_bad_sound"):
        assistant.chat(clip_path, on_bad_sound="ignore")
    with pytest.raises(OptionError, match="limits is a Limits"):
        assistant.chat(clip_path, limits=None)
    with pytest.raises(OptionError, match=r"quantization.*int3"):
        VideoLlama.load("nano", quantization="int3")


def test_drawn_answers_repeat_with_their_seed(assistant, clip_path):
    def ask(seed):
        return assistant.ask(clip_path, "?", temperature=2.0, seed=seed, **SHORT)

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_int8_weights_answer_and_differ_little(tiny_model_dir, assistant, clip_path):
    small = VideoLlama.load(tiny_model_dir, device="cpu", quantization="int8")
    assert small.ask(clip_path, "?", **SHORT)
    own, quantized = assistant.model.language_model, small.model.language_model
    exact = own.model.layers[0].mlp.gate_proj
    coarse = quantized.model.layers[0].mlp.gate_proj
    assert coarse.weight.dtype == torch.int8
    x = torch.eye(exact.in_features)
    step = exact.weight.abs().amax(dim=1) / 127
    assert ((coarse(x) - exact(x)).abs() <= step / 2 + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_error_of_int8_is_half_a_step_in_half_precision_too(dtype):
    layer = torch.nn.Linear(64, 32, bias=False)
    layer.weight.data.mul_(1e-3)
    layer.to(dtype)
    coarse = Int8Linear(layer)
    weight = layer.weight.float()
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((coarse.weight * coarse.scale - weight).abs() <= step / 2 * (1 + 1e-5)).all()
    assert coarse(torch.ones(3, 64, dtype=dtype)).dtype == dtype


def test_int8_weights_are_not_saved_as_if_they_were_whole(tiny_model_dir, tmp_path):
    small = VideoLlama.load(tiny_model_dir, device="cpu", quantization="int8")
    with pytest.raises(OptionError, match="int8 are not saved"):
        small.model.save_pretrained(tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_every_real_file_answers(assistant, media_dir):
    for path in sorted(media_dir.iterdir()):
        if path.suffix not in (".csv", ".md"):
            assert isinstance(assistant.ask(path, "?", max_new_tokens=4), str)


def test_the_byte_tokenizer_of_these_tests_is_lossless(assistant):
    tokenizer = assistant.processor.tokenizer
    text = " 狗 barks\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
