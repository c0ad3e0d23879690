"""The encoders, trained first and frozen afterwards.

`vision`     the frame encoder and the image Q-Former: what is in a picture, of which colour, how
             many, and where (the labels take the place of BLIP-2's captions)
`imagebind`  pictures, names and sounds in one space: pictures by their names, then sounds towards
             the frozen pictures and names of the same thing (ImageBind's recipe)
"""

import json
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.nano.loop import DEVICE, batches, load, normal, save, train, uniform
from recipes.nano.material import SIDE, Material, photographs
from recipes.nano.render import GRID, THING_IDS, pixels, recorded_thing, render, sound_thing
from recipes.nano.settings import EMBEDDING, IMAGE_SIZE, SEED, WIDTH
from video_llama.data.world.things import COLOURS, COUNTS, NAMED
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.models.imagebind import ImageBind
from video_llama.models.qformer import ask
from video_llama.models.vision_branch import VisionBranch

NAMING_STEPS, VISION_STEPS = 2000, 2000
PICTURE_STEPS = 500
SOUND_STEPS = 1400
BATCH = 32  # frames of scenes
PHOTOGRAPHS, MOSAICS = 16, 16  # beside them, where there are some: whole ones, and four in one
SMALL_PHOTOGRAPHS = 128  # of half the size, to begin with
SOUND_BATCH = 64
SHOWN_PHOTOGRAPHS = 400  # of each thing, for what is trained on frozen encoders


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


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A little light, contrast and noise on normalised pixels (B, ..., 3, H, W)."""
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    light = 0.08 * normal(shape, generator)
    contrast = 1 + 0.06 * normal(shape, generator)
    return x * contrast + light + 0.03 * normal(x.shape, generator)


def loosen(x: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Photographs (B, 3, H, W) cropped, mirrored, tinted and partly covered: (B, 3, size, size)."""
    count = len(x)
    share = (0.5 + 0.5 * uniform((count,), generator)).sqrt()
    aspect = (0.28 * (uniform((count,), generator) - 0.5)).exp()
    width, height = (share * aspect).clamp(max=1), (share / aspect).clamp(max=1)
    mirror = torch.where(uniform((count,), generator) < 0.5, -1.0, 1.0)
    theta = x.new_zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2] = (1 - width) * (2 * uniform((count,), generator) - 1)
    theta[:, 1, 2] = (1 - height) * (2 * uniform((count,), generator) - 1)
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    one, three = (count, 1, 1, 1), (count, 3, 1, 1)
    x = x * (1 + 0.25 * normal(one, generator)) + 0.25 * normal(one, generator)
    x = x + 0.12 * normal(three, generator)
    grey = x.mean(1, keepdim=True)
    x = torch.where(uniform(one, generator) < 0.1, grey, x)
    rows = torch.arange(size, device=x.device)
    side = size * (0.15 + 0.25 * uniform((2, count, 1), generator))
    start = size * uniform((2, count, 1), generator) - side / 2
    inside = (rows >= start) & (rows < start + side)  # (2, B, S)
    covered = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(covered & (uniform(one, generator) < 0.2), 0.0)


class PhotographBatches:
    """Endless batches of photographs: rare things come more often than they are."""

    def __init__(self, material: Material, names: tuple[str, ...], seed: int) -> None:
        self.photographs = photographs(material)
        found = self.photographs.of_name
        self.index = np.concatenate([found[name] for name in names if name in found])
        labels = self.photographs.labels[self.index]
        counts = np.bincount(labels, minlength=len(NAMED))
        self.weights = torch.from_numpy(counts[labels] ** -0.5)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int, size: int = IMAGE_SIZE) -> tuple[torch.Tensor, torch.Tensor]:
        """Loosened pixels (count, 3, size, size) and things (count,)."""
        chosen = torch.multinomial(self.weights, count, generator=self.generator).sort().values
        index = self.index[chosen.numpy()]
        x = loosen(pixels(self.photographs.pixels[index]), size, self.generator)
        return x, torch.from_numpy(self.photographs.labels[index].astype(np.int64)).to(DEVICE)

    def mosaics(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Four photographs in each picture (count, 3, S, S), and things by patch (count, 16).

        Most photographs have no more pixels than that, and in scenes things are no larger: an
        encoder learns as much from each of the four as from one.
        """
        x, things = self.draw(4 * count, IMAGE_SIZE // 2)
        # Draws are in the order of the file: neighbours are alike, and must not share a picture.
        mixed = torch.randperm(len(x), generator=self.generator).to(x.device)
        x, things = x[mixed].unflatten(0, (count, 2, 2)), things[mixed].view(count, 2, 2)
        x = x.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, IMAGE_SIZE, IMAGE_SIZE)
        half = GRID // 2
        return x, things.repeat_interleave(half, 1).repeat_interleave(half, 2).flatten(1)


def photograph_facts(things: torch.Tensor) -> torch.Tensor:
    """Facts (B, 12) of whole photographs of `things` (B,)."""
    facts = things.new_full((len(things), 12), -1.0, dtype=torch.float32)
    facts[:, 0], facts[:, 2] = things, 0
    facts[:, 3:6] = facts.new_tensor([0.5, 0.5, 0.0])
    return facts


def train_vision(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """The frame encoder with the image Q-Former."""
    frames, facts, patches = flat_frames(material)
    branch: VisionBranch = model.vision_branch
    heads = FrameHeads().to(DEVICE)
    parts = [branch.vision_encoder, branch.qformer, heads]
    for part in parts:
        part.train()
    generator = torch.Generator().manual_seed(SEED)
    order = batches(len(frames), BATCH, SEED)
    real = PhotographBatches(material, material.things, SEED) if material.folder else None
    held = torch.from_numpy(np.array(facts)).to(DEVICE)
    placed = torch.from_numpy(patches.astype(np.int64)).to(DEVICE)

    def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures with their things by patch, and facts of the first of them, mosaics being last.

        Frames, whole photographs, mosaics.
        """
        index = next(order).sort().values
        x, facts = jitter(pixels(frames[index.numpy()]), generator), held[index.to(DEVICE)]
        patches = placed[index.to(DEVICE)]
        if not real:
            return x, patches, facts
        photographed, things = real.draw(PHOTOGRAPHS)
        mosaics, tiles = real.mosaics(MOSAICS)
        facts = torch.cat([facts, photograph_facts(things)])
        patches = torch.cat([patches, things[:, None].expand(-1, patches.shape[1]), tiles])
        return torch.cat([x, photographed, mosaics]), patches, facts

    def reading(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        x, patches, facts = pictures()
        states = branch.vision_encoder(x, return_dict=True).last_hidden_state
        # Of a mosaic only patches are asked.
        queries = ask(branch.qformer, branch.query_tokens, states[: len(facts)])
        loss, figures = heads(states, queries, facts, patches)
        if real:
            about = facts[BATCH:, 0].long()
            logits = heads.heads[0](queries[BATCH:, 0])
            loss = loss + 2 * F.cross_entropy(logits, about, label_smoothing=0.1)
            figures["photograph"] = (logits.argmax(-1) == about).float().mean().item()
        return loss, figures

    kept = nn.ModuleList([*parts, nn.ParameterList([branch.query_tokens])])
    keep = material.work / "vision.progress.pt"
    if real and not keep.is_file():
        train_naming(branch, heads, real, material)
    train("vision", kept.parameters(), reading, VISION_STEPS, 1e-3, module=kept, keep=keep)
    save(material.work, "vision_encoder", branch.vision_encoder)
    save(material.work, "image_qformer", branch.qformer)
    save(material.work, "frame_heads", heads)
    torch.save(branch.query_tokens.data, material.work / "query_tokens.pt")


def train_naming(
    branch: VisionBranch, heads: FrameHeads, real: PhotographBatches, material: Material
) -> None:
    """The frame encoder alone, on photographs of half the size, by their names.

    They cost a quarter, most have no more pixels, and things in scenes are no larger. In the same
    time on one core it names twice as many of new photographs as one that is shown whole ones.
    """
    encoder = branch.vision_encoder

    def naming(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        x, things = real.draw(SMALL_PHOTOGRAPHS, IMAGE_SIZE // 2)
        states = small_states(encoder, x)
        logits = heads.patches(states[:, 1:].mean(1))
        whole = heads.heads[0](heads.whole(states)[:, 0])
        loss = F.cross_entropy(logits, things, label_smoothing=0.05)
        loss = loss + 0.5 * F.cross_entropy(whole, things, label_smoothing=0.05)
        return loss, {"photograph": (logits.argmax(-1) == things).float().mean().item()}

    kept = nn.ModuleList([encoder, heads])
    keep = material.work / "naming.progress.pt"
    train("naming", kept.parameters(), naming, NAMING_STEPS, 1e-3, module=kept, keep=keep)


def small_states(encoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """States (B, 1 + P / 4, D) of pictures of half the size: positions are means of four."""
    embeddings = encoder.embeddings
    cls, rows = embeddings.position_embedding.split([1, GRID * GRID], dim=1)
    rows = F.avg_pool2d(rows.mT.unflatten(2, (GRID, GRID)), 2).flatten(2).mT
    patches = embeddings.patch_embedding(x).flatten(2).mT
    first = (embeddings.class_embedding + cls).expand(len(x), -1, -1)
    states = encoder.encoder(inputs_embeds=torch.cat([first, patches + rows], dim=1))
    return encoder.post_layernorm(states.last_hidden_state)


def flat_frames(material: Material) -> tuple[np.ndarray, ...]:
    """Frames of scenes (N, S, S, 3), their facts (N, 12) and things by patch (N, 16)."""
    frames, facts, patches = (np.asarray(array) for array in render("frames", material))
    return tuple(array.reshape(-1, *array.shape[2:]) for array in (frames, facts, patches))


def load_vision(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """Put the trained frame encoder and image Q-Former into a model."""
    branch, folder = model.vision_branch, material.work
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


def train_imagebind_pictures(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """The picture side: near the name of what is seen, whatever its colour, number and place."""
    frames, facts, _ = flat_frames(material)
    alone = lone_things(facts)
    things = torch.from_numpy(np.array(facts[:, 0])).long()
    side = model.audio_branch.imagebind.vision
    start_from_frames(side, model.vision_branch)
    torch.manual_seed(SEED + 1)
    names = nn.Parameter(F.normalize(torch.randn(len(NAMED), EMBEDDING), dim=-1).to(DEVICE))
    generator = torch.Generator().manual_seed(SEED + 1)
    order = batches(len(alone), BATCH, SEED + 1)
    real = PhotographBatches(material, material.things, SEED + 1) if material.folder else None
    side.train()

    def loss_of(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = alone[np.sort(next(order).numpy())]
        x, labels = jitter(pixels(frames[index]), generator), things[index].to(DEVICE)
        if real:
            photographed, seen = real.draw(BATCH)
            x, labels = torch.cat([x, photographed]), torch.cat([labels, seen])
        z = F.normalize(side(x), dim=-1)
        logits = 16 * z @ F.normalize(names, dim=-1).T
        right = (logits.argmax(-1) == labels).float()
        figures = {"drawn": right[:BATCH].mean().item()}
        if real:
            figures["photograph"] = right[BATCH:].mean().item()
        return F.cross_entropy(logits, labels, label_smoothing=0.05), figures

    train("imagebind pictures", [*side.parameters(), names], loss_of, PICTURE_STEPS, 5e-4)
    torch.save(names.data, material.work / "names.pt")
    save(material.work, "imagebind_vision", side)


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


@torch.no_grad()
def picture_embeddings(
    side: nn.Module, material: Material
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of lone drawn things and of photographs of what may be heard, by the frozen picture side.

    Unit embeddings (N, E), things (N,), and which are photographs (N,), on the CPU.
    """
    frames, facts, _ = flat_frames(material)
    audible = [THING_IDS[name] for name in material.audible]
    alone = lone_things(facts)
    alone = alone[np.isin(facts[alone, 0], audible)]
    parts = [pixels_of(frames, part) for part in np.array_split(alone, len(alone) // 256 + 1)]
    things = [torch.from_numpy(np.array(facts[alone, 0])).long()]
    if material.folder:
        real = photographs(material)
        chosen = real.at_most(SHOWN_PHOTOGRAPHS)
        chosen = chosen[np.isin(real.labels[chosen], audible)]
        cut = (SIDE - IMAGE_SIZE) // 2
        middle = real.pixels[:, cut : cut + IMAGE_SIZE, cut : cut + IMAGE_SIZE]
        parts += [
            pixels_of(middle, part) for part in np.array_split(chosen, len(chosen) // 256 + 1)
        ]
        things.append(torch.from_numpy(real.labels[chosen].astype(np.int64)))
    z = torch.cat([F.normalize(side(part()), dim=-1).cpu() for part in parts])
    photographed = torch.arange(len(z)) >= len(things[0])
    return z, torch.cat(things), photographed


def pixels_of(frames: np.ndarray, index: np.ndarray) -> Callable[[], torch.Tensor]:
    """Pixels of some frames, read when they are called for."""
    return lambda: pixels(frames[index])


def heard_sounds(material: Material) -> tuple[list[np.ndarray], torch.Tensor]:
    """Mel clips of the world's sounds and of recordings, with what is heard in all of them (N,)."""
    mels = render("sounds", material)
    names = [sound_thing(i) for i in range(len(mels[0]))]
    if material.folder:
        mels += render("recorded", material)
        names += [recorded_thing(material, i) for i in range(len(mels[1]))]
    return mels, torch.tensor([THING_IDS[name] for name in names])


def mel_batch(mels: list[np.ndarray], index: torch.Tensor) -> torch.Tensor:
    """Mel clips (B, 1, M, F) by number over several arrays."""
    first = len(mels[0])
    rows = [mels[0][i] if i < first else mels[1][i - first] for i in index.tolist()]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def train_imagebind_sounds(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """The sound side, towards the frozen pictures and name of the same thing; then both means."""
    imagebind: ImageBind = model.audio_branch.imagebind
    imagebind.vision.eval()
    pictures, things, _ = picture_embeddings(imagebind.vision, material)
    pictures = pictures.to(DEVICE)
    names = F.normalize(torch.load(material.work / "names.pt", weights_only=True), dim=-1)
    mels, heard = heard_sounds(material)
    of_thing = {int(t): torch.nonzero(things == t)[:, 0] for t in things.unique()}
    generator = torch.Generator().manual_seed(SEED + 2)
    order = batches(len(heard), SOUND_BATCH, SEED + 2)
    side = imagebind.audio
    side.train()

    def loss_of(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = next(order).sort().values
        labels = heard[index]
        z = F.normalize(side(mask_stripes(mel_batch(mels, index), generator).to(DEVICE)), dim=-1)
        own = [
            of_thing[t][torch.randint(len(of_thing[t]), (), generator=generator)]
            for t in labels.tolist()
        ]
        others = torch.randint(len(pictures), (64,), generator=generator)
        shown = torch.cat([torch.stack(own), others])
        same = (labels[:, None] == things[shown][None]).float().to(DEVICE)
        logits = 16 * z @ pictures[shown.to(DEVICE)].T
        logs = logits.log_softmax(-1)
        loss = -(same * logs).sum(-1).div(same.sum(-1)).mean()
        named = 16 * z @ names.to(DEVICE).T
        target = labels.to(DEVICE)
        loss = loss + 0.5 * F.cross_entropy(named, target, label_smoothing=0.05)
        right = (named.argmax(-1) == target).float().cpu()
        recorded = index >= len(mels[0])
        figures = {"world": right[~recorded].mean().item()}
        if recorded.any():
            figures["recorded"] = right[recorded].mean().item()
        return loss, figures

    train("imagebind sounds", side.parameters(), loss_of, SOUND_STEPS, 1e-3)
    side.eval()
    spread = torch.linspace(0, len(heard) - 1, min(4000, len(heard))).long()
    with torch.no_grad():
        sounds = torch.cat(
            [F.normalize(side(mel_batch(mels, i).to(DEVICE)), dim=-1) for i in spread.split(64)]
        )
        # Centring: the mean of pictures of things that can sound, and of unlabelled sounds.
        imagebind.vision.mean.copy_(pictures.mean(0))
        side.mean.copy_(sounds.mean(0))
    means = imagebind.vision.mean, side.mean
    figures = {
        "cosine of the two means": F.cosine_similarity(*means, dim=0).item(),
        "norms": [mean.norm().item() for mean in means],
    }
    print(json.dumps(figures), flush=True)
    save(material.work, "imagebind", imagebind)
