"""Prints what the frozen parts of a finished build get right, before any branch.

    python -m recipes.reproduce.parts --work build/nano --photographs SHARDS [--split val]

Of several builds (`--work A B C`) the mean with the lowest and highest.

picture   whole photographs, by the image Q-Former's first query
sound     recordings, three clips of each averaged: by the nearest name, and by the nearest mean of
          the training pictures of a thing, both of the joint space
language  answers of new conversations about clear words, right to the last token
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.nn import functional as F

from recipes.nano.build import new_model, new_processor
from recipes.nano.joint_space import picture_embeddings
from recipes.nano.language import blurred, load_language
from recipes.nano.loop import DEVICE, load
from recipes.nano.material import RATE, Material, photographs, recordings
from recipes.nano.render import THING_IDS, pixels
from recipes.nano.settings import IMAGE_SIZE, NUM_CLIPS, SEED
from recipes.nano.text import Words, talks, tokenize_talk
from recipes.nano.vision import FrameHeads, load_vision
from video_llama.data.labelled import SPLITS, Split
from video_llama.data.world.scene import HELD_OUT_SEED
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.models.qformer import ask
from video_llama.processing.mel import MelSettings, sound_to_clips
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.processing.tokens import IGNORE_INDEX

COMMON = 25  # things there are most photographs of in training
CONVERSATIONS = 2000


def main() -> None:
    """Print what is named right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, nargs="+", required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="test", help="val to try things on")
    arguments = parser.parse_args()
    found = [
        measured(Material(work, arguments.photographs), arguments.split) for work in arguments.work
    ]
    print(json.dumps({"split": arguments.split, "builds": len(found), **joined(found)}, indent=2))


def measured(material: Material, split: Split) -> dict[str, object]:
    """What the parts of one build get right."""
    processor = new_processor(material)
    model = new_model(processor, SEED)
    load_language(model, material.work)
    load_vision(model, material)
    load(material.work, "imagebind", model.audio_branch.imagebind)
    model.eval()
    with torch.no_grad():
        return {
            **named_pictures(model, material, split),
            **named_sounds(model, material, split),
            "language": exact_answers(model, processor, material),
        }


def joined(reports: Sequence[Any]) -> Any:
    """Reports of the same form as one: numbers that differ become mean, lowest and highest."""
    first = reports[0]
    if isinstance(first, dict):
        return {name: joined([report[name] for report in reports]) for name in first}
    if all(report == first for report in reports):
        return first
    return {"mean": round(mean(reports), 4), "lowest": min(reports), "highest": max(reports)}


def named_pictures(
    model: VideoLlamaForConditionalGeneration, material: Material, split: Split
) -> dict[str, object]:
    """Photographs by the first query: all, and of the commonest things."""
    branch, shown = model.vision_branch, photographs(material, split)
    heads = FrameHeads().to(DEVICE)
    load(material.work, "frame_heads", heads)
    guesses = []
    for start in range(0, len(shown.labels), 256):
        x = pixels(shown.pixels[start : start + 256])
        x = F.interpolate(x, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
        states = branch.vision_encoder(x, return_dict=True).last_hidden_state
        queries = ask(branch.qformer, branch.query_tokens, states)
        guesses.append(heads.heads[0](queries[:, 0]).argmax(-1).cpu())
    labels = torch.from_numpy(shown.labels.astype("int64"))
    right = (torch.cat(guesses) == labels).float()
    counts = {name: len(found) for name, found in photographs(material).of_name.items()}
    common = sorted(counts, key=lambda name: -counts[name])[:COMMON]
    among = torch.isin(labels, torch.tensor([THING_IDS[name] for name in common]))
    sharp = torch.tensor(shown.sharp)
    return {
        "picture, all things": figures(right, labels, len(counts)),
        f"picture, {COMMON} commonest": figures(right[among], labels[among], len(counts)),
        "picture, larger than 32 pixels": figures(right[sharp], labels[sharp], len(counts)),
    }


def named_sounds(
    model: VideoLlamaForConditionalGeneration, material: Material, split: Split
) -> dict[str, object]:
    """Recordings by the nearest name and by the nearest mean of pictures."""
    imagebind, heard = model.audio_branch.imagebind, recordings(material, split)
    settings = MelSettings(num_clips=NUM_CLIPS)
    rows = []
    for samples, length in zip(heard.samples, heard.lengths, strict=True):
        sound = torch.from_numpy(samples[: max(int(length), RATE // 4)].astype("float32") / 32768)
        clips = sound_to_clips(sound[None], settings).to(DEVICE)
        rows.append(F.normalize(imagebind.audio(clips), dim=-1).mean(0).cpu())
    z = F.normalize(torch.stack(rows) - imagebind.audio.mean.cpu(), dim=-1)
    labels = torch.from_numpy(heard.labels.astype("int64"))
    # Only what a recording may be of, in either way.
    audible = [THING_IDS[name] for name in recordings(material).of_name]
    names = torch.load(material.work / "names.pt", weights_only=True, map_location="cpu")
    pictures, things = picture_embeddings(imagebind.vision, material)
    centred = F.normalize(pictures - imagebind.vision.mean.cpu(), dim=-1)
    drawn = [thing for thing in audible if (things == thing).any()]
    means = torch.stack([centred[things == thing].mean(0) for thing in drawn])
    plain = F.normalize(torch.stack(rows), dim=-1)  # names were never centred
    ways = {
        "name": (plain @ F.normalize(names[audible], dim=-1).T, audible),
        "picture": (z @ F.normalize(means, dim=-1).T, drawn),
    }
    found = {}
    for way, (logits, among) in ways.items():
        there = torch.isin(labels, torch.tensor(among))
        right = (torch.tensor(among)[logits.argmax(-1)] == labels).float()
        found[f"sound by {way}"] = figures(right[there], labels[there], len(among))
    return found


def exact_answers(
    model: VideoLlamaForConditionalGeneration, processor: VideoLlamaProcessor, material: Material
) -> dict[str, dict[str, float]]:
    """By kind of question; what is seen and heard are the words themselves, at various lengths."""
    words = Words(processor.tokenizer, material.vocabulary)
    table = model.get_input_embeddings().weight
    seen, heard = ([words.table(w, table) for w in part] for part in (words.video, words.audio))
    generator = torch.Generator().manual_seed(SEED)
    right: dict[str, list[bool]] = defaultdict(list)
    made = talks(material, CONVERSATIONS, first=HELD_OUT_SEED)
    for start in range(0, CONVERSATIONS, 50):
        some = made[start : start + 50]
        batch = processor.pad([tokenize_talk(processor, talk) for talk in some], "right")
        scenes = [talk.scene for talk in some]
        video = [material.vocabulary.video_labels(scene) for scene in scenes if scene.groups]
        audio = [material.vocabulary.audio_labels(scene.sound) for scene in scenes if scene.sound]
        output = model(
            input_ids=batch["input_ids"].to(DEVICE),
            attention_mask=batch["attention_mask"].to(DEVICE),
            video_features=blurred(seen, torch.tensor(video).to(DEVICE), 0.0, generator),
            audio_features=blurred(heard, torch.tensor(audio).to(DEVICE), 0.0, generator),
        )
        targets = batch["labels"][:, 1:]
        same = output.logits[:, :-1].argmax(-1).cpu() == targets
        for talk, row, chosen in zip(some, targets, same, strict=True):
            learnt = torch.nonzero(row != IGNORE_INDEX)[:, 0]
            ends = torch.nonzero(learnt.diff() > 1)[:, 0] + 1
            for qa, answer in zip(talk.turns, learnt.tensor_split(ends), strict=True):
                right[qa.kind].append(bool(chosen[answer].all()))
    everything = [one for found in right.values() for one in found]
    return {
        kind: {"n": len(found), "exact": round(sum(found) / len(found), 4)}
        for kind, found in {"all": everything, **dict(sorted(right.items()))}.items()
    }


def figures(right: torch.Tensor, labels: torch.Tensor, words: int) -> dict[str, float]:
    """Shares of all items and mean over things; how many items there are, and the chance level."""
    macro = torch.stack([right[labels == thing].mean() for thing in labels.unique()]).mean()
    return {
        "n": len(right),
        "things": len(labels.unique()),
        "micro": round(right.mean().item(), 4),
        "macro": round(macro.item(), 4),
        "chance": round(1 / words, 4),
    }


if __name__ == "__main__":
    main()
