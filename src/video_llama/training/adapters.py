"""What is changed about the frozen language model for training: adapters, fewer bits, less memory.

LoRA: W x becomes W x + B A x * alpha / rank, with A (rank, inputs) and B (outputs, rank).
"""

import hashlib
from importlib.util import find_spec
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from video_llama.checkpoints.part import LORA_A, LORA_B
from video_llama.errors import OptionError
from video_llama.quantization import quantize_linear_layers
from video_llama.training.recipe import LoraSettings, Quantization

ADAPTER = "lora_"  # part of the names of what peft adds
_PEFT_NAMES = ((".lora_A.default.weight", LORA_A), (".lora_B.default.weight", LORA_B))


def add_lora(language_model: PreTrainedModel, settings: LoraSettings, seed: int) -> None:
    """Put adapters into a language model, in place; they train, in float32.

    What they begin with follows the seed: every process and every run has the same.

    Raises:
        OptionError: no layer has one of the names.
    """
    linear = {n.rsplit(".", 1)[-1] for n, m in language_model.named_modules() if _has_weight(m)}
    missing = [target for target in settings.targets if target not in linear]
    if missing:
        raise OptionError(
            f"lora.targets names {missing[0]!r}, which this language model does not have; "
            f"its linear layers are {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyrefly: ignore[bad-argument-type] (any number)
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(f"lora {seed}".encode()).digest()[:7]))
        inject_adapter_in_model(config, language_model)
    for name, module in language_model.named_modules():
        if ADAPTER in name:
            module.train()
    for name, parameter in language_model.named_parameters():
        if ADAPTER in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def part_name(name: str) -> str:
    """The name of a trained tensor in a checkpoint: adapters go by their layer, not by peft's."""
    for theirs, ours in _PEFT_NAMES:
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours
    return name.replace(".base_layer.", ".")  # where peft moves the weights beside adapters


def quantize(language_model: PreTrainedModel, kind: Quantization, dtype: torch.dtype) -> None:
    """Keep the linear layers of a frozen language model in fewer bits, in place.

    bitsandbytes' layers are packed when they are moved to the device.

    Raises:
        OptionError: bitsandbytes is not installed.
    """
    if kind == "int8":
        quantize_linear_layers(language_model)
        return
    if find_spec("bitsandbytes") is None:
        raise OptionError(
            f"model.quantization {kind!r} needs bitsandbytes: pip install 'video-llama[bnb]'; "
            "'int8' works without"
        )
    head = language_model.get_output_embeddings()
    for module in list(language_model.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                setattr(module, name, _packed(layer, kind, dtype))


def _packed(layer: nn.Linear, kind: Quantization, dtype: torch.dtype) -> nn.Module:
    # An extra; `pip install 'video-llama[bnb]'`.
    from bitsandbytes import nn as layers  # pyrefly: ignore[missing-import]

    bnb: Any = layers  # what its type hints say of parameters is too little

    weight, has_bias = layer.weight.data, layer.bias is not None
    packed: Any
    if kind == "4bit":
        packed = bnb.Linear4bit(
            layer.in_features, layer.out_features, has_bias, compute_dtype=dtype, quant_type="nf4"
        )
        packed.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4", module=packed)
    else:
        packed = bnb.Linear8bitLt(
            layer.in_features, layer.out_features, has_bias, has_fp16_weights=False
        )
        packed.weight = bnb.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    packed.bias = layer.bias
    return packed.requires_grad_(False)


def compute_again(language_model: PreTrainedModel) -> None:
    """Gradient checkpointing of the layers of a language model.

    transformers does so in training mode only; the layers are put into it, what is in them (and
    may have dropout) is not.

    Raises:
        OptionError: a language model without such layers.
    """
    layers = [m for m in language_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise OptionError(
            f"model.gradient_checkpointing finds no layers in a {type(language_model).__name__}"
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = _checkpointed  # pyrefly: ignore
        layer.training = True


def _checkpointed(function: object, *inputs: object) -> object:
    return checkpoint(function, *inputs, use_reentrant=False)  # pyrefly: ignore


def _has_weight(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")
