"""Both sides of ImageBind against the original, block by block."""

import torch

from video_llama.models.imagebind import MAX_SCALE
from video_llama.processing.frames import normalize_pixels


def side_modules(side):
    modules = {f"out.block_{number}": layer for number, layer in enumerate(side.layers)}
    return {
        **modules,
        "out.head.select": side.head_norm,
        "out.head.linear": side.head_projection,
    }


def outputs(tensors):
    return {name: tensor for name, tensor in tensors.items() if name.startswith("out.")}


def test_audio_side(kit, model, compare, record):
    tensors = kit.tensors("imagebind_audio")
    mel = tensors["in.mel"]
    side, batch = model.audio_branch.imagebind.audio, mel.shape[:2]
    computed = record(side_modules(side), lambda: side(mel.flatten(0, 1)))
    with torch.no_grad():
        computed["out.tokens"] = side.embed(mel.flatten(0, 1))
        final = model.audio_branch.imagebind.embed_audio(mel.flatten(0, 1))
    computed["out.pre_transformer_layer"] = computed["out.tokens"]  # there is none on this side
    computed["out.trunk"] = computed[f"out.block_{len(side.layers) - 1}"]
    computed["out.audio_feature"] = computed["out.head.select"].unflatten(0, batch)
    computed["out.audio_imagebind_finalout"] = final.unflatten(0, batch)
    compare(outputs(tensors), computed)


def test_audio_features_have_the_published_norm(kit, model):
    tensors = kit.tensors("imagebind_audio")
    scale = float(model.audio_branch.imagebind.audio.log_scale.exp().clamp(max=MAX_SCALE))
    norms = tensors["out.audio_imagebind_finalout"].norm(dim=-1)
    assert torch.allclose(norms, torch.full_like(norms, scale), rtol=1e-5)


def test_vision_side(kit, model, compare, record):
    tensors = kit.tensors("imagebind_vision")
    frames = tensors["in.frames_u8"]  # (B, T, 3, S, S)
    pixels = torch.stack([normalize_pixels(one.permute(0, 2, 3, 1).numpy()) for one in frames])
    side, batch = model.audio_branch.imagebind.vision, frames.shape[:2]
    modules = {**side_modules(side), "out.pre_transformer_layer": side.pre_layernorm}
    computed = record(modules, lambda: side(pixels.flatten(0, 1)))
    with torch.no_grad():
        computed["out.tokens"] = side.embed(pixels.flatten(0, 1))
        final = model.audio_branch.imagebind.embed_vision(pixels.flatten(0, 1))
    computed["out.trunk"] = computed[f"out.block_{len(side.layers) - 1}"]
    computed["out.audio_feature"] = computed["out.head.select"].unflatten(0, batch)
    computed["out.audio_imagebind_finalout"] = final.unflatten(0, batch)
    compare(outputs(tensors), computed)
