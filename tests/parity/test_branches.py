"""Both branches against the original, from pixels and mel clips to tokens of the language model."""

import pytest
import torch

from video_llama.processing.frames import normalize_pixels


def attention_over(tokens: torch.Tensor) -> torch.Tensor:
    """The original hands a mask of ones with its tokens; here they simply all count."""
    return torch.ones(tokens.shape[:2], dtype=torch.int64)


@pytest.mark.parametrize("case", ["", "t1."])
def test_video_branch(kit, model, compare, record, qformer_modules, case):
    tensors = {
        n: t for n, t in kit.tensors("video_branch").items() if n.startswith("t1.") == bool(case)
    }
    branch = model.vision_branch
    video = tensors.pop(f"{case}in.video").transpose(1, 2)  # (B, T, 3, S, S)
    modules = {
        **qformer_modules(branch.qformer, "out.image_qformer."),
        **qformer_modules(branch.video_qformer, "out.video_qformer."),
        "encoder": branch.vision_encoder,
        "out.inputs_llama": branch.projector,
        "image": branch.qformer,
        "video": branch.video_qformer,
    }
    computed = record(modules, lambda: model.get_video_features(video))
    computed["out.image_embeds"] = computed.pop("encoder").last_hidden_state
    computed["out.image_qformer.last_hidden_state"] = computed.pop("image").last_hidden_state
    computed["out.video_qformer.last_hidden_state"] = computed.pop("video").last_hidden_state
    batch, frames = video.shape[:2]
    rows = branch.frame_position_embedding.weight[:frames].detach()
    states = computed["out.image_qformer.last_hidden_state"].unflatten(0, (batch, frames))
    computed["out.frame_position_embeddings"] = rows.expand(batch, -1, -1)
    computed["out.frame_hidden_state"] = (states + rows[None, :, None]).flatten(1, 2)
    computed["out.atts_llama"] = attention_over(computed["out.inputs_llama"])
    compare(tensors, {f"{case}{name}": tensor for name, tensor in computed.items()})


@pytest.mark.parametrize("modality", ["audio", "vision"])
def test_audio_branch(kit, model, compare, record, qformer_modules, modality):
    tensors = kit.tensors("audio_branch")
    mel = tensors.pop("in.audio.mel")
    recorded = {n: t for n, t in tensors.items() if n.startswith(f"out.{modality}.")}
    inputs = mel
    if modality == "vision":
        frames = kit.tensors("imagebind_vision")["in.frames_u8"]
        inputs = torch.stack([normalize_pixels(one.permute(0, 2, 3, 1).numpy()) for one in frames])
    branch, prefix = model.audio_branch, f"out.{modality}."
    modules = {
        **qformer_modules(branch.qformer, f"{prefix}audio_qformer."),
        f"{prefix}inputs_llama": branch.projector,
        "qformer": branch.qformer,
    }
    computed = record(modules, lambda: model.get_audio_features(inputs, modality=modality))
    last = computed.pop("qformer").last_hidden_state
    computed[f"{prefix}audio_qformer.last_hidden_state"] = last
    batch, clips = inputs.shape[:2]
    rows = branch.position_embedding.weight[:clips].detach()
    with torch.no_grad():
        encoded = branch.encode_clips(inputs.flatten(0, 1), modality).unflatten(0, (batch, clips))
    computed[f"{prefix}position_embeddings"] = rows.expand(batch, -1, -1)
    computed[f"{prefix}encoder_hidden_states"] = encoded + rows
    computed[f"{prefix}atts_llama"] = attention_over(computed[f"{prefix}inputs_llama"])
    compare(recorded, computed)


def test_every_tensor_of_the_file_is_used(kit):
    assert {n.split(".")[1] for n in kit.tensors("audio_branch") if n.startswith("out.")} == {
        "audio",
        "vision",
    }
