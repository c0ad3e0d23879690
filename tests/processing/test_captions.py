import pytest

from video_llama.errors import OptionError
from video_llama.processing.captions import (
    caption_segments,
    clean_caption,
    prompted_caption_segments,
)
from video_llama.processing.segments import Media, Special, Text, segments_to_text


def test_clean_caption():
    assert clean_caption('A "Dog", running!  (fast)') == "a dog , running fast"
    assert clean_caption("one two three", max_words=2) == "one two"


def test_stage_1():
    assert caption_segments("a dog", "video") == [
        Special("start"),
        Media("video", 0),
        Text("a dog\n", ((0, 6),)),
    ]


@pytest.mark.parametrize(("template", "end"), [("vicuna", "###"), ("llama_2", "</s>")])
def test_stage_2(template, end):
    segments = prompted_caption_segments("a dog", "video", template)
    text = segments_to_text(segments)
    assert "<Video><video></Video> Describe this video in detail." in text
    assert text.endswith(f" a dog{end}")
    own = prompted_caption_segments("a dog", "image", template, "What is it?")
    assert "</Image> What is it?" in segments_to_text(own)


def test_plain_has_no_caption_prompt():
    with pytest.raises(OptionError, match="'plain'"):
        prompted_caption_segments("a dog", "video", "plain")
