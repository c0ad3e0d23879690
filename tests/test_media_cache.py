"""A medium is read and encoded once, whoever asks; another content or setting is another medium."""

import dataclasses
import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from video_llama import VideoLlama, load_media, probe
from video_llama.attachment import MediaOptions
from video_llama.engine.features import FeatureCache, FeatureFiles
from video_llama.errors import (
    CorruptMediaError,
    MediaNotFoundError,
    OptionError,
    UnsupportedMediaError,
)
from video_llama.media.source import FramesArray, SoundArray
from video_llama.media_cache import MediaCache, pack, unpack


@pytest.fixture
def assistant(tiny_model_dir) -> VideoLlama:
    return VideoLlama.load(tiny_model_dir, device="cpu")


@pytest.fixture
def decodings(monkeypatch) -> list[int]:
    """One entry for each time a file is decoded."""
    calls: list[int] = []

    def counted(*args, **options):
        calls.append(1)
        return load_media(*args, **options)

    monkeypatch.setattr("video_llama.attachment.load_media", counted)
    return calls


def test_another_conversation_neither_decodes_nor_encodes(assistant, clip_path, decodings):
    first = assistant.chat(clip_path).answer("What?", max_new_tokens=8)
    for _ in range(3):
        again = assistant.chat(clip_path).answer("What?", max_new_tokens=8)
        assert again.text == first.text
        assert again.media == first.media
        assert again.timings.encode == 0
        assert again.tokens.reused == again.tokens.prompt - 1
    assert len(decodings) == 1
    assert (assistant.media.hits, assistant.media.misses) == (3, 1)


def test_another_configuration_of_the_same_weights_is_another_model(assistant, clip_path):
    """As in a folder of features that outlives a change of config.json."""
    key = assistant.media.open(clip_path, MediaOptions()).key
    config = assistant.model.config
    config.text_config.rope_theta = 1.0  # it is not asked
    assert assistant.media.open(clip_path, MediaOptions()).key == key
    config.position_extension = "window"
    assert assistant.media.open(clip_path, MediaOptions()).key != key


@pytest.mark.parametrize("make", [lambda x: x.bfloat16(), lambda x: x.half()])
def test_half_floats_of_torch_are_frames(assistant, make):
    frames = make(torch.rand(2, 32, 32, 3))
    assert assistant.chat(frames).media[0].frames == 2
    other = frames.clone()
    other[0] = 0
    keys = {assistant.media.open(x, MediaOptions()).key for x in (frames, frames.clone(), other)}
    assert len(keys) == 2


def test_pictures_of_pillow_that_do_not_decode(assistant, picture_bytes):
    for source in (Image.open(io.BytesIO(picture_bytes[: len(picture_bytes) // 2])),):
        with pytest.raises(CorruptMediaError, match="does not decode"):
            assistant.chat(source)
    closed = Image.open(io.BytesIO(picture_bytes))
    closed.close()
    with pytest.raises(CorruptMediaError, match="closed"):
        assistant.chat(closed)
    with pytest.raises(UnsupportedMediaError, match="arrays of numbers"):
        assistant.chat(np.array([[[None] * 3] * 4] * 4))


def test_a_clip_without_its_picture(assistant, clip_path):
    chat = assistant.chat(load_media(clip_path), with_picture=False)
    assert chat.media[0].frames == 0
    assert chat.media[0].sound == "used"


def test_frames_a_second_of_what_has_no_length(assistant, clip_path):
    sound = SoundArray(np.full(16_000 * 5, 0.1, np.float32), 16_000)
    assert assistant.chat(sound, fps=1000).media[0].frames == 0
    assert assistant.chat(clip_path, fps=1000).media[0].frames == probe(clip_path).video.num_frames
    for wrong in ({"num_frames": 0}, {"num_frames": "8"}, {"num_frames": 8.0}, {"fps": "2"}):
        with pytest.raises(OptionError, match=f"{next(iter(wrong))} must be"):
            assistant.chat(clip_path, **wrong)


@pytest.fixture
def picture_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 50).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def test_the_content_counts_not_the_place(assistant, clip_path, decodings, tmp_path, write_clip):
    data = clip_path.read_bytes()
    copy = tmp_path / clip_path.name
    copy.write_bytes(data)
    keys = {
        assistant.media.open(source, MediaOptions()).key
        for source in (clip_path, str(copy), data, io.BytesIO(data))
    }
    assert len(keys) == 1
    assert len(decodings) == 3  # one for each name that it was given
    write_clip(copy, tone=300.0)
    assert assistant.media.open(copy, MediaOptions()).key not in keys
    assert len(decodings) == 4


def test_settings_and_weights_count(assistant, clip_path):
    options = [MediaOptions(), MediaOptions(num_frames=2), MediaOptions(with_sound=False)]
    keys = {assistant.media.open(clip_path, one).key for one in options}
    with torch.no_grad():
        assistant.model.vision_branch.projector.bias += 1
    keys.add(assistant.media.open(clip_path, MediaOptions()).key)
    assistant.processor.num_frames = 3
    keys.add(assistant.media.open(clip_path, MediaOptions()).key)
    assert len(keys) == 5


def test_features_are_the_same_from_a_folder(assistant, clip_path, decodings, tmp_path):
    def open_anew():
        cache = FeatureCache(files=FeatureFiles(tmp_path))
        return MediaCache(assistant.model, assistant.processor, cache).open(
            clip_path, MediaOptions()
        )

    first, again = open_anew(), open_anew()
    assert len(decodings) == 1
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(again, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)
        elif not field.name.endswith("_seconds"):
            assert one == other
    assert unpack(pack(first), torch.device("cpu")).use == first.use


def test_those_who_ask_together_encode_once(assistant, clip_path, decodings):
    opened = []

    def ask():
        opened.append(assistant.media.open(clip_path, MediaOptions()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(decodings) == 1
    assert len({one.key for one in opened}) == 1
    assert len(opened) == 4


def test_decoded_media_are_told_apart(assistant, clip_path):
    pixels = np.zeros((2, 20, 30, 3), dtype=np.uint8)
    wave = np.sin(np.arange(16000) / 10).astype(np.float32)
    palette = Image.fromarray(pixels[0]).quantize(2)
    sources = [
        pixels,
        pixels[:1],
        pixels.transpose(0, 2, 1, 3).copy(),
        torch.from_numpy(pixels + 1),
        FramesArray(pixels, fps=2.0),
        FramesArray(pixels, times=[0.0, 2.0]),
        FramesArray(pixels, sound=SoundArray(wave, 16000)),
        SoundArray(wave, 16000),
        SoundArray(wave, 8000),
        Image.fromarray(pixels[0] + 9),
        palette,
        load_media(clip_path, num_frames=2),
        load_media(clip_path, num_frames=3),
    ]
    keys = [[assistant.media.open(one, MediaOptions()).key for one in sources] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == len(sources)


def test_errors_are_not_kept(assistant, tmp_path, write_clip):
    path = tmp_path / "clip.mkv"
    with pytest.raises(MediaNotFoundError):
        assistant.media.open(path, MediaOptions())
    write_clip(path)
    assert assistant.media.open(path, MediaOptions()).use.frames == 4
