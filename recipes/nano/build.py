"""Puts tokenizer, processor and an untrained model together."""

from pathlib import Path

import torch

from recipes.nano.settings import IMAGE_SIZE, NUM_CLIPS, NUM_FRAMES, SEED, nano_config
from recipes.nano.text import train_tokenizer
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor


def new_processor(folder: Path) -> VideoLlamaProcessor:
    """The processor of nano; trains the tokenizer if that has not been done."""
    config = nano_config(vocab_size=4, bos=1, eos=2, pad=0)
    return VideoLlamaProcessor(
        train_tokenizer(folder / "tokenizer"),
        template="plain",
        image_size=IMAGE_SIZE,
        num_frames=NUM_FRAMES,
        num_clips=NUM_CLIPS,
        num_image_tokens=config.num_video_query_tokens,
        num_video_tokens=config.num_video_query_tokens,
        num_audio_tokens=config.num_audio_query_tokens,
    )


def new_model(processor: VideoLlamaProcessor) -> VideoLlamaForConditionalGeneration:
    """Nano with random weights from the recipe's seed."""
    tokenizer = processor.tokenizer
    torch.manual_seed(SEED)
    config = nano_config(
        len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )
    return VideoLlamaForConditionalGeneration(config)
