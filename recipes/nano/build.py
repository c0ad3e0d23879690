"""Puts tokenizer, processor and an untrained model together."""

import torch
from torch import nn

from recipes.nano.loop import DEVICE
from recipes.nano.material import Material
from recipes.nano.settings import IMAGE_SIZE, NUM_CLIPS, NUM_FRAMES, nano_config
from recipes.nano.text import train_tokenizer
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor


def new_processor(material: Material) -> VideoLlamaProcessor:
    """The processor of nano; trains the tokenizer if that has not been done."""
    config = nano_config(vocab_size=4, bos=1, eos=2, pad=0)
    return VideoLlamaProcessor(
        train_tokenizer(material),
        template="plain",
        image_size=IMAGE_SIZE,
        num_frames=NUM_FRAMES,
        num_clips=NUM_CLIPS,
        num_image_tokens=config.num_video_query_tokens,
        num_video_tokens=config.num_video_query_tokens,
        num_audio_tokens=config.num_audio_query_tokens,
    )


def new_model(processor: VideoLlamaProcessor, seed: int) -> VideoLlamaForConditionalGeneration:
    """Nano with random weights from a seed.

    The encoders' are those that torch gives its layers: what transformers draws is meant for wide
    ones, and two to five times smaller.
    """
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    config = nano_config(
        len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )
    model = VideoLlamaForConditionalGeneration(config)
    for encoder in (model.vision_branch.vision_encoder, model.audio_branch.imagebind):
        for layer in encoder.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.reset_parameters()
    return model.to(DEVICE)
