"""The one table between the keys of the published model and ours; it is read in both directions.

Published keys are those of the assembled original (`visual_encoder.blocks.0.norm1.weight`); in the
published files they stand behind the prefix of `FILE_PREFIXES`. A pattern may hold `{i}` (a layer
number), `{p}` ("weight" or "bias") and `{rest}` (anything).
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal[
    "eva",
    "blip2",
    "language_model",
    "projection",
    "imagebind",
    "video_branch",
    "audio_branch",
]
Part = Literal["whole", "query", "value"]

# The order in which the original reads its files; what is read later replaces what was there.
LOAD_ORDER: tuple[Kind, ...] = (
    "eva",
    "blip2",
    "language_model",
    "projection",
    "imagebind",
    "video_branch",
    "audio_branch",
)

# What a file leaves out of the keys of the assembled model.
FILE_PREFIXES: dict[Kind, str] = {
    "eva": "visual_encoder.",
    "blip2": "",
    "language_model": "llama_model.",
    "projection": "",
    "imagebind": "audio_encoder.",
    "video_branch": "",
    "audio_branch": "",
}


@dataclass(frozen=True)
class Rule:
    """A published key and ours.

    `part` says what of our tensor the published one is: all of it, or the first ("query") or last
    ("value") third of a bias whose middle third is zero: EVA's keys have no bias.
    """

    kind: Kind
    published: str
    ours: str
    part: Part = "whole"


@dataclass(frozen=True)
class Droppable:
    """Published keys that nothing here needs, and why."""

    published: str
    why: str


@dataclass(frozen=True)
class Target:
    """Our key, and what of its tensor is meant."""

    name: str
    part: Part


@dataclass(frozen=True)
class Published:
    """A published key, the file it belongs to, and what of our tensor it is."""

    name: str
    kind: Kind
    part: Part


def _qformer(kind: Kind, published: str, ours: str) -> list[Rule]:
    layer, mine = f"{published}.bert.encoder.layer.{{i}}", f"{ours}.encoder.layer.{{i}}"
    rules = [Rule(kind, f"{published}.bert.embeddings.LayerNorm.{{p}}", f"{ours}.layernorm.{{p}}")]
    for attention in ("attention", "crossattention"):
        for projection in ("query", "key", "value"):
            rules.append(
                Rule(
                    kind,
                    f"{layer}.{attention}.self.{projection}.{{p}}",
                    f"{mine}.{attention}.attention.{projection}.{{p}}",
                )
            )
    same = (
        "attention.output.dense",
        "attention.output.LayerNorm",
        "crossattention.output.dense",
        "crossattention.output.LayerNorm",
        "intermediate_query.dense",
        "output_query.dense",
        "output_query.LayerNorm",
    )
    return rules + [Rule(kind, f"{layer}.{name}.{{p}}", f"{mine}.{name}.{{p}}") for name in same]


def _eva() -> list[Rule]:
    ours = "vision_branch.vision_encoder"
    block, layer = "visual_encoder.blocks.{i}", f"{ours}.encoder.layers.{{i}}"
    pairs = [
        ("visual_encoder.cls_token", f"{ours}.embeddings.class_embedding"),
        ("visual_encoder.pos_embed", f"{ours}.embeddings.position_embedding"),
        ("visual_encoder.patch_embed.proj.{p}", f"{ours}.embeddings.patch_embedding.{{p}}"),
        (f"{block}.norm1.{{p}}", f"{layer}.layer_norm1.{{p}}"),
        (f"{block}.attn.qkv.weight", f"{layer}.self_attn.qkv.weight"),
        (f"{block}.attn.proj.{{p}}", f"{layer}.self_attn.projection.{{p}}"),
        (f"{block}.norm2.{{p}}", f"{layer}.layer_norm2.{{p}}"),
        (f"{block}.mlp.fc1.{{p}}", f"{layer}.mlp.fc1.{{p}}"),
        (f"{block}.mlp.fc2.{{p}}", f"{layer}.mlp.fc2.{{p}}"),
    ]
    bias = f"{layer}.self_attn.qkv.bias"
    return [Rule("eva", published, mine) for published, mine in pairs] + [
        Rule("eva", f"{block}.attn.q_bias", bias, "query"),
        Rule("eva", f"{block}.attn.v_bias", bias, "value"),
    ]


def _imagebind(side: Literal["vision", "audio"]) -> list[Rule]:
    stem = f"audio_encoder.modality_preprocessors.{side}"
    block = f"audio_encoder.modality_trunks.{side}.blocks.{{i}}"
    head = f"audio_encoder.modality_heads.{side}"
    ours = f"audio_branch.imagebind.{side}"
    layer = f"{ours}.layers.{{i}}"
    pairs = [
        (f"{stem}.cls_token", f"{ours}.cls_token"),
        (f"{stem}.pos_embedding_helper.pos_embed", f"{ours}.position_embedding"),
        (f"{block}.norm_1.{{p}}", f"{layer}.norm1.{{p}}"),
        (f"{block}.attn.in_proj_{{p}}", f"{layer}.attention.qkv.{{p}}"),
        (f"{block}.attn.out_proj.{{p}}", f"{layer}.attention.out_proj.{{p}}"),
        (f"{block}.norm_2.{{p}}", f"{layer}.norm2.{{p}}"),
        (f"{block}.mlp.fc1.{{p}}", f"{layer}.mlp.fc1.{{p}}"),
        (f"{block}.mlp.fc2.{{p}}", f"{layer}.mlp.fc2.{{p}}"),
        (f"{head}.0.{{p}}", f"{ours}.head_norm.{{p}}"),
        (f"{head}.2.weight", f"{ours}.head_projection.weight"),
    ]
    if side == "vision":
        before = "audio_encoder.modality_trunks.vision.pre_transformer_layer.0.{p}"
        pairs += [
            (f"{stem}.rgbt_stem.proj.1.weight", f"{ours}.patch_embedding.weight"),
            (before, f"{ours}.pre_layernorm.{{p}}"),
        ]
    else:
        scale = "audio_encoder.modality_postprocessors.audio.1.log_logit_scale"
        pairs += [
            (f"{stem}.rgbt_stem.proj.weight", f"{ours}.patch_embedding.weight"),
            (f"{stem}.rgbt_stem.norm_layer.{{p}}", f"{ours}.patch_norm.{{p}}"),
            (f"{block}.attn.bias_k", f"{layer}.attention.bias_k"),
            (f"{block}.attn.bias_v", f"{layer}.attention.bias_v"),
            (scale, f"{ours}.log_scale"),
        ]
    return [Rule("imagebind", published, mine) for published, mine in pairs]


RULES: tuple[Rule, ...] = (
    *_eva(),
    Rule("blip2", "ln_vision.{p}", "vision_branch.vision_encoder.post_layernorm.{p}"),
    Rule("blip2", "query_tokens", "vision_branch.query_tokens"),
    *_qformer("blip2", "Qformer", "vision_branch.qformer"),
    Rule("language_model", "llama_model.{rest}", "language_model.{rest}"),
    *_imagebind("vision"),
    *_imagebind("audio"),
    Rule(
        "video_branch",
        "video_frame_position_embedding.weight",
        "vision_branch.frame_position_embedding.weight",
    ),
    Rule("video_branch", "video_query_tokens", "vision_branch.video_query_tokens"),
    *_qformer("video_branch", "video_Qformer", "vision_branch.video_qformer"),
    Rule("video_branch", "llama_proj.{p}", "vision_branch.projector.{p}"),
    Rule(
        "audio_branch", "audio_position_embedding.weight", "audio_branch.position_embedding.weight"
    ),
    Rule("audio_branch", "audio_query_tokens", "audio_branch.query_tokens"),
    *_qformer("audio_branch", "audio_Qformer", "audio_branch.qformer"),
    Rule("audio_branch", "audio_llama_proj.{p}", "audio_branch.projector.{p}"),
)

_OTHER_MODALITIES = ("text", "depth", "thermal", "imu")
_IMAGEBIND_PARTS = ("preprocessors", "trunks", "heads", "postprocessors")
_TEXT_SIDE = "the text side of a Q-Former, which sees queries only"
_CLASSIFIER = "EVA's own final norm and classifier"
_OTHER_HEAD = "BLIP-2's own head or way to another language model"

# Read before the rules, so that `llama_model.{rest}` does not take the buffers.
DROPPABLE: tuple[Droppable, ...] = (
    Droppable("llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq", "a computed buffer"),
    Droppable("visual_encoder.norm.{p}", _CLASSIFIER),
    Droppable("visual_encoder.fc_norm.{p}", _CLASSIFIER),
    Droppable("visual_encoder.head.{p}", _CLASSIFIER),
    Droppable("visual_encoder.mask_token", "EVA's own pre-training"),
    *(
        Droppable(f"{qformer}.{pattern}", why)
        for qformer in ("Qformer", "video_Qformer", "audio_Qformer")
        for pattern, why in (
            ("bert.embeddings.position_ids", "a computed buffer"),
            ("bert.embeddings.word_embeddings.weight", _TEXT_SIDE),
            ("bert.embeddings.position_embeddings.weight", _TEXT_SIDE),
            ("bert.encoder.layer.{i}.intermediate.dense.{p}", _TEXT_SIDE),
            ("bert.encoder.layer.{i}.output.dense.{p}", _TEXT_SIDE),
            ("bert.encoder.layer.{i}.output.LayerNorm.{p}", _TEXT_SIDE),
            ("cls.{rest}", _TEXT_SIDE),
        )
    ),
    *(
        Droppable(pattern, _OTHER_HEAD)
        for pattern in (
            "t5_proj.{p}",
            "opt_proj.{p}",
            "vision_proj.{p}",
            "text_proj.{p}",
            "itm_head.{p}",
            "temp",
        )
    ),
    *(
        Droppable(f"audio_encoder.modality_{part}.{modality}.{{rest}}", "another side of ImageBind")
        for part in _IMAGEBIND_PARTS
        for modality in _OTHER_MODALITIES
    ),
)

# What a trainer writes beside {"model": ...}.
TRAINER_STATES = ("optimizer", "scaler", "config", "epoch")

_WILDCARDS = {"{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>weight|bias)", "{rest}": r"(?P<rest>.+)"}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    expression = re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}")
    for wildcard, group in _WILDCARDS.items():
        expression = expression.replace(wildcard, group)
    return re.compile(expression)


def _translate(key: str, pattern: str, into: str) -> str | None:
    match = _compiled(pattern).fullmatch(key)
    return into.format(**match.groupdict()) if match else None


def droppable(key: str) -> str | None:
    """Why a published key is not needed; None when it is."""
    for entry in DROPPABLE:
        if _compiled(entry.published).fullmatch(key):
            return entry.why
    return None


def to_ours(key: str) -> Target | None:
    """Our place of a published key; None when the table does not have it."""
    for rule in RULES:
        name = _translate(key, rule.published, rule.ours)
        if name is not None:
            return Target(name, rule.part)
    return None


def to_published(name: str) -> list[Published]:
    """The published keys that make up one of ours; empty when the table does not have it."""
    found = []
    for rule in RULES:
        key = _translate(name, rule.ours, rule.published)
        if key is not None:
            found.append(Published(key, rule.kind, rule.part))
    return found
