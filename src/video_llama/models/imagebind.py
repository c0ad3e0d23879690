"""The sound and picture sides of ImageBind (Girdhar et al. 2023, arXiv 2305.05665).

Key names of the published file are mapped to these modules in `checkpoints`.

Legend: N items, L tokens, D width, H heads, E embedding width (1024 as published),
M mel bins, F mel frames.
"""

import torch
from torch import nn
from torch.nn import functional as F

from video_llama.models.configuration import ImageBindConfig
from video_llama.models.stems import ConvStem

BLOCK_EPS = 1e-6  # blocks, the norm before them (pictures) and the heads
STEM_EPS = 1e-5  # the norm after the sound's patch embedding
MAX_SCALE = 100.0


class Attention(nn.Module):
    """Self-attention; the sound side appends one learned key and value (`bias_k`, `bias_v`)."""

    def __init__(self, width: int, heads: int, key_value_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        if key_value_bias:
            self.bias_k = nn.Parameter(torch.zeros(1, 1, width))
            self.bias_v = nn.Parameter(torch.zeros(1, 1, width))
        else:
            self.bias_k = self.bias_v = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> the same."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(x.shape[0], -1, -1)], dim=1)  # (N, L + 1, D)
            v = torch.cat([v, self.bias_v.expand(x.shape[0], -1, -1)], dim=1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)  # (N, H, L, D / H)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) -> the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, key_value_bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.attention = Attention(width, heads, key_value_bias)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageBindAudio(nn.Module):
    """Mel clips (N, 1, M, F) -> unscaled embeddings (N, E)."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        width = config.audio_hidden_size
        if config.audio_stem_channels:
            channels = config.audio_stem_channels
            self.patch_embedding = ConvStem(1, channels, width)
            grid = [n >> len(channels) for n in (config.audio_mel_bins, config.audio_mel_frames)]
        else:
            size, stride = config.audio_patch_size, config.audio_patch_stride
            self.patch_embedding = nn.Conv2d(1, width, size, stride=stride, bias=False)
            grid = [
                (n - size) // stride + 1 for n in (config.audio_mel_bins, config.audio_mel_frames)
            ]
        self.patch_norm = nn.LayerNorm(width, eps=STEM_EPS)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + 1, width))
        self.layers = nn.ModuleList(
            Block(width, config.audio_num_attention_heads, config.audio_mlp_ratio, True)
            for _ in range(config.audio_num_hidden_layers)
        )
        self.head_norm = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.head_projection = nn.Linear(width, config.embedding_size, bias=False)
        self.register_buffer("log_scale", torch.tensor(20.0).log())
        self.register_buffer("mean", _mean_buffer(config))

    def embed(self, mel: torch.Tensor) -> torch.Tensor:
        """(N, 1, M, F) -> tokens before the blocks (N, L, D), the cls token first."""
        patches = self.patch_embedding(mel).flatten(2).transpose(1, 2)  # frequency-major
        patches = self.patch_norm(patches)
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat([cls, patches], dim=1) + self.position_embedding

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """(N, 1, M, F) -> (N, E), neither normalised nor scaled."""
        x = self.embed(mel)
        for layer in self.layers:
            x = layer(x)
        return self.head_projection(self.head_norm(x[:, 0]))


class ImageBindVision(nn.Module):
    """Pictures (N, 3, S, S) -> unscaled embeddings (N, E).

    The published side reads two frames at a time and is always given the same one twice, so its
    3-D kernel acts as the sum of its slices.
    """

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        width, size = config.vision_hidden_size, config.vision_image_size
        if config.vision_stem_channels:
            channels = config.vision_stem_channels
            self.patch_embedding = ConvStem(3, channels, width)
            side = size >> len(channels)
        else:
            patch = config.vision_patch_size
            kernel = (config.vision_patch_frames, patch, patch)
            self.patch_embedding = nn.Conv3d(3, width, kernel, stride=kernel, bias=False)
            side = size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, side * side + 1, width))
        self.pre_layernorm = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.layers = nn.ModuleList(
            Block(width, config.vision_num_attention_heads, config.vision_mlp_ratio, False)
            for _ in range(config.vision_num_hidden_layers)
        )
        self.head_norm = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.head_projection = nn.Linear(width, config.embedding_size, bias=False)
        self.register_buffer("mean", _mean_buffer(config))

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) -> tokens before the first norm (N, L, D), the cls token first."""
        if isinstance(self.patch_embedding, nn.Conv3d):
            kernel = self.patch_embedding.weight.sum(dim=2)
            patches = F.conv2d(pixels, kernel, stride=self.patch_embedding.stride[1:])
        else:
            patches = self.patch_embedding(pixels)
        patches = patches.flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat([cls, patches], dim=1) + self.position_embedding

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) -> (N, E), not normalised."""
        x = self.pre_layernorm(self.embed(pixels))
        for layer in self.layers:
            x = layer(x)
        return self.head_projection(self.head_norm(x[:, 0]))


class ImageBind(nn.Module):
    """Both sides, scaled as the audio branch wants them."""

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        self.feature_scaling = config.feature_scaling
        self.vision = ImageBindVision(config)
        self.audio = ImageBindAudio(config)

    def embed_audio(self, mel: torch.Tensor) -> torch.Tensor:
        """Mel clips (N, 1, M, F) -> (N, E)."""
        features = F.normalize(self.audio(mel), dim=-1)
        if self.feature_scaling == "published":
            return features * self.audio.log_scale.exp().clamp(max=MAX_SCALE)
        return self._center(features, self.audio.mean)

    def embed_vision(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, S, S) -> (N, E)."""
        return self._center(F.normalize(self.vision(pixels), dim=-1), self.vision.mean)

    def _center(self, features: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor:
        if mean is None:
            return features
        return F.normalize(features - mean, dim=-1) * features.shape[-1] ** 0.5


def _mean_buffer(config: ImageBindConfig) -> torch.Tensor | None:
    return torch.zeros(config.embedding_size) if config.feature_scaling == "centered" else None
