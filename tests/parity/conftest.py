"""The parity kit: recorded numbers of the original implementation."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.load import load_model
from video_llama.models import VideoLlamaForConditionalGeneration

DEFAULT_KIT = Path(__file__).parent / "kit"


class Kit:
    """One directory of recorded numbers; every size, seed and name is read from it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        return self.root / name

    def json(self, name: str) -> Any:
        """The description `NAME.json`."""
        return json.loads((self.root / f"{name}.json").read_text(encoding="utf-8"))

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of `NAME.safetensors`; inputs kept in half precision are widened."""
        tensors = load_file(self.root / f"{name}.safetensors")
        return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}


@pytest.fixture(scope="session")
def kit() -> Kit:
    root = Path(os.environ.get("VIDEO_LLAMA_PARITY_DIR", DEFAULT_KIT))
    if not (root / "model.json").is_file():
        pytest.fail(f"no parity kit at {root}: set VIDEO_LLAMA_PARITY_DIR to one")
    return Kit(root)


# Prefix of a key of the assembled original -> the file it is published in, by the kit's own
# description (keys_full.json); the rest is the image Q-Former's file.
PUBLISHED_IN = {
    "visual_encoder.": "eva_vit_g.pth",
    "audio_encoder.": "imagebind_huge.pth",
    "llama_model.": "llama",
    "video_": "VL_branch.pth",
    "llama_proj.": "VL_branch.pth",
    "audio_": "AL_branch.pth",
    "": "blip2_pretrained_flant5xxl.pth",
}
CUT = ("visual_encoder.", "audio_encoder.", "llama_model.")  # files that leave their prefix out
FLAT = ("eva_vit_g.pth", "imagebind_huge.pth")  # the others hold {"model": {...}}

TOLERANCE = 2e-5  # on activations of order 1


def _heads_and_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """What weights do not tell, from a kit's description of the original's configuration."""
    eva, bert, imagebind = config["eva"], config["bert"], config["imagebind"]
    overrides = {
        "vision_config.num_attention_heads": eva["num_heads"],
        "vision_config.num_hidden_layers": eva["depth"],
        "vision_config.layer_norm_eps": eva["layer_norm_eps"],
        "imagebind_config.vision_num_attention_heads": imagebind["vision_num_heads"],
        "imagebind_config.audio_num_attention_heads": imagebind["audio_num_heads"],
        "imagebind_config.audio_mel_bins": imagebind["audio_num_mel_bins"],
        "imagebind_config.audio_mel_frames": imagebind["audio_target_len"],
        "imagebind_config.audio_patch_stride": imagebind["audio_stride"],
    }
    for qformer in ("qformer_config", "video_qformer_config", "audio_qformer_config"):
        overrides[f"{qformer}.num_attention_heads"] = bert["num_attention_heads"]
        overrides[f"{qformer}.layer_norm_eps"] = bert["layer_norm_eps"]
        overrides[f"{qformer}.hidden_act"] = bert["hidden_act"]
    return overrides


def write_published(kit: Kit, folder: Path) -> None:
    """The kit's one model as the separate files of a published one."""
    description = kit.json("model")
    files: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in kit.tensors("model").items():
        key = name.removeprefix("weights.")
        prefix = next(p for p in PUBLISHED_IN if key.startswith(p))
        short = key.removeprefix(prefix) if prefix in CUT else key
        files.setdefault(PUBLISHED_IN[prefix], {})[short] = tensor
    language_model = folder / "llama"
    language_model.mkdir(parents=True)
    save_file(files.pop("llama"), language_model / "model.safetensors")
    config = {"model_type": "llama", **description["llama_config"]}
    (language_model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for path in (kit.root / "tokenizer").iterdir():
        shutil.copy(path, language_model)
    for name, tensors in files.items():
        torch.save(tensors if name in FLAT else {"model": tensors}, folder / name)


@pytest.fixture(scope="session")
def heads_and_sizes() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """From a kit's description of the original's configuration to overrides of ours."""
    return _heads_and_sizes


@pytest.fixture(scope="session")
def converted(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's model, through the converter."""
    root = tmp_path_factory.mktemp("kit")
    write_published(kit, root / "published")
    overrides = _heads_and_sizes(kit.json("model")["config"])
    convert(root / "published", root / "ours", template="vicuna", overrides=overrides)
    return root / "ours"


@pytest.fixture(scope="session")
def model(converted: Path) -> VideoLlamaForConditionalGeneration:
    """The converted model, shared by tests that leave its weights alone."""
    return load_model(converted, device="cpu", dtype="fp32")


@pytest.fixture(scope="session")
def compare() -> Callable[..., None]:
    """Compare every recorded output with what was computed, by name."""

    def compare_all(
        recorded: dict[str, torch.Tensor],
        computed: dict[str, torch.Tensor],
        tolerance: float = TOLERANCE,
    ) -> None:
        assert recorded, "the kit records nothing of this name"
        for name, expected in recorded.items():
            assert name in computed, f"nothing here computes '{name}'"
            actual = computed[name]
            assert actual.shape == expected.shape, f"{name}: {actual.shape}, {expected.shape}"
            if not expected.is_floating_point():
                assert torch.equal(actual, expected), name
                continue
            bound = tolerance * max(1.0, float(expected.abs().max()) / 10)
            difference = float((actual - expected).abs().max())
            assert difference <= bound, f"{name}: {difference:.2e} over {bound:.2e}"

    return compare_all


@pytest.fixture
def record() -> Callable[..., dict[str, torch.Tensor]]:
    """Run a function and keep what the named modules gave: name -> first output."""

    def run(
        modules: dict[str, torch.nn.Module], function: Callable[[], Any]
    ) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = {}

        def keeper(name: str) -> Callable[..., None]:
            def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
                outputs[name] = output[0] if isinstance(output, tuple) else output

            return keep

        handles = [m.register_forward_hook(keeper(name)) for name, m in modules.items()]
        try:
            with torch.no_grad():
                function()
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    return run


@pytest.fixture(scope="session")
def qformer_modules() -> Callable[..., dict[str, torch.nn.Module]]:
    """The named blocks of a Q-Former, as the kit calls them."""

    def name_modules(qformer: Any, prefix: str) -> dict[str, torch.nn.Module]:
        modules = {f"{prefix}embeddings": qformer.layernorm}
        for number, layer in enumerate(qformer.encoder.layer):
            modules[f"{prefix}layer_{number}"] = layer
            modules[f"{prefix}layer_{number}.self_attention"] = layer.attention
            if layer.has_cross_attention:
                modules[f"{prefix}layer_{number}.cross_attention"] = layer.crossattention
        return modules

    return name_modules
