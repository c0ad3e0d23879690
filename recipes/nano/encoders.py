"""The encoders, trained first and frozen afterwards.

`vision`     the frame encoder and the image Q-Former: what is in a picture, of which colour, how
             many, and where (the labels take the place of BLIP-2's captions)
`imagebind`  pictures and sounds in one space: pictures by their names, then sounds towards the
             frozen pictures of the same thing (ImageBind's recipe with names for text)
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.nano.loop import batches, load, save, train
from recipes.nano.render import THING_IDS, pixels, render, sound_thing
from recipes.nano.settings import EMBEDDING, SEED, WIDTH
from video_llama.data.world.things import COLOURS, COUNTS, SOUNDING, THINGS
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.models.imagebind import ImageBind
from video_llama.models.qformer import ask
from video_llama.models.vision_branch import VisionBranch

VISION_STEPS = 3000
PICTURE_STEPS = 500
SOUND_STEPS = 500
BATCH = 64


class FrameHeads(nn.Module):
    """Reads the image queries during pre-training only: a fact for each query.

    The same heads also read the encoder's cls token, through a layer of its own, and every patch
    says which things it holds part of: until the queries have found what to look at, this is what
    teaches the encoder.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = (len(THINGS), len(COLOURS), len(COUNTS))
        # The right group may not be there: one class more.
        self.heads = nn.ModuleList(
            [nn.Linear(WIDTH, n) for n in sizes] + [nn.Linear(WIDTH, n + 1) for n in sizes]
        )
        self.places = nn.ModuleList([nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)])
        self.spread = nn.Linear(WIDTH, 8 * WIDTH)
        self.patches = nn.Linear(WIDTH, len(THINGS))

    def forward(
        self, states: torch.Tensor, queries: torch.Tensor, facts: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Encoder states (B, P, D), queries (B, 8, D), facts (B, 12) -> loss and figures."""
        loss, figures = self.read(queries, facts)
        direct, _ = self.read(self.spread(states[:, 0]).unflatten(-1, (8, WIDTH)), facts)
        shown = queries.new_zeros(len(facts), len(THINGS) + 1)  # the last column: not there
        shown.scatter_(1, facts[:, (0, 6)].long() % shown.shape[1], 1.0)
        strongest = self.patches(states[:, 1:]).amax(1)
        parts = F.binary_cross_entropy_with_logits(strongest, shown[:, :-1])
        return loss + 0.5 * direct + 5 * parts, figures

    def read(
        self, queries: torch.Tensor, facts: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Tokens (B, 8, D), facts (B, 12) -> loss and figures."""
        loss = queries.new_zeros(())
        figures = {}
        for group in range(2):
            for kind in range(3):
                labels = facts[:, 6 * group + kind].long()
                logits = self.heads[3 * group + kind](queries[:, 4 * group + kind])
                labels = labels if group == 0 else labels + 1
                loss = loss + F.cross_entropy(logits, labels, label_smoothing=0.02)
                figures["tcn"[kind] + str(group)] = (
                    (logits.argmax(-1) == labels).float().mean().item()
                )
            there = facts[:, 6 * group] >= 0
            places = self.places[group](queries[:, 4 * group + 3])
            error = F.mse_loss(places[there], facts[there][:, 6 * group + 3 : 6 * group + 6])
            loss = loss + 20 * error
            figures[f"place{group}"] = error.item() ** 0.5
        return loss, figures


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A little light, contrast and noise on normalised pixels (B, ..., 3, H, W)."""
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    light = torch.randn(shape, generator=generator) * 0.08
    contrast = 1 + torch.randn(shape, generator=generator) * 0.06
    noise = torch.randn(x.shape, generator=generator) * 0.03
    return x * contrast + light + noise


def train_vision(model: VideoLlamaForConditionalGeneration, folder: Path) -> None:
    """The frame encoder with the image Q-Former."""
    frames, facts = render("frames", folder)
    frames, facts = frames.reshape(-1, *frames.shape[2:]), facts.reshape(-1, facts.shape[-1])
    branch: VisionBranch = model.vision_branch
    heads = FrameHeads()
    parts = [branch.vision_encoder, branch.qformer, heads]
    for part in parts:
        part.train()
    generator = torch.Generator().manual_seed(SEED)
    order = batches(len(frames), BATCH, SEED)
    facts = torch.from_numpy(np.array(facts))

    def loss_of(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = next(order).sort().values
        x = jitter(pixels(frames[index.numpy()]), generator)
        states = branch.vision_encoder(x, return_dict=True).last_hidden_state
        return heads(states, ask(branch.qformer, branch.query_tokens, states), facts[index])

    parameters = [p for part in parts for p in part.parameters()] + [branch.query_tokens]
    train("vision", parameters, loss_of, VISION_STEPS, 1e-3)
    save(folder, "vision_encoder", branch.vision_encoder)
    save(folder, "image_qformer", branch.qformer)
    torch.save(branch.query_tokens.data, folder / "query_tokens.pt")


def load_vision(model: VideoLlamaForConditionalGeneration, folder: Path) -> None:
    """Put the trained frame encoder and image Q-Former into a model."""
    branch = model.vision_branch
    load(folder, "vision_encoder", branch.vision_encoder)
    load(folder, "image_qformer", branch.qformer)
    branch.query_tokens.data.copy_(torch.load(folder / "query_tokens.pt", weights_only=True))


def start_from_frames(side: nn.Module, branch: VisionBranch) -> None:
    """ImageBind's picture side begins as a copy of the frame encoder: the blocks are alike."""
    encoder = branch.vision_encoder
    side.patch_embedding.load_state_dict(encoder.embeddings.patch_embedding.state_dict())
    side.cls_token.data.copy_(encoder.embeddings.class_embedding.data)
    side.position_embedding.data.copy_(encoder.embeddings.position_embedding.data)
    names = {
        "norm1": "layer_norm1",
        "attention.qkv": "self_attn.qkv",
        "attention.out_proj": "self_attn.projection",
        "norm2": "layer_norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for ours, theirs in zip(side.layers, encoder.encoder.layers, strict=True):
        for name, source in names.items():
            ours.get_submodule(name).load_state_dict(theirs.get_submodule(source).state_dict())


def lone_things(facts: np.ndarray) -> np.ndarray:
    """Indices of frames in which one kind of thing is seen."""
    return np.nonzero((facts[:, 0] >= 0) & (facts[:, 6] < 0))[0]


def train_imagebind_pictures(model: VideoLlamaForConditionalGeneration, folder: Path) -> None:
    """The picture side: near the name of what is seen, whatever its colour, number and place."""
    frames, facts = render("frames", folder)
    frames, facts = frames.reshape(-1, *frames.shape[2:]), facts.reshape(-1, facts.shape[-1])
    alone = lone_things(facts)
    things = torch.from_numpy(np.array(facts[:, 0])).long()
    side = model.audio_branch.imagebind.vision
    start_from_frames(side, model.vision_branch)
    names = nn.Parameter(F.normalize(torch.randn(len(THINGS), EMBEDDING), dim=-1))
    generator = torch.Generator().manual_seed(SEED + 1)
    order = batches(len(alone), BATCH, SEED + 1)
    side.train()

    def loss_of(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = alone[np.sort(next(order).numpy())]
        z = F.normalize(side(jitter(pixels(frames[index]), generator)), dim=-1)
        logits = 16 * z @ F.normalize(names, dim=-1).T
        labels = things[index]
        right = (logits.argmax(-1) == labels).float().mean().item()
        return F.cross_entropy(logits, labels, label_smoothing=0.05), {"named": right}

    train("imagebind pictures", [*side.parameters(), names], loss_of, PICTURE_STEPS, 5e-4)
    save(folder, "imagebind_vision", side)


def mask_stripes(mel: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifted in time, with a stripe of bins and one of frames silenced (B, 1, M, F)."""
    mel = mel.clone()
    for item in mel:
        shift = int(torch.randint(0, 60, (), generator=generator))
        item[..., :198] = item[..., :198].roll(shift, dims=-1)
        low = item.min()
        start = int(torch.randint(0, 110, (), generator=generator))
        item[:, start : start + int(torch.randint(0, 18, (), generator=generator))] = low
        start = int(torch.randint(0, 170, (), generator=generator))
        item[..., start : start + int(torch.randint(0, 28, (), generator=generator))] = low
    return mel


def train_imagebind_sounds(model: VideoLlamaForConditionalGeneration, folder: Path) -> None:
    """The sound side, towards the frozen pictures of the same thing; then the two means."""
    frames, facts = render("frames", folder)
    frames, facts = frames.reshape(-1, *frames.shape[2:]), facts.reshape(-1, facts.shape[-1])
    (mels,) = render("sounds", folder)
    imagebind: ImageBind = model.audio_branch.imagebind
    imagebind.vision.eval()
    alone = lone_things(facts)
    things = torch.from_numpy(np.array(facts[alone, 0])).long()
    with torch.no_grad():
        pictures = torch.cat(
            [
                F.normalize(imagebind.vision(pixels(frames[part])), dim=-1)
                for part in np.array_split(alone, len(alone) // 256 + 1)
            ]
        )
    heard = torch.tensor([THING_IDS[sound_thing(i)] for i in range(len(mels))])
    of_thing = {int(t): torch.nonzero(things == t)[:, 0] for t in things.unique()}
    generator = torch.Generator().manual_seed(SEED + 2)
    order = batches(len(mels), BATCH, SEED + 2)
    side = imagebind.audio
    side.train()

    def loss_of(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = next(order).sort().values
        mel = torch.from_numpy(mels[index.numpy()].astype(np.float32))
        labels = heard[index]
        z = F.normalize(side(mask_stripes(mel, generator)), dim=-1)
        own = torch.stack(
            [
                of_thing[int(t)][torch.randint(len(of_thing[int(t)]), (), generator=generator)]
                for t in labels
            ]
        )
        others = torch.randint(len(pictures), (64,), generator=generator)
        shown = torch.cat([own, others])
        same = (labels[:, None] == things[shown][None]).float()
        logits = 16 * z @ pictures[shown].T
        logs = logits.log_softmax(-1)
        loss = -(same * logs).sum(-1).div(same.sum(-1)).mean()
        near = things[shown][logits.argmax(-1)] == labels
        return loss, {"matched": near.float().mean().item()}

    train("imagebind sounds", side.parameters(), loss_of, SOUND_STEPS, 1e-3)
    side.eval()
    with torch.no_grad():
        sounds = torch.cat(
            [
                F.normalize(side(torch.from_numpy(mels[i : i + 64].astype(np.float32))), dim=-1)
                for i in range(0, min(3000, len(mels)), 64)
            ]
        )
        # Centring: the mean of pictures of things that can sound, and of unlabelled sounds.
        sounding = torch.isin(things, torch.tensor([THING_IDS[name] for name in SOUNDING]))
        imagebind.vision.mean.copy_(pictures[sounding].mean(0))
        side.mean.copy_(sounds.mean(0))
        gap = F.normalize(imagebind.vision.mean - side.mean, dim=0).norm().item()
    figures = {
        "cosine of the two means": F.cosine_similarity(
            imagebind.vision.mean, side.mean, dim=0
        ).item(),
        "norms": [imagebind.vision.mean.norm().item(), side.mean.norm().item(), gap],
    }
    print(json.dumps(figures), flush=True)
    save(folder, "imagebind", imagebind)
