"""Frames to tokens of the language model (paper, section 2.1.1).

Legend: M media, T frames, K frames that are not padding, P patches + cls, Q image queries,
V video queries, D width.
"""

import torch
from torch import nn
from transformers import Blip2QFormerModel, Blip2VisionModel

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.qformer import ask, keep_frozen_in_eval, positions
from video_llama.models.stems import ConvStem

LN_VISION_EPS = 1e-5  # BLIP-2's `ln_vision`; the blocks before it use 1e-6


class VisionBranch(nn.Module):
    """ViT and image Q-Former on every frame, positions, Video Q-Former, projection."""

    def __init__(self, config: VideoLlamaConfig) -> None:
        super().__init__()
        self.position_extension = config.position_extension
        width = config.qformer_config.hidden_size
        self.vision_encoder = Blip2VisionModel._from_config(config.vision_config)
        self.vision_encoder.post_layernorm.eps = LN_VISION_EPS
        if config.vision_config.stem_channels:
            vision = config.vision_config
            stem = ConvStem(3, vision.stem_channels, vision.hidden_size)
            self.vision_encoder.embeddings.register_module("patch_embedding", stem)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, width))
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config)
        self.frame_position_embedding = nn.Embedding(config.max_frames, width)
        video_width = config.video_qformer_config.hidden_size
        self.video_query_tokens = nn.Parameter(
            torch.zeros(1, config.num_video_query_tokens, video_width)
        )
        self.video_qformer = Blip2QFormerModel._from_config(config.video_qformer_config)
        self.projector = nn.Linear(video_width, config.text_config.hidden_size)

    def train(self, mode: bool = True) -> "VisionBranch":
        """Training mode for what trains; what is frozen stays in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self.vision_encoder, self.qformer)
        return self

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (K, 3, S, S), each on its own -> (K, Q, D)."""
        states = self.vision_encoder(frames, return_dict=True).last_hidden_state  # (K, P, D)
        return ask(self.qformer, self.query_tokens, states)

    def join_frames(
        self, frame_states: torch.Tensor, frame_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Frame states (M, T, Q, D) in time order -> (M, V, width of the language model).

        `frame_mask` (M, T) is True for frames that are there.
        """
        count, frames, queries, _ = frame_states.shape
        rows = positions(
            self.frame_position_embedding, (count, frames), frame_mask, self.position_extension
        )
        states = (frame_states + rows[:, :, None]).flatten(1, 2)  # (M, T * Q, D)
        mask = None
        if frame_mask is not None and not frame_mask.all():
            mask = frame_mask.repeat_interleave(queries, dim=1)
        return self.projector(ask(self.video_qformer, self.video_query_tokens, states, mask))

    def forward(
        self, pixel_values_videos: torch.Tensor, video_frame_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(M, T, 3, S, S), frames that are padding marked False in the mask (M, T) -> (M, V, D)."""
        if video_frame_mask is None:
            video_frame_mask = pixel_values_videos.new_ones(
                pixel_values_videos.shape[:2], dtype=torch.bool
            )
        encoded = self.encode_frames(pixel_values_videos[video_frame_mask])  # (K, Q, D)
        states = encoded.new_zeros((*video_frame_mask.shape, *encoded.shape[1:]))
        states[video_frame_mask] = encoded
        return self.join_frames(states, video_frame_mask)
