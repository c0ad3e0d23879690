"""The image Q-Former against the original, layer by layer."""

from video_llama.models.qformer import ask


def test_every_activation(kit, model, compare, record, qformer_modules):
    tensors = kit.tensors("image_qformer")
    branch = model.vision_branch
    states = tensors.pop("in.encoder_hidden_states")
    modules = {**qformer_modules(branch.qformer, "out."), "last": branch.qformer}
    result = []
    computed = record(
        modules, lambda: result.append(ask(branch.qformer, branch.query_tokens, states))
    )
    computed["out.last_hidden_state"] = result[0]
    compare(tensors, computed)


def test_cross_attention_on_the_layers_of_the_original(kit, model):
    config = kit.json("image_qformer")["config"]
    layers = model.vision_branch.qformer.encoder.layer
    crossed = [number for number, layer in enumerate(layers) if layer.has_cross_attention]
    assert crossed == list(range(0, config["num_hidden_layers"], config["cross_attention_freq"]))
