"""The configuration of a model, from the shapes of its tensors.

Numbers of heads, and which of the input's sizes gave a grid, cannot be read off weights: they are
the published ones where the widths are, and have to be given otherwise.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from video_llama.checkpoints.table import to_published
from video_llama.errors import CheckpointError, OptionError
from video_llama.models import VideoLlamaConfig


class Shapes(dict[str, tuple[int, ...]]):
    """Our key -> shape. A key that is not there is an error that names the published one."""

    def __missing__(self, name: str) -> tuple[int, ...]:
        published = " and ".join(f"'{entry.name}'" for entry in to_published(name))
        if not published:
            raise OptionError(f"the settings ask for '{name}', which published files do not have")
        raise CheckpointError(f"{published} is in none of the given files; one is incomplete")


Sections = dict[str, dict[str, Any]]

# Field that weights do not tell -> {width: published value}.
PUBLISHED_HEADS = {
    "vision_config.num_attention_heads": {1408: 16},
    "qformer_config.num_attention_heads": {768: 12},
    "video_qformer_config.num_attention_heads": {768: 12},
    "imagebind_config.vision_num_attention_heads": {1280: 16},
    "imagebind_config.audio_num_attention_heads": {768: 12},
    "audio_qformer_config.num_attention_heads": {768: 12},
}
# BLIP-2 takes the residual stream before the last of EVA-ViT-g's 40 blocks.
PUBLISHED_VISION_DEPTH = {1408: 39}
MEL_BINS, MEL_FRAMES, AUDIO_STRIDE = 128, 204, 10  # of ImageBind-Huge

VISION = "vision_branch.vision_encoder"
IMAGEBIND = "audio_branch.imagebind"
POSITION_TABLE = f"{VISION}.embeddings.position_embedding"


def infer_config(
    shapes: Shapes,
    text_config: PreTrainedConfig,
    *,
    whole_vision_tower: bool,
    overrides: Mapping[str, Any] | None = None,
) -> VideoLlamaConfig:
    """The configuration of a model of these shapes (our key -> shape).

    `whole_vision_tower` says that the vision file has a final norm, so that its last block may be
    one too many. `overrides` are dotted names of configuration fields, such as
    "vision_config.num_attention_heads", and go before everything else.

    Raises CheckpointError when a needed size is neither in the weights nor given, OptionError for
    an override that names no field.
    """
    given = dict(overrides or {})
    _require_known(given, text_config)
    hears = "audio_branch.query_tokens" in shapes
    sections: Sections = {
        "vision_config": _vision(shapes, given, whole_vision_tower),
        "qformer_config": _qformer(shapes, "vision_branch.qformer"),
        "video_qformer_config": _qformer(shapes, "vision_branch.video_qformer"),
    }
    top: dict[str, Any] = {
        "num_query_tokens": shapes["vision_branch.query_tokens"][1],
        "num_video_query_tokens": shapes["vision_branch.video_query_tokens"][1],
        "max_frames": shapes["vision_branch.frame_position_embedding.weight"][0],
        "has_audio_branch": hears,
    }
    if hears:
        sections["imagebind_config"] = _imagebind(shapes, given)
        sections["audio_qformer_config"] = _qformer(shapes, "audio_branch.qformer")
        top["num_audio_query_tokens"] = shapes["audio_branch.query_tokens"][1]
        top["max_audio_clips"] = shapes["audio_branch.position_embedding.weight"][0]
    _add_heads(sections, given)
    for name, value in given.items():
        section, _, field = name.rpartition(".")
        if section == "text_config":
            setattr(text_config, field, value)
        elif section:
            sections.setdefault(section, {})[field] = value
        else:
            top[field] = value
    fields: dict[str, Any] = {**sections, **top, "text_config": text_config}
    return VideoLlamaConfig(**fields)


def _vision(shapes: Shapes, given: Mapping[str, Any], whole_tower: bool) -> dict[str, Any]:
    width, _, patch, _ = shapes[f"{VISION}.embeddings.patch_embedding.weight"]
    blocks = _count(shapes, f"{VISION}.encoder.layers")
    depth = given.get("vision_config.num_hidden_layers", PUBLISHED_VISION_DEPTH.get(width))
    if depth is None and whole_tower:
        raise CheckpointError(
            f"the vision file has {blocks} blocks and a final norm; the published models leave out "
            "the last block, and these weights do not tell: give "
            "--set vision_config.num_hidden_layers=NUMBER"
        )
    if depth is not None and depth > blocks:
        raise CheckpointError(f"the vision file has {blocks} blocks; {depth} are needed")
    return {
        "hidden_size": width,
        "intermediate_size": shapes[f"{VISION}.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": blocks if depth is None else depth,
        "patch_size": patch,
        "image_size": grid_side(shapes[POSITION_TABLE]) * patch,
    }


def _qformer(shapes: Shapes, prefix: str) -> dict[str, Any]:
    crossed = sorted(
        int(match.group(1))
        for name in shapes
        if (
            match := re.fullmatch(
                rf"{re.escape(prefix)}\.encoder\.layer\.(\d+)"
                r"\.crossattention\.attention\.query\.weight",
                name,
            )
        )
    )
    layers = _count(shapes, f"{prefix}.encoder.layer")
    frequency = crossed[1] - crossed[0] if len(crossed) > 1 else max(layers, 1)
    if crossed != list(range(0, layers, frequency)):
        raise CheckpointError(
            f"{prefix} has cross-attention in layers {crossed} of {layers}; every n-th layer from "
            "the first is wanted"
        )
    return {
        "hidden_size": shapes[f"{prefix}.layernorm.weight"][0],
        "intermediate_size": shapes[f"{prefix}.encoder.layer.0.intermediate_query.dense.weight"][0],
        "num_hidden_layers": layers,
        "cross_attention_frequency": frequency,
    }


def _imagebind(shapes: Shapes, given: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "embedding_size": shapes[f"{IMAGEBIND}.audio.head_projection.weight"][0],
        "feature_scaling": "published",
    }
    for side in ("vision", "audio"):
        width = shapes[f"{IMAGEBIND}.{side}.cls_token"][-1]
        hidden = shapes[f"{IMAGEBIND}.{side}.layers.0.mlp.fc1.weight"][0]
        fields[f"{side}_hidden_size"] = width
        fields[f"{side}_num_hidden_layers"] = _count(shapes, f"{IMAGEBIND}.{side}.layers")
        ratio = hidden / width
        # The width is rounded down again from the ratio.
        fields[f"{side}_mlp_ratio"] = ratio if int(width * ratio) == hidden else ratio + 0.5 / width
    _, _, frames, patch, _ = shapes[f"{IMAGEBIND}.vision.patch_embedding.weight"]
    table = shapes[f"{IMAGEBIND}.vision.position_embedding"]
    fields |= {
        "vision_patch_frames": frames,
        "vision_patch_size": patch,
        "vision_image_size": grid_side(table) * patch,
        "audio_patch_size": shapes[f"{IMAGEBIND}.audio.patch_embedding.weight"][-1],
    }
    _require_mel_grid(shapes, {**fields, **_section(given, "imagebind_config")})
    return fields


def _require_mel_grid(shapes: Shapes, fields: Mapping[str, Any]) -> None:
    size, stride = fields["audio_patch_size"], fields.get("audio_patch_stride", AUDIO_STRIDE)
    bins = fields.get("audio_mel_bins", MEL_BINS)
    frames = fields.get("audio_mel_frames", MEL_FRAMES)
    patches = ((bins - size) // stride + 1) * ((frames - size) // stride + 1)
    found = shapes[f"{IMAGEBIND}.audio.position_embedding"][1] - 1
    if patches != found:
        raise CheckpointError(
            f"ImageBind's table is for {found} patches of sound, and {bins} mel bins by {frames} "
            f"frames give {patches}; give --set imagebind_config.audio_mel_bins=NUMBER, and so "
            "audio_mel_frames and audio_patch_stride"
        )


def _add_heads(sections: Sections, given: Mapping[str, Any]) -> None:
    missing = []
    for name, published in PUBLISHED_HEADS.items():
        section, field = name.split(".")
        if section not in sections or name in given:
            continue
        width = sections[section][field.replace("num_attention_heads", "hidden_size")]
        if width in published:
            sections[section][field] = published[width]
        else:
            missing.append(name)
    if missing:
        raise CheckpointError(
            "these widths are not the published ones, and weights do not tell numbers of heads; "
            f"give --set {'=NUMBER --set '.join(missing)}=NUMBER"
        )


def _require_known(given: Mapping[str, Any], text_config: PreTrainedConfig) -> None:
    known = VideoLlamaConfig(text_config=text_config)
    for name in given:
        section, _, field = name.rpartition(".")
        owner = getattr(known, section, None) if section else known
        if not isinstance(owner, PreTrainedConfig) or not hasattr(owner, field):
            raise OptionError(
                f"'{name}' is no field of the configuration; "
                "an example is vision_config.num_attention_heads"
            )


def _section(given: Mapping[str, Any], section: str) -> dict[str, Any]:
    start = f"{section}."
    return {name[len(start) :]: value for name, value in given.items() if name.startswith(start)}


def _count(shapes: Shapes, prefix: str) -> int:
    """The number of numbered children: 0 .. n-1 of `prefix.N.`."""
    start = f"{prefix}."
    return len({name[len(start) :].split(".")[0] for name in shapes if name.startswith(start)})


def grid_side(table: tuple[int, ...]) -> int:
    """The side of the square grid of a position table (1, side * side + 1, D)."""
    side = math.isqrt(table[1] - 1)
    if side * side != table[1] - 1:
        raise CheckpointError(f"a position table of {table[1]} rows is no square grid and a cls")
    return side
