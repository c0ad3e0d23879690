import pytest

from video_llama.errors import PromptError
from video_llama.processing.conversation import MediaPart, Message, parse_conversation


def test_a_text_is_one_part():
    assert parse_conversation([{"role": "user", "content": "hi"}]) == [Message("user", ("hi",))]


def test_sources_and_facts_of_media():
    content = [
        {"type": "video", "video": "a.mp4", "sound": False},
        {"type": "image", "url": "https://example.org/b.jpg"},
        {"type": "audio", "path": "c.wav"},
        {"type": "video", "sound": True, "times": [0, 1.5]},
        {"type": "text", "text": "and?"},
    ]
    (message,) = parse_conversation([{"role": "user", "content": content}])
    assert message.media == (
        MediaPart("video", sound=False, source="a.mp4"),
        MediaPart("image", source="https://example.org/b.jpg"),
        MediaPart("audio", source="c.wav"),
        MediaPart("video", sound=True, times=(0.0, 1.5)),
    )
    assert [part.is_heard for part in message.media] == [False, False, True, True]
    assert [part.is_seen for part in message.media] == [True, True, False, True]
    assert message.text == "and?"


def test_neighbouring_texts_are_joined():
    content = ["a", {"type": "text", "text": "b"}, {"type": "text", "text": ""}, {"type": "image"}]
    (message,) = parse_conversation([{"role": "user", "content": content}])
    assert message.parts == ("a b", MediaPart("image"))


USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("conversation", "says"),
    [
        ([], "no message of the user"),
        ([{"role": "system", "content": "s"}], "no message of the user"),
        ([{"role": "tool", "content": "x"}], "'tool'"),
        ([{"content": "x"}], "'role' and 'content'"),
        (["hello"], "'role' and 'content'"),
        ([{"role": "user", "content": 3}], "a text or a list"),
        ([{"role": "user", "content": ""}], "message 1 is empty"),
        ([{"role": "user", "content": [{"type": "smell"}]}], "'smell'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'text'"),
        ([ANSWER, USER], "no question precedes"),
        ([USER, ANSWER, ANSWER], "message 3 is an answer"),
        ([USER, {"role": "system", "content": "s"}], "only the first"),
        ([USER, {"role": "assistant", "content": [{"type": "image"}]}], "message 2 holds media"),
    ],
)
def test_malformed_conversations(conversation, says):
    with pytest.raises(PromptError, match=says):
        parse_conversation(conversation)
