"""The frame encoder alone, by the names of what is seen: photographs, and frames with one thing.

Pictures are smaller than the model's. That costs half, most photographs have no more pixels, and
things in scenes are no larger. Both picture sides of the model begin with what is learnt here: the
frame encoder, and that of the joint space.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.nano.loop import DEVICE, batches, load, products, save, train
from recipes.nano.material import Material
from recipes.nano.pictures import (
    PhotographBatches,
    both_names,
    flat_frames,
    jitter,
    lone_things,
    mixed,
)
from recipes.nano.render import GRID, pixels
from recipes.nano.settings import IMAGE_SIZE, WIDTH
from video_llama.data.world.things import NAMED
from video_llama.models import VideoLlamaForConditionalGeneration

STEPS = 3300
BATCH, DRAWN = 256, 40  # pictures, and how many of them are frames of scenes beside photographs
DRAWN_STEPS, DRAWN_BATCH = 1500, 96  # where there are no photographs
SMALL = 3 * IMAGE_SIZE // 4  # pixels


def train_naming(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """The frame encoder; what is read off it is forgotten."""
    encoder = model.vision_branch.vision_encoder
    frames, facts, _ = flat_frames(material)
    alone, shown = lone_things(facts), torch.from_numpy(np.array(facts[:, 0])).long()
    real = PhotographBatches(material, material.things, material.seed) if material.folder else None
    order = batches(len(alone), DRAWN if real else DRAWN_BATCH, material.seed)
    generator = torch.Generator().manual_seed(material.seed)
    heads = nn.ModuleList([nn.Linear(WIDTH, len(NAMED)) for _ in range(2)]).to(DEVICE)
    encoder.train()

    def naming(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = alone[np.sort(next(order).numpy())]
        x, things = jitter(pixels(frames[index]), generator), shown[index].to(DEVICE)
        x = F.interpolate(x, size=(SMALL, SMALL), mode="bilinear", antialias=True)
        drawn, others, shares = len(x), things, x.new_zeros(len(x))
        if real:
            photographed, labels = real.draw(BATCH - drawn, SMALL)
            photographed, second, through = mixed(photographed, labels, generator)
            x, things = torch.cat([x, photographed]), torch.cat([things, labels])
            others, shares = torch.cat([others, second]), torch.cat([shares, through])
        states = small_states(encoder, x)
        logits = heads[0](states[:, 1:].mean(1))
        loss = both_names(logits, things, others, shares, 0.05)
        loss = loss + 0.5 * both_names(heads[1](states[:, 0]), things, others, shares, 0.05)
        right = (logits.argmax(-1) == things).float()
        figures = {"frame": right[:drawn].mean().item()}
        if real:
            figures["photograph"] = right[drawn:].mean().item()
        return loss, figures

    kept = nn.ModuleList([encoder, heads])
    train(
        "naming",
        kept.parameters(),
        naming,
        STEPS if real else DRAWN_STEPS,
        1e-3,
        module=kept,
        keep=material.work / "naming.progress.pt",
        turned=products(encoder),
        turned_rate=0.03,
    )
    save(material.work, "naming", encoder)


def load_naming(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """Put the encoder into a model."""
    load(material.work, "naming", model.vision_branch.vision_encoder)


def small_states(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """States (B, 1 + P, D) of pictures (B, 3, S, S) of any size: positions lie between those of
    the encoder's grid."""
    embeddings = encoder.embeddings
    patches = embeddings.patch_embedding(x)  # (B, D, G, G)
    cls, rows = embeddings.position_embedding.split([1, GRID * GRID], dim=1)
    rows = F.interpolate(rows.mT.unflatten(2, (GRID, GRID)), size=patches.shape[-2:], mode="area")
    first = (embeddings.class_embedding + cls).expand(len(x), -1, -1)
    states = torch.cat([first, (patches + rows).flatten(2).mT], dim=1)
    return encoder.post_layernorm(encoder.encoder(inputs_embeds=states).last_hidden_state)
