"""Trains the audio branch of nano anew: on pictures, on turned pictures, and on sounds.

    python -m recipes.reproduce.variants --work build/nano --photographs SHARDS --out build/claims

pictures  as in the paper; what nano ships
turned    on pictures whose embeddings are turned by a random rotation: everything is the same, but
          pictures and sounds share no space
sounds    on sounds themselves: what the branch could reach

Encoders, language model and vision branch are those of a finished build in the work folder. With
one build that is done with every one of `--seeds`; with several (`--work A B C`), each trained with
a seed of its own (`recipes.nano.train --seed`), once in each. A variant of the same build that is
there is kept.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from recipes import made_from
from recipes.nano.branches import pictures_to_hear, train_audio_branch
from recipes.nano.build import new_model, new_processor
from recipes.nano.joint_space import heard_sounds, mel_batch
from recipes.nano.language import load_language
from recipes.nano.loop import DEVICE, load, mixed_precision
from recipes.nano.material import Material
from recipes.nano.train import seed_of
from recipes.nano.vision import load_vision
from video_llama.models import VideoLlamaForConditionalGeneration

VARIANTS = ("pictures", "turned", "sounds")
SEEDS = (0, 1, 2)
PARTS = ("language_model.pt", "query_tokens.pt", "vision_branch.pt", "imagebind.pt")  # of a build
SOUNDS = 6000  # that the upper bound is trained on


def main() -> None:
    """Train every variant with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, nargs="+", required=True)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/claims"))
    parser.add_argument("--seeds", type=int, nargs="+", help=f"of one build; {SEEDS} unless given")
    arguments = parser.parse_args()
    for seed, work in builds_of(arguments.work, arguments.seeds).items():
        material = Material(work, arguments.photographs, seed)
        build = {"build": made_from.checksum([work / name for name in PARTS])}
        for variant in VARIANTS:
            out = arguments.out / f"{variant}-{seed}"
            if made_from.read(out) != build:
                for path in out.glob("claim.*"):
                    path.unlink()  # answers of another build
                train_variant(material, variant, seed, out)
                made_from.write(out, build)
            print(json.dumps({"variant": variant, "seed": seed, "model": str(out)}), flush=True)


def builds_of(works: Sequence[Path], seeds: Sequence[int] | None) -> dict[int, Path]:
    """The build that an audio branch of each seed belongs to."""
    if len(works) == 1:
        return dict.fromkeys(seeds or SEEDS, works[0])
    if seeds:
        raise SystemExit("error: --seeds is for one build; several have their own seeds")
    found: dict[int, Path] = {}
    for work in works:
        seed = seed_of(work)
        if seed in found:
            raise SystemExit(
                f"error: {found[seed]} and {work} are both of seed {seed}; "
                "build one anew with another (recipes.nano.train --seed)"
            )
        found[seed] = work
    return found


def train_variant(material: Material, variant: str, seed: int, out: Path) -> None:
    """One branch, saved with the rest of nano."""
    processor = new_processor(material)
    model = new_model(processor, seed)
    load_language(model, material.work)
    load_vision(model, material)
    load(material.work, "imagebind", model.audio_branch.imagebind)
    load(material.work, "vision_branch", model.vision_branch)
    model.language_model.requires_grad_(False).eval()

    def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
        if variant == "sounds":
            return sounds_to_hear(model, material)
        z, things = pictures_to_hear(model, material)
        return (z @ rotation(z.shape[-1], seed), things) if variant == "turned" else (z, things)

    train_audio_branch(model, processor, material, embeddings, seed=seed)
    model.requires_grad_(True).eval().half().to("cpu").save_pretrained(out)
    processor.save_pretrained(out)


def rotation(width: int, seed: int) -> torch.Tensor:
    """A random rotation (E, E)."""
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(1000 + seed))
    return torch.linalg.qr(noise).Q


@torch.no_grad()
def sounds_to_hear(
    model: VideoLlamaForConditionalGeneration, material: Material
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of sounds as the audio branch reads them (N, E), and their things (N,)."""
    imagebind = model.audio_branch.imagebind.eval()
    mels, heard = heard_sounds(material)
    chosen = torch.linspace(0, len(heard) - 1, min(SOUNDS, len(heard))).long()
    with mixed_precision():
        parts = [
            imagebind.audio(mel_batch(mels, part).to(DEVICE)).float().cpu()
            for part in chosen.split(64)
        ]
    z = F.normalize(torch.cat(parts), dim=-1)
    centred = F.normalize(z - imagebind.audio.mean.cpu(), dim=-1)
    return centred * z.shape[-1] ** 0.5, heard[chosen]


if __name__ == "__main__":
    main()
