"""ImageBind's recipe: pictures, names and sounds in one space.

Pictures by their names; then sounds towards the frozen pictures and names of the same thing.
"""

import json

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.nano.loop import (
    DEVICE,
    batches,
    kept_arrays,
    mixed_precision,
    products,
    save,
    train,
)
from recipes.nano.material import Material
from recipes.nano.pictures import (
    PhotographBatches,
    both_names,
    flat_frames,
    jitter,
    lone_things,
    mixed,
)
from recipes.nano.render import THING_IDS, pixels, recorded_thing, render, sound_thing
from recipes.nano.settings import EMBEDDING
from video_llama.data.world.things import NAMED
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.models.imagebind import ImageBind
from video_llama.models.vision_branch import VisionBranch

PICTURE_STEPS = 1500
SOUND_STEPS = 3500
BATCH = 32  # frames of scenes, and as many photographs where there are some
SOUND_BATCH = 64
SHOWN_PHOTOGRAPHS = 40_000  # for what is trained on frozen encoders


def start_from_frames(side: nn.Module, branch: VisionBranch) -> None:
    """ImageBind's picture side begins with what the frame encoder knows of names: the blocks are
    alike."""
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


def train_imagebind_pictures(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """The picture side: near the name of what is seen, whatever its colour, number and place."""
    frames, facts, _ = flat_frames(material)
    alone = lone_things(facts)
    things = torch.from_numpy(np.array(facts[:, 0])).long()
    side = model.audio_branch.imagebind.vision
    start_from_frames(side, model.vision_branch)
    torch.manual_seed(material.seed + 1)
    names = nn.Parameter(F.normalize(torch.randn(len(NAMED), EMBEDDING), dim=-1).to(DEVICE))
    generator = torch.Generator().manual_seed(material.seed + 1)
    order = batches(len(alone), BATCH, material.seed + 1)
    real = (
        PhotographBatches(material, material.things, material.seed + 1) if material.folder else None
    )
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

    train(
        "imagebind pictures",
        [*side.parameters(), names],
        loss_of,
        PICTURE_STEPS,
        5e-4,
        turned=products(side),
        turned_rate=0.01,  # it has learnt something
    )
    torch.save(names.data, material.work / "names.pt")
    save(material.work, "imagebind_vision", side)


@torch.no_grad()
def picture_embeddings(side: nn.Module, material: Material) -> tuple[torch.Tensor, torch.Tensor]:
    """Of lone drawn things and of photographs of what may be heard, by the frozen picture side.

    Unit embeddings (N, E) and things (N,), on the CPU; computed once in a work folder.
    """

    def embed() -> tuple[np.ndarray, np.ndarray]:
        frames, facts, _ = flat_frames(material)
        alone = lone_things(facts)
        alone = alone[np.isin(facts[alone, 0], [THING_IDS[name] for name in material.audible])]
        parts = np.array_split(alone, len(alone) // 256 + 1)
        things = [np.array(facts[alone, 0]).astype(np.int64)]
        with mixed_precision():
            seen = [side(pixels(frames[part])).float().cpu().numpy() for part in parts]
        if material.folder:
            real = PhotographBatches(material, material.audible, material.seed + 5)
            more, shown = real.encoded(side, SHOWN_PHOTOGRAPHS)
            seen.append(more.astype(np.float32))
            things.append(shown)
        return np.concatenate(seen), np.concatenate(things)

    paths = [material.work / f"audible_{name}.npy" for name in ("embeddings", "things")]
    z, things = kept_arrays(paths, embed)
    return F.normalize(torch.from_numpy(z), dim=-1), torch.from_numpy(things)


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


def train_imagebind_sounds(model: VideoLlamaForConditionalGeneration, material: Material) -> None:
    """The sound side, towards the frozen pictures and name of the same thing; then both means."""
    imagebind: ImageBind = model.audio_branch.imagebind
    imagebind.vision.eval()
    pictures, things = picture_embeddings(imagebind.vision, material)
    pictures = pictures.to(DEVICE)
    names = F.normalize(torch.load(material.work / "names.pt", weights_only=True), dim=-1)
    mels, heard = heard_sounds(material)
    of_thing = {int(t): torch.nonzero(things == t)[:, 0] for t in things.unique()}
    generator = torch.Generator().manual_seed(material.seed + 2)
    order = batches(len(heard), SOUND_BATCH, material.seed + 2)
    side = imagebind.audio
    side.train()

    def loss_of(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index = next(order).sort().values
        labels = heard[index].to(DEVICE)
        mel = mask_stripes(mel_batch(mels, index), generator).to(DEVICE)
        mel, others, shares = mixed(mel, labels, generator)
        z = F.normalize(side(mel), dim=-1)
        own = [
            of_thing[t][torch.randint(len(of_thing[t]), (), generator=generator)]
            for t in labels.tolist()
        ]
        more = torch.randint(len(pictures), (64,), generator=generator)
        shown = torch.cat([torch.stack(own), more])
        logs = (16 * z @ pictures[shown.to(DEVICE)].T).log_softmax(-1)
        near = []
        for meant in (labels, others):
            same = (meant[:, None] == things[shown].to(DEVICE)).float()
            near.append(-(same * logs).sum(-1).div(same.sum(-1)))
        named = 16 * z @ names.to(DEVICE).T
        loss = near[0].lerp(near[1], shares).mean()
        loss = loss + 0.5 * both_names(named, labels, others, shares, 0.05)
        right = (named.argmax(-1) == labels).float().cpu()
        recorded = index >= len(mels[0])
        figures = {"world": right[~recorded].mean().item()}
        if recorded.any():
            figures["recorded"] = right[recorded].mean().item()
        return loss, figures

    train(
        "imagebind sounds",
        side.parameters(),
        loss_of,
        SOUND_STEPS,
        1e-3,
        turned=products(side),
    )
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
