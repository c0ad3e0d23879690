"""The sizes of nano, and the seeds and amounts of its training."""

from pathlib import Path

from transformers import LlamaConfig

from video_llama.models import ImageBindConfig, VideoLlamaConfig, VideoLlamaVisionConfig

IMAGE_SIZE = 64  # pixels
NUM_FRAMES = 8
NUM_CLIPS = 3  # sound clips of 2 s
WIDTH = 192
EMBEDDING = 128  # width of the joint image-sound space
IMAGE_STEM = (48, 64, 256, 256)  # 64 -> 4 pixels
AUDIO_STEM = (16, 24, 48, 96, 192)  # 128 x 204 -> 4 x 6

SEED = 0
SCENES = {"frames": 64000, "clips": 30000, "sounds": 8000, "recorded": 32000}  # of each kind


def nano_config(vocab_size: int, bos: int, eos: int, pad: int) -> VideoLlamaConfig:
    """The configuration of nano around a tokenizer."""
    qformer = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "intermediate_size": 4 * WIDTH,
        "cross_attention_frequency": 1,
        "vocab_size": 1,
        "max_position_embeddings": 1,
    }
    return VideoLlamaConfig(
        vision_config=VideoLlamaVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=6,
            image_size=IMAGE_SIZE,
            patch_size=16,
            stem_channels=list(IMAGE_STEM),
        ),
        qformer_config=dict(qformer),
        video_qformer_config=dict(qformer),
        audio_qformer_config=dict(qformer, hidden_size=128, num_attention_heads=4),
        imagebind_config=ImageBindConfig(
            embedding_size=EMBEDDING,
            feature_scaling="centered",
            vision_hidden_size=WIDTH,
            vision_num_hidden_layers=1,
            vision_num_attention_heads=6,
            vision_image_size=IMAGE_SIZE,
            vision_patch_size=16,
            vision_stem_channels=list(IMAGE_STEM),
            audio_hidden_size=WIDTH,
            audio_num_hidden_layers=1,
            audio_num_attention_heads=6,
            audio_stem_channels=list(AUDIO_STEM),
        ),
        text_config=LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=1024,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        ),
        num_query_tokens=8,
        num_video_query_tokens=9,
        num_audio_query_tokens=2,
        max_frames=32,
        max_audio_clips=8,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def work_dir(path: str | Path) -> Path:
    """The folder of a build, made if it is not there."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
