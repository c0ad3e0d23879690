"""What tests of several parts share: a tiny random model with its processor, and generated media.

Every number of the tiny model is as small as the code allows; its weights are random, so its
answers are noise, but the same noise each time.
"""

import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import hypothesis
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, PreTrainedTokenizerFast

from video_llama.models import VideoLlamaConfig, VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor

# A busy machine takes a moment longer; hangs are looked for elsewhere.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

REPOSITORY = Path(__file__).parents[1]
RATE = 16_000
SPECIALS = ("<unk>", "<s>", "</s>")

# Sums are rounded otherwise with other numbers of threads, and the processes that tests start have
# one each. For those that begin Python anew, the variable.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, after three special ones; BOS before every text, as LLaMA has it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*SPECIALS, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_config(**changes: Any) -> VideoLlamaConfig:
    """A Video-LLaMA of some ten thousand weights."""
    qformer = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    settings: dict[str, Any] = {
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "qformer_config": qformer,
        "video_qformer_config": qformer,
        "audio_qformer_config": qformer,
        "imagebind_config": {
            "embedding_size": 16,
            "vision_hidden_size": 16,
            "vision_num_hidden_layers": 1,
            "vision_num_attention_heads": 2,
            "vision_image_size": 28,
            "audio_hidden_size": 16,
            "audio_num_hidden_layers": 1,
            "audio_num_attention_heads": 2,
        },
        "text_config": LlamaConfig(
            vocab_size=len(SPECIALS) + 256,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            initializer_range=0.4,  # so that what is seen and heard changes what is said
            bos_token_id=1,
            eos_token_id=2,
        ),
        "num_query_tokens": 4,
        "num_video_query_tokens": 4,
        "num_audio_query_tokens": 3,
        "initializer_range": 0.2,
    }
    return VideoLlamaConfig(**{**settings, **changes})


def save_tiny_model(directory: Path, *, template: str = "plain", audio: bool = True) -> Path:
    """A complete directory: weights, configuration, processor, tokenizer."""
    torch.manual_seed(0)
    model = VideoLlamaForConditionalGeneration(tiny_config(has_audio_branch=audio))
    model.generation_config.eos_token_id = 2
    model.save_pretrained(directory)
    processor = VideoLlamaProcessor(
        byte_tokenizer(),
        template=template,
        image_size=28,
        num_frames=4,
        num_clips=2,
        clip_seconds=0.5,
        num_image_tokens=4,
        num_video_tokens=4,
        num_audio_tokens=3 if audio else 0,
    )
    processor.save_pretrained(directory)
    return directory


def write_clip(
    path: Path, *, seconds: float = 1.0, tone: float | None = 440.0, picture: bool = True
) -> Path:
    """A small film: a square that moves, and a tone in Hz (0 is silence, None no sound at all)."""
    with av.open(str(path), "w") as container:
        video = _add_video(container) if picture else None
        audio = container.add_stream("pcm_s16le", rate=RATE) if tone is not None else None
        if audio is not None:
            audio.layout = "mono"
        if video is not None:
            for number in range(round(seconds * 8)):
                pixels = np.full((48, 64, 3), 30, dtype=np.uint8)
                pixels[10:26, 4 * number : 4 * number + 16] = (220, 60, 40)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 8)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            time = np.arange(round(seconds * RATE)) / RATE
            wave = (8000 * np.sin(2 * np.pi * (tone or 0.0) * time)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def _add_video(container: av.container.OutputContainer) -> av.VideoStream:
    stream = container.add_stream("mpeg4", rate=8)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    return stream


@pytest.fixture(name="run")
def _run_fixture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """`run(*arguments)` runs a command in this process, in a folder of its own: (status, stdout,
    stderr)."""
    from video_llama.cli import main

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("VIDEO_LLAMA_DEBUG", "")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="session", name="write_clip")
def _write_clip_fixture() -> Callable[..., Path]:
    """`write_clip(path, seconds=, tone=, picture=)`."""
    return write_clip


@pytest.fixture(scope="session", name="save_tiny_model")
def _save_tiny_model_fixture() -> Callable[..., Path]:
    """`save_tiny_model(directory, template=, audio=)`."""
    return save_tiny_model


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the template `plain`."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_silent_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without an audio branch."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "deaf", audio=False)


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of picture and sound."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mkv")


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """Real clips, where a machine has them."""
    given = os.environ.get("VIDEO_LLAMA_MEDIA_DIR")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "media"
    if not folder.is_dir():
        pytest.skip("no real clips: set VIDEO_LLAMA_MEDIA_DIR to a folder of media files")
    return folder
