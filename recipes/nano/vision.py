"""The frame encoder and the image Q-Former: what is in a picture, of which colour, how many, where.

The labels take the place of BLIP-2's captions. The encoder has learnt names (`naming`); here
everything is read from frames of scenes and whole photographs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.nano.loop import DEVICE, batches, load, products, save, train
from recipes.nano.material import Material
from recipes.nano.pictures import PhotographBatches, both_names, flat_frames, jitter, mixed
from recipes.nano.render import pixels
from recipes.nano.settings import WIDTH
from video_llama.data.world.things import COLOURS, COUNTS, NAMED
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.models.qformer import ask
from video_llama.models.vision_branch import VisionBranch


@dataclass(frozen=True)
class Round:
    """Steps with frames of scenes, whole photographs, pasted cut-outs and mosaics of four in each
    batch.

    `rate` is AdamW's; Muon's is ten times that, half of what it begins with in `naming`: the
    encoder has learnt something.
    """

    steps: int
    rate: float
    frames: int
    photographs: int = 0
    pasted: int = 0
    mosaics: int = 0


ROUNDS = (Round(4000, 1e-3, 32, 40, 32, 4), Round(2400, 5e-4, 40, 40, 32))
DRAWN_ROUNDS = (Round(2500, 1e-3, 64),)  # where there are no photographs


class FrameHeads(nn.Module):
    """Reads the image queries during pre-training only: a fact for each query.

    The same heads also read the encoder's cls token, through a layer of its own, and every patch
    says which thing it shows, or none: until the queries have found what to look at, this is what
    teaches the encoder. (Token labelling: Jiang et al. 2021, arXiv 2104.10858.)
    """

    def __init__(self) -> None:
        super().__init__()
        # Of group A a thing and a number are always there, of a photograph the colour is not.
        self.unsaid = (0, 1, 0, 1, 1, 1)
        sizes = (len(NAMED), len(COLOURS), len(COUNTS)) * 2
        self.heads = nn.ModuleList(
            [nn.Linear(WIDTH, n + m) for n, m in zip(sizes, self.unsaid, strict=True)]
        )
        self.places = nn.ModuleList([nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)])
        self.spread = nn.Linear(WIDTH, 8 * WIDTH)
        self.patches = nn.Linear(WIDTH, len(NAMED) + 1)  # the last: the ground

    def forward(
        self,
        states: torch.Tensor,
        queries: torch.Tensor,
        facts: torch.Tensor,
        patches: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and figures.

        Encoder states (B, 1 + P, D) with things by patch (B, P); of the first N, also queries
        (N, 8, D) and facts (N, 12).
        """
        loss, figures = self.read(queries, facts)
        direct, _ = self.read(self.whole(states[: len(facts)]), facts)
        parts, named = self.name(states, patches)
        return loss + 0.5 * direct + 3 * parts, {**figures, **named}

    def whole(self, states: torch.Tensor) -> torch.Tensor:
        """What the cls token says in the place of the queries: (B, 1 + P, D) -> (B, 8, D)."""
        return self.spread(states[:, 0]).unflatten(-1, (8, WIDTH))

    def name(
        self, states: torch.Tensor, patches: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """States (B, 1 + P, D), things (B, P) by patch, -1 for the ground -> loss and figures."""
        logits, labels = self.patches(states[:, 1:]), patches % (len(NAMED) + 1)
        each = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), label_smoothing=0.02, reduction="none"
        ).view_as(labels)
        named = patches >= 0
        right = (logits.argmax(-1) == labels)[named].float().mean().item()
        # Most patches show the ground, which is soon known.
        return each[named].mean() + 0.3 * each[~named].mean(), {"patches": right}

    def read(
        self, queries: torch.Tensor, facts: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Tokens (B, 8, D), facts (B, 12) -> loss and figures."""
        loss = queries.new_zeros(())
        figures = {}
        for group in range(2):
            for kind in range(3):
                head = 3 * group + kind
                labels = facts[:, 6 * group + kind].long() + self.unsaid[head]
                logits = self.heads[head](queries[:, 4 * group + kind])
                loss = loss + F.cross_entropy(logits, labels, label_smoothing=0.02)
                figures["tcn"[kind] + str(group)] = (
                    (logits.argmax(-1) == labels).float().mean().item()
                )
            there = facts[:, 6 * group + 5] > 0
            places = self.places[group](queries[:, 4 * group + 3])
            error = F.mse_loss(places[there], facts[there][:, 6 * group + 3 : 6 * group + 6])
            loss = loss + 20 * error
            figures[f"place{group}"] = error.item() ** 0.5
        return loss, figures


def photograph_facts(things: torch.Tensor) -> torch.Tensor:
    """Facts (B, 12) of whole photographs of `things` (B,)."""
    facts = things.new_full((len(things), 12), -1.0, dtype=torch.float32)
    facts[:, 0], facts[:, 2] = things, 0
    facts[:, 3:6] = facts.new_tensor([0.5, 0.5, 0.0])
    return facts


def train_vision(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """The frame encoder, which has learnt names, with the image Q-Former."""
    frames, facts, patches = flat_frames(material)
    branch: VisionBranch = model.vision_branch
    heads = FrameHeads().to(DEVICE)
    parts = [branch.vision_encoder, branch.qformer, heads]
    for part in parts:
        part.train()
    generator = torch.Generator().manual_seed(material.seed)
    real = PhotographBatches(material, material.things, material.seed) if material.folder else None
    held = torch.from_numpy(np.array(facts)).to(DEVICE)
    placed = torch.from_numpy(patches.astype(np.int64)).to(DEVICE)

    def pictures(part: Round, order: Iterator[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Pictures with their things by patch, and facts of the first of them, mosaics being last;
        then what shines through in whole photographs, and how much.

        Frames, whole photographs, pasted cut-outs, mosaics.
        """
        index = next(order).sort().values
        x, facts = jitter(pixels(frames[index.numpy()]), generator), held[index.to(DEVICE)]
        patches = placed[index.to(DEVICE)]
        if not real:
            return x, patches, facts
        photographed, things = real.draw(part.photographs)
        photographed, *through = mixed(photographed, things, generator)
        pasted, placed_facts, covered = real.pasted(part.pasted)
        facts = torch.cat([facts, photograph_facts(things), placed_facts])
        everywhere = things[:, None].expand(-1, patches.shape[1])
        patches, parts = [patches, everywhere, covered], [x, photographed, pasted]
        if part.mosaics:
            mosaics, tiles = real.mosaics(part.mosaics)
            patches, parts = [*patches, tiles], [*parts, mosaics]
        return torch.cat(parts), torch.cat(patches), facts, *through

    def reading(
        part: Round, order: Iterator[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        x, patches, facts, *through = pictures(part, order)
        states = branch.vision_encoder(x, return_dict=True).last_hidden_state
        # Of a mosaic only patches are asked.
        queries = ask(branch.qformer, branch.query_tokens, states[: len(facts)])
        loss, figures = heads(states, queries, facts, patches)
        if real:
            about = facts[part.frames :, 0].long()
            logits = heads.heads[0](queries[part.frames :, 0])
            others, shares = about.clone(), torch.zeros_like(about, dtype=x.dtype)
            others[: part.photographs], shares[: part.photographs] = through
            loss = loss + 2 * both_names(logits, about, others, shares, 0.1)
            right = (logits.argmax(-1) == about).float()
            figures["photograph"] = right[: part.photographs].mean().item()
            figures["pasted"] = right[part.photographs :].mean().item()
        return loss, figures

    modules = nn.ModuleList([*parts, nn.ParameterList([branch.query_tokens])])
    rounds = ROUNDS if real else DRAWN_ROUNDS
    kept = [material.work / f"vision.{number}.progress.pt" for number in range(len(rounds))]
    for number, part in enumerate(rounds):
        if any(path.is_file() for path in kept[number + 1 :]):
            continue
        order = batches(len(frames), part.frames, material.seed + number)

        def loss_of(
            _: int, part: Round = part, order: Iterator[torch.Tensor] = order
        ) -> tuple[torch.Tensor, dict[str, float]]:
            return reading(part, order)

        train(
            f"vision {number + 1}",
            modules.parameters(),
            loss_of,
            part.steps,
            part.rate,
            module=modules,
            keep=kept[number],
            turned=products(branch.vision_encoder),
            turned_rate=10 * part.rate,
        )
    save(material.work, "vision_encoder", branch.vision_encoder)
    save(material.work, "image_qformer", branch.qformer)
    save(material.work, "frame_heads", heads)
    torch.save(branch.query_tokens.data, material.work / "query_tokens.pt")


def load_vision(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """Put the trained frame encoder and image Q-Former into a model."""
    branch, folder = model.vision_branch, material.work
    load(folder, "vision_encoder", branch.vision_encoder)
    load(folder, "image_qformer", branch.qformer)
    branch.query_tokens.data.copy_(torch.load(folder / "query_tokens.pt", weights_only=True))
