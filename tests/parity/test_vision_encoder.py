"""EVA-ViT-g and `ln_vision` against the original, block by block."""

import torch

from video_llama.checkpoints.plan import resize_position_table


def test_every_activation(kit, model, compare, record):
    tensors = kit.tensors("eva_vit")
    encoder = model.vision_branch.vision_encoder
    modules = {
        "patches": encoder.embeddings.patch_embedding,
        "out.ln_vision": encoder.post_layernorm,
    }
    for number, layer in enumerate(encoder.encoder.layers):
        modules[f"out.block_{number}"] = layer
        modules[f"out.block_{number}.norm1"] = layer.layer_norm1
        modules[f"out.block_{number}.attn"] = layer.self_attn
        modules[f"out.block_{number}.mlp"] = layer.mlp
    pixels = tensors["in.pixel_values"]
    computed = record(modules, lambda: encoder(pixels, return_dict=True))
    computed["out.patch_embed"] = computed.pop("patches").flatten(2).transpose(1, 2)
    computed["out.visual_encoder"] = computed[f"out.block_{len(encoder.encoder.layers) - 1}"]
    # The last norm is also asked for a pooled token, which nothing uses.
    computed["out.ln_vision"] = encoder.post_layernorm(computed["out.visual_encoder"]).detach()
    compare({n: t for n, t in tensors.items() if n.startswith("out.")}, computed)


def test_last_hidden_state_is_ln_vision(kit, model, compare):
    tensors = kit.tensors("eva_vit")
    with torch.no_grad():
        states = model.vision_branch.vision_encoder(tensors["in.pixel_values"], return_dict=True)
    compare({"x": tensors["out.ln_vision"]}, {"x": states.last_hidden_state})


def test_hidden_width_of_the_mlp(kit, model):
    width = kit.json("eva_vit")["config"]["fp32_hidden_of_mlp"]
    assert model.config.vision_config.intermediate_size == width


def test_position_table_is_resized(kit, compare):
    tensors = kit.tensors("eva_vit")
    tables = {n: t for n, t in tensors.items() if n.startswith("interp.")}
    expected = tables["interp.out.pos_embed"]
    side = round((expected.shape[1] - 1) ** 0.5)
    resized = resize_position_table(tables["interp.in.pos_embed"], side)
    compare({"interp": expected}, {"interp": resized})


def test_every_tensor_of_the_file_is_used(kit):
    kinds = {name.split(".")[0] for name in kit.tensors("eva_vit")}
    assert kinds == {"in", "out", "interp"}
