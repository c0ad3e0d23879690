"""Sound clips to tokens of the language model (paper, section 2.1.2).

Legend: A media, C clips, K clips that are not padding, E embedding width, U audio queries.
"""

from typing import Literal

import torch
from torch import nn
from transformers import Blip2QFormerModel

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.imagebind import ImageBind
from video_llama.models.qformer import ask, keep_frozen_in_eval, positions


class AudioBranch(nn.Module):
    """ImageBind on every clip, positions, Audio Q-Former, projection.

    ImageBind puts sounds and pictures in one space, so the branch takes either.
    """

    def __init__(self, config: VideoLlamaConfig) -> None:
        super().__init__()
        self.position_extension = config.position_extension
        self.imagebind = ImageBind(config.imagebind_config)
        self.position_embedding = nn.Embedding(
            config.max_audio_clips, config.imagebind_config.embedding_size
        )
        width = config.audio_qformer_config.hidden_size
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_audio_query_tokens, width))
        self.qformer = Blip2QFormerModel._from_config(config.audio_qformer_config)
        self.projector = nn.Linear(width, config.text_config.hidden_size)

    def train(self, mode: bool = True) -> "AudioBranch":
        """Training mode for what trains; what is frozen stays in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self.imagebind)
        return self

    def encode_clips(
        self, clips: torch.Tensor, modality: Literal["audio", "vision"] = "audio"
    ) -> torch.Tensor:
        """Mel clips (K, 1, mels, frames) or pictures (K, 3, S, S) -> embeddings (K, E)."""
        if modality == "vision":
            return self.imagebind.embed_vision(clips)
        return self.imagebind.embed_audio(clips)

    def join_clips(
        self, embeddings: torch.Tensor, clip_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embeddings (A, C, E) in time order -> (A, U, width of the language model).

        `clip_mask` (A, C) is True for clips that are there.
        """
        count, clips, _ = embeddings.shape
        rows = positions(
            self.position_embedding, (count, clips), clip_mask, self.position_extension
        )
        mask = None if clip_mask is None or bool(clip_mask.all()) else clip_mask
        return self.projector(ask(self.qformer, self.query_tokens, embeddings + rows, mask))

    def forward(
        self,
        input_features: torch.Tensor,
        audio_clip_mask: torch.Tensor | None = None,
        modality: Literal["audio", "vision"] = "audio",
    ) -> torch.Tensor:
        """Clips (A, C, 1, mels, frames) or frames (A, C, 3, S, S) -> (A, U, D)."""
        if audio_clip_mask is None:
            audio_clip_mask = input_features.new_ones(input_features.shape[:2], dtype=torch.bool)
        encoded = self.encode_clips(input_features[audio_clip_mask], modality)  # (K, E)
        embeddings = encoded.new_zeros((*audio_clip_mask.shape, encoded.shape[-1]))
        embeddings[audio_clip_mask] = encoded
        return self.join_clips(embeddings, audio_clip_mask)
