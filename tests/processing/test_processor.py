import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig

from video_llama.errors import OptionError, PromptError, UnsupportedMediaError
from video_llama.processing.processor import VideoLlamaProcessor

SETTINGS = {
    "template": "plain",
    "image_size": 16,
    "num_clips": 2,
    "clip_seconds": 0.2,
    "num_mel_bins": 32,
    "target_length": 20,
    "num_image_tokens": 3,
    "num_video_tokens": 5,
    "num_audio_tokens": 2,
}


@pytest.fixture
def processor(tokenizer):
    return VideoLlamaProcessor(tokenizer, **SETTINGS)


def asked(*media, text="What?"):
    parts = [{"type": medium} if isinstance(medium, str) else medium for medium in media]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def answered(*media, answer="red"):
    return [*asked(*media), {"role": "assistant", "content": answer}]


def runs(processor, row):
    """Placeholders in a row of ids, by kind."""
    places = processor.placeholders
    return {kind: (row == place.token_id).sum().item() for kind, place in places.items()}


def test_a_video_with_sound(processor, clip):
    inputs = processor.apply_chat_template(asked("video"), clips=[clip()])
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values_videos", "input_features"}
    assert inputs["pixel_values_videos"].shape == (1, 4, 3, 16, 16)
    assert inputs["input_features"].shape == (1, 2, 1, 32, 20)
    assert runs(processor, inputs["input_ids"]) == {"image": 0, "video": 5, "audio": 2}


@pytest.mark.parametrize(
    ("part", "medium", "expected"),
    [
        ("video", {"sound": False}, {"image": 0, "video": 5, "audio": 0}),
        ("video", {"kind": "image"}, {"image": 3, "video": 0, "audio": 0}),
        ("video", {"kind": "audio"}, {"image": 0, "video": 0, "audio": 2}),
        ("image", {}, {"image": 0, "video": 5, "audio": 0}),
        ("audio", {}, {"image": 0, "video": 0, "audio": 2}),
        ({"type": "video", "sound": False}, {}, {"image": 0, "video": 5, "audio": 0}),
        # 24 ms are less than one analysis frame, and count as no sound.
        ("video", {"seconds": 0.024}, {"image": 0, "video": 5, "audio": 0}),
    ],
)
def test_the_content_decides(processor, clip, part, medium, expected):
    inputs = processor.apply_chat_template(asked(part), clips=[clip(**medium)])
    assert runs(processor, inputs["input_ids"]) == expected
    seen = expected["image"] or expected["video"]
    assert ("pixel_values_videos" in inputs) == bool(seen)
    assert ("input_features" in inputs) == bool(expected["audio"])


def test_digital_silence_is_not_fed(processor, clip):
    """As a conversation leaves it out: what is said to be heard would be invented."""
    film, sound = clip(), clip("audio")
    for one in (film, sound):
        one.sound[:] = 0.0
    inputs = processor.apply_chat_template(asked("video"), clips=[film])
    assert runs(processor, inputs["input_ids"]) == {"image": 0, "video": 5, "audio": 0}
    with pytest.raises(UnsupportedMediaError, match="is digital silence"):
        processor.apply_chat_template(asked("audio"), clips=[sound])


def test_nothing_usable_is_an_error(processor, tokenizer, clip):
    with pytest.raises(UnsupportedMediaError, match=r"clip\.mp4 has no sound"):
        processor.apply_chat_template(asked("audio"), clips=[clip(sound=False)])
    deaf = VideoLlamaProcessor(tokenizer, **(SETTINGS | {"num_audio_tokens": 0}))
    with pytest.raises(UnsupportedMediaError, match="no audio branch"):
        deaf.apply_chat_template(asked("video"), clips=[clip("audio")])
    assert "input_features" not in deaf.apply_chat_template(asked("video"), clips=[clip()])


def test_a_clip_of_another_rate_is_resampled(processor, clip):
    made = clip("audio")
    slow = replace(made, sound=made.sound[:, ::2], sound_rate=8000)
    heard = processor.clip_to_input_features(slow)
    assert heard.shape == processor.clip_to_input_features(made).shape


def test_rows_of_media_follow_their_runs(processor, clip):
    clips = [clip("audio", name="a"), clip("video", name="bb"), clip("image", name="ccc")]
    inputs = processor.apply_chat_template(asked("audio", "video", "image"), clips=clips)
    sounds, pixels = inputs["input_features"], inputs["pixel_values_videos"]
    assert torch.equal(sounds[0], processor.clip_to_input_features(clips[0]))
    assert torch.equal(sounds[1], processor.clip_to_input_features(clips[1]))
    assert torch.equal(pixels[0], processor.clip_to_pixel_values(clips[1]))
    assert torch.equal(pixels[1, :1], processor.clip_to_pixel_values(clips[2]))
    assert inputs["video_frame_mask"].tolist() == [[True] * 4, [True, False, False, False]]
    assert not pixels[1, 1:].any()


def test_a_batch_is_its_conversations_side_by_side(processor, clip):
    conversations = [asked("video"), asked("image", text="Which colour has it?"), asked()]
    clips = [[clip()], [clip("image")], []]
    batch = processor.apply_chat_template(conversations, clips=clips)
    assert batch["pixel_values_videos"].shape[0] == 2
    assert batch["input_features"].shape[0] == 1
    for number, conversation in enumerate(conversations):
        alone = processor.apply_chat_template(conversation, clips=clips[number])
        visible = batch["attention_mask"][number].bool()
        assert torch.equal(batch["input_ids"][number][visible], alone["input_ids"][0])
        length = alone["input_ids"].shape[1]
        assert visible[-length:].all(), "padding to generate is on the left"
        assert visible.sum() == length


def test_labels(processor, tokenizer, clip):
    conversations = [answered("video", answer="a red ball"), answered("image")]
    clips = [[clip()], [clip("image")]]
    batch = processor.apply_chat_template(conversations, clips=clips, return_labels=True)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["attention_mask"][:, 0].all(), "padding to train is on the right"
    for labels, answer in zip(batch["labels"], ("a red ball", "red"), strict=True):
        learnt = labels[labels != -100]
        assert learnt[-1] == tokenizer.eos_token_id
        assert processor.decode_answer(learnt.tolist()) == answer
    with pytest.raises(PromptError, match="end with an answer"):
        processor.apply_chat_template(asked("video"), clips=[clip()], return_labels=True)


def test_layouts(tokenizers, clip):
    processor = VideoLlamaProcessor(tokenizers["llama"], **(SETTINGS | {"template": "vicuna"}))

    def text(**options):
        return processor.apply_chat_template(
            answered("video"), clips=[clip(sound=False)], tokenize=False, **options
        )

    assert text().startswith("###Human: <Video><video></Video> The video contains 4 frames")
    assert text(layout="training").startswith("\n\n###Human: <Video>")
    assert text(return_labels=True) == text(layout="training")


def test_placeholders_only(processor, clip):
    """Without clips or sources the prompt is the same, and features go to the model."""
    parts = {"type": "video", "sound": True, "times": [0.0, 0.5, 1.0, 1.5]}
    bare = processor.apply_chat_template(asked(parts))
    full = processor.apply_chat_template(asked("video"), clips=[clip()])
    assert set(bare) == {"input_ids", "attention_mask"}
    assert torch.equal(bare["input_ids"], full["input_ids"])
    again = processor.apply_chat_template(asked("video"), clips=[clip()], return_media=False)
    assert set(again) == {"input_ids", "attention_mask"}
    assert torch.equal(again["input_ids"], full["input_ids"])


def test_a_text_is_a_question_about_all_clips(processor, clip):
    clips = [clip("image"), clip()]
    called = processor("What?", clips)
    spelled = processor.apply_chat_template(asked("image", "video"), clips=clips)
    assert set(called) == set(spelled)
    for name in called:
        assert torch.equal(called[name], spelled[name])


def test_other_forms_of_output(processor, clip):
    ids = processor.apply_chat_template(asked("video"), clips=[clip()], return_dict=False)
    inputs = processor.apply_chat_template(asked("video"), clips=[clip()])
    assert ids == inputs["input_ids"][0].tolist()
    batch = processor.apply_chat_template([asked(), answered()], tokenize=False)
    assert batch == ["Q: What?", "Q: What?\nA: red</s>"]
    with pytest.raises(OptionError, match="'tf'"):
        processor.apply_chat_template(asked(), return_tensors="tf")


def test_arguments_are_checked(processor, clip):
    two = [asked("video"), asked("video")]
    plain = processor.apply_chat_template(two, clips=[[clip()], [clip()]])
    padded = processor.apply_chat_template(two, clips=[[clip()], [clip()]], padding=True)
    assert torch.equal(plain["input_ids"], padded["input_ids"])
    with pytest.raises(OptionError, match="padding"):
        processor.apply_chat_template(two, clips=[[clip()], [clip()]], padding=False)
    conversation = [{"role": "user", "content": [{"type": "video", "path": "a.mp4"}, "?"]}]
    with pytest.raises(OptionError, match="num_frames"):
        processor.apply_chat_template(conversation, num_frames=0)


def test_counts_of_media_are_checked(processor, clip):
    with pytest.raises(PromptError, match="names 2 media and 1 were given"):
        processor.apply_chat_template(asked("video", "image"), clips=[clip()])
    with pytest.raises(PromptError, match="2 conversations need"):
        processor.apply_chat_template([asked(), asked()], clips=[[]])
    named = {"type": "image", "image": np.zeros((4, 4, 3), dtype=np.uint8)}
    with pytest.raises(PromptError, match="1 of 2 media name no source"):
        processor.apply_chat_template(asked("video", named))


def test_media_are_loaded_from_their_sources(processor):
    picture = np.full((12, 18, 3), 200, dtype=np.uint8)
    inputs = processor.apply_chat_template(asked({"type": "image", "image": picture}))
    assert inputs["pixel_values_videos"].shape == (1, 1, 3, 16, 16)
    assert runs(processor, inputs["input_ids"]) == {"image": 3, "video": 0, "audio": 0}


def test_saved_and_loaded(processor, clip, tmp_path):
    processor.save_pretrained(tmp_path)
    again = VideoLlamaProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    one = processor.apply_chat_template(asked("video"), clips=[clip()])
    two = again.apply_chat_template(asked("video"), clips=[clip()])
    for name in one:
        assert torch.equal(one[name], two[name])
    stored = json.loads((tmp_path / "processor_config.json").read_text())
    assert stored["processor_class"] == "VideoLlamaProcessor"
    assert {name: stored[name] for name in SETTINGS} == SETTINGS
    other = VideoLlamaProcessor.from_pretrained(tmp_path, num_frames=16)
    assert other.num_frames == 16


def test_registered_for_auto_processor(processor, tmp_path):
    class OwnConfig(PreTrainedConfig):
        model_type = "video_llama_processor_test"

    AutoConfig.register(OwnConfig.model_type, OwnConfig, exist_ok=True)
    AutoProcessor.register(OwnConfig, VideoLlamaProcessor, exist_ok=True)
    processor.save_pretrained(tmp_path)
    OwnConfig().save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, VideoLlamaProcessor)
    text = "A: red</s> ball"
    assert again.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_settings_are_checked(tokenizer):
    with pytest.raises(OptionError, match="'alpaca'"):
        VideoLlamaProcessor(tokenizer, template="alpaca")
    with pytest.raises(OptionError, match="'left'"):
        VideoLlamaProcessor(tokenizer, sound_channels="left")


def test_placeholder_ids(tokenizer):
    processor = VideoLlamaProcessor(tokenizer)
    ids = processor.image_token_id, processor.video_token_id, processor.audio_token_id
    assert ids == (len(tokenizer), len(tokenizer) + 1, len(tokenizer) + 2)
    padded = VideoLlamaProcessor(
        tokenizer, image_token_id=900, video_token_id=901, audio_token_id=902
    )
    assert {place.token_id for place in padded.placeholders.values()} == {900, 901, 902}
