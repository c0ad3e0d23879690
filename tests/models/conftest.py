"""Tiny models with random weights."""

from typing import Any

import pytest
import torch

from video_llama.models import VideoLlamaConfig, VideoLlamaForConditionalGeneration

VOCABULARY = 50


def _tiny_config(**changes: Any) -> VideoLlamaConfig:
    qformer = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
    fields: dict[str, Any] = {
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "qformer_config": {**qformer, "num_hidden_layers": 2},
        "video_qformer_config": qformer,
        "audio_qformer_config": qformer,
        "imagebind_config": {
            "embedding_size": 12,
            "vision_hidden_size": 16,
            "vision_num_hidden_layers": 1,
            "vision_num_attention_heads": 2,
            "vision_image_size": 28,
            "audio_hidden_size": 16,
            "audio_num_hidden_layers": 1,
            "audio_num_attention_heads": 2,
            "audio_mel_bins": 36,
            "audio_mel_frames": 46,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "num_query_tokens": 4,
        "num_video_query_tokens": 3,
        "num_audio_query_tokens": 2,
        "max_frames": 4,
        "max_audio_clips": 3,
        "initializer_range": 0.3,
    }
    return VideoLlamaConfig(**{**fields, **changes})


@pytest.fixture(scope="session")
def tiny_config():
    """A function that gives a tiny configuration with fields changed."""
    return _tiny_config


@pytest.fixture(scope="session")
def tiny_model():
    """A function that gives a tiny model, the same for the same configuration."""

    def build(**changes: Any) -> VideoLlamaForConditionalGeneration:
        torch.manual_seed(0)
        model = VideoLlamaForConditionalGeneration(_tiny_config(**changes)).eval()
        with torch.no_grad():  # spread out, so that greedy choices are clear
            for parameter in model.language_model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
        return model

    return build


@pytest.fixture(scope="session")
def model(tiny_model):
    """A tiny model that tests leave as it is."""
    return tiny_model()


@pytest.fixture
def media(model):
    """Random media for two pictures or videos of two frames, and two sounds of two clips."""
    torch.manual_seed(1)
    config = model.config
    size = config.vision_config.image_size
    mel = (config.imagebind_config.audio_mel_bins, config.imagebind_config.audio_mel_frames)
    return {
        "pixel_values_videos": torch.randn(2, 2, 3, size, size),
        "input_features": torch.randn(2, 2, 1, *mel),
    }


@pytest.fixture
def prompt(model):
    """A function that gives the ids (L) of a prompt with a sound and a video in it."""
    config = model.config

    def build(*text: int) -> list[int]:
        heard = [config.audio_token_id] * config.num_audio_query_tokens
        seen = [config.video_token_id] * config.num_video_query_tokens
        return [1, *heard, 7, *seen, *text]

    return build
