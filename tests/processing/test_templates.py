import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.errors import OptionError, PromptError
from video_llama.processing.conversation import parse_conversation
from video_llama.processing.segments import Media, Special, Text, segments_to_text
from video_llama.processing.templates import TEMPLATES, get_template

IMAGE, AUDIO = {"type": "image"}, {"type": "audio"}
VIDEO = {"type": "video", "sound": False, "times": [0.0, 1.25]}
LOUD = {"type": "video", "sound": True, "times": [0.0, 1.25]}
STAMPS = "The video contains 2 frames sampled at 0.0, 1.2 seconds. "
HEAR = "Close your eyes, open your ears and you imagine only based on the sound that: "
SEE = ".                 Close your ears, open your eyes and you see that "
BOTH = ".                  Now answer my question based on what you have just seen and heard. "
HEARD = ". Now answer my question based on what you have just heard. "


def user(*parts):
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def write(name, *messages, **options):
    segments = get_template(name).render(parse_conversation(messages), **options)
    return segments_to_text(segments)


def vicuna_question(*parts):
    """What stands between the role marks, without a system text."""
    text = write("vicuna", system(""), user(*parts), add_generation_prompt=True)
    return text.removeprefix("###Human: ").removesuffix("###Assistant:")


def test_plain():
    assert write("plain", user("What?"), add_generation_prompt=True) == "Q: What?\nA:"
    assert (
        write(
            "plain",
            system("Be brief."),
            user(LOUD, "What?"),
            assistant("red"),
            user("你看到了什么?"),
            assistant("球"),
            user(IMAGE, AUDIO, "And?"),
            add_generation_prompt=True,
        )
        == "Be brief.\n<audio><video>Q: What?\nA: red</s>\nQ: 你看到了什么?\nA: 球</s>\n"
        "<audio><image>Q: And?\nA:"
    )


def test_plain_is_the_same_in_training():
    messages = user(VIDEO, "What?"), assistant("red")
    assert write("plain", *messages) == write("plain", *messages, layout="training")


def test_our_own_wordings_in_chat():
    assert vicuna_question(AUDIO, "Who?") == f"{HEAR}<audio>{HEARD}Who?"
    assert vicuna_question(AUDIO, IMAGE, "Who?") == (
        f"{HEAR}<audio>{SEE}<Image><image></Image>{BOTH}Who?"
    )
    assert vicuna_question(IMAGE, VIDEO, "Who?") == (
        f"<Image><image></Image> <Video><video></Video> {STAMPS} Who?"
    )
    assert vicuna_question(LOUD, IMAGE, LOUD, "Who?") == (
        f"{HEAR}<audio><audio>{SEE}<Video><video></Video><Image><image></Image>"
        f"<Video><video></Video>{BOTH}Who?"
    )


def test_media_in_a_later_turn():
    text = write(
        "vicuna", user("Hi"), assistant("Hello"), user(IMAGE, "And?"), add_generation_prompt=True
    )
    assert text == (
        "###Human: Hi###Assistant: Hello###Human: <Image><image></Image>  And?###Assistant:"
    )


def test_pictures_in_training_stand_where_they_were_put():
    def question(*parts):
        text = write("vicuna", user(*parts), assistant("x"), layout="training")
        return text.removeprefix("\n\n###Human: ").removesuffix("\n###Assistant: x\n###")

    picture = "<Image><image></Image>"
    assert question("Look ", IMAGE, " here") == f"Look {picture} here"
    assert question("Look", IMAGE, "here") == f"Look\n{picture}\nhere"
    assert question(IMAGE, IMAGE, "Which?") == f"{picture}\n{picture}\nWhich?"
    assert question(VIDEO, "What?") == f"<Video><video></Video> {STAMPS}What?"
    assert question(AUDIO, "What?") == f"{HEAR}<audio>{HEARD}What?"


def test_system_text_of_the_published_demos():
    for name in ("vicuna", "llama_2"):
        for medium, has_audio_branch, expected in [
            (IMAGE, True, True),
            (IMAGE, False, True),
            (VIDEO, True, False),
            (VIDEO, False, True),
            (LOUD, True, False),
        ]:
            text = write(name, user(medium, "?"), has_audio_branch=has_audio_branch)
            assert ("You are able to understand" in text) == expected
        assert "You are able" not in write(name, user("?"), has_audio_branch=False)
        assert "Be brief." in write(name, system("Be brief."), user(IMAGE, "?"))
        assert "You are able" not in write(name, system(""), user(IMAGE, "?"))


def test_later_media_do_not_change_the_beginning():
    """The system text is settled by the first turn, so a prefix that was computed stays right."""
    first = write("vicuna", user("Hi"), assistant("Hello"))
    assert write("vicuna", user("Hi"), assistant("Hello"), user(IMAGE, "?")).startswith(first)


@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_to_answer(name):
    with pytest.raises(PromptError, match="nothing to answer"):
        write(name, user("a"), assistant("b"), add_generation_prompt=True)


def test_unknown_template():
    with pytest.raises(OptionError, match="vicuna, llama_2, plain"):
        get_template("alpaca")


@pytest.mark.parametrize("name", TEMPLATES)
def test_clean_answer(name):
    template = get_template(name)
    assert template.clean_answer("  a red ball \n") == "a red ball"
    for stop in template.stop_strings:
        assert template.clean_answer(f" red{stop} and more {stop}") == "red"


texts = st.text(min_size=1, max_size=30).filter(str.strip)
parts = st.lists(st.one_of(texts, st.sampled_from([IMAGE, AUDIO, VIDEO, LOUD])), max_size=4)


@st.composite
def conversations(draw):
    """Any conversation that ends with an answer."""
    messages = [system(draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 2))):
            messages.append(user(draw(texts), *draw(parts)))
        messages.append(assistant(draw(texts)))
    return messages


@settings(deadline=None)
@given(conversations(), st.sampled_from(sorted(TEMPLATES)), st.sampled_from(["chat", "training"]))
def test_every_part_is_rendered_once(conversation, name, layout):
    messages = parse_conversation(conversation)
    segments = get_template(name).render(messages, layout=layout)
    media = [part for message in messages for part in message.media]
    places = [segment for segment in segments if isinstance(segment, Media)]
    heard = [number for number, part in enumerate(media) if part.is_heard]
    seen = [(part.kind, number) for number, part in enumerate(media) if part.is_seen]
    assert [place.part for place in places if place.kind == "audio"] == heard
    assert [(p.kind, p.part) for p in places if p.kind != "audio"] == seen


@settings(deadline=None)
@given(conversations(), st.sampled_from(sorted(TEMPLATES)), st.sampled_from(["chat", "training"]))
def test_supervised_text_is_the_answers_and_their_end_marks(conversation, name, layout):
    template = get_template(name)
    segments = template.render(parse_conversation(conversation), layout=layout)
    spans = [
        segment.text[start:end]
        for segment in segments
        if isinstance(segment, Text)
        for start, end in segment.supervised
    ]
    answers = [m["content"] for m in conversation if m["role"] == "assistant"]
    if name == "vicuna":
        end = "###" if layout == "chat" else "\n###"
        assert spans == [f" {answer}{end}" for answer in answers]
    else:
        assert [span.strip() for span in spans] == [answer.strip() for answer in answers]
        learnt = [s.kind for s in segments if isinstance(s, Special) and s.supervised]
        assert learnt == ["eos"] * len(answers)


@settings(deadline=None)
@given(conversations(), texts, st.sampled_from(sorted(TEMPLATES)))
def test_a_prompt_is_the_beginning_of_its_continuation(conversation, question, name):
    """What a model was given and answered is the beginning of the next turn's prompt."""
    template = get_template(name)
    asked = [*conversation, user(question)]
    prompt = template.render(parse_conversation(asked), add_generation_prompt=True)
    whole = template.render(parse_conversation([*asked, assistant("fine")]))
    assert segments_to_text(whole).startswith(segments_to_text(prompt))
