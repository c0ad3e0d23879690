"""The processor that goes with a converted model."""

import shutil
from pathlib import Path

from video_llama.errors import CheckpointError
from video_llama.models import VideoLlamaConfig
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.processing.tokenizer import load_tokenizer

SENTENCEPIECE_FILE = "tokenizer.model"

# What tokenizers are made of, in any directory.
TOKENIZER_FILES = (
    SENTENCEPIECE_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Settings of the published models that do not show in their weights.
NUM_FRAMES = 8
SOUND_CHANNELS = "first"


def write_processor(
    directory: Path, language_model: Path, config: VideoLlamaConfig, template: str
) -> None:
    """Write the processor of a converted model: the language model's tokenizer and sizes that fit.

    Raises CheckpointError when the language model's directory has no tokenizer that can be read.
    """
    try:
        tokenizer = load_tokenizer(language_model)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(
            f"{language_model.name} has no tokenizer that can be read: tokenizer.model or "
            "tokenizer.json is wanted beside the weights"
        ) from error
    processor = VideoLlamaProcessor(
        tokenizer,
        template=template,
        image_size=config.vision_config.image_size,
        num_frames=min(NUM_FRAMES, config.max_frames),
        num_clips=config.max_audio_clips,
        num_mel_bins=config.imagebind_config.audio_mel_bins,
        target_length=config.imagebind_config.audio_mel_frames,
        sound_channels=SOUND_CHANNELS,
        num_image_tokens=config.num_video_query_tokens,
        num_video_tokens=config.num_video_query_tokens,
        num_audio_tokens=config.num_audio_query_tokens if config.has_audio_branch else 0,
        image_token_id=config.image_token_id,
        video_token_id=config.video_token_id,
        audio_token_id=config.audio_token_id,
    )
    processor.save_pretrained(directory)
    copy_sentencepiece(language_model, directory)


def copy_sentencepiece(source: Path, directory: Path) -> None:
    """Keep the original tokenizer's file, if there is one, for converting back; the processor
    reads its own files."""
    original = source / SENTENCEPIECE_FILE
    if original.is_file():
        shutil.copyfile(original, directory / SENTENCEPIECE_FILE)
