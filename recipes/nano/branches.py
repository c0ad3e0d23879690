"""The branches, trained in the paper's order before a frozen language model and frozen encoders.

Stage 1 pulls each token towards the language model's embedding of its word, stage 2 goes through
the language model: questions and answers, loss on the answers alone. The audio branch is given
pictures only, through ImageBind's picture side; it never meets a sound.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.nano.encoders import lone_things
from recipes.nano.loop import batches, train
from recipes.nano.render import clip_scene, pixels, render
from recipes.nano.settings import SEED
from recipes.nano.text import (
    Talk,
    Words,
    audio_labels,
    make_talk_about,
    tokenize_talk,
    video_labels,
)
from video_llama.data.world.scene import Group, Scene
from video_llama.data.world.things import COLOURS, SOUNDING, THINGS
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor

VISION_STEPS = (800, 150)  # stage 1, stage 2
AUDIO_STEPS = (900, 100)


def freeze_all_but(model: VideoLlamaForConditionalGeneration, *names: str) -> list[nn.Parameter]:
    """Only parameters whose name begins with one of `names` train; returns them."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(names)
    model.train()
    model.language_model.eval()
    return [p for p in model.parameters() if p.requires_grad]


VISION_NAMES = (
    "vision_branch.frame_position_embedding",
    "vision_branch.video_query_tokens",
    "vision_branch.video_qformer",
    "vision_branch.projector",
)
AUDIO_NAMES = (
    "audio_branch.position_embedding",
    "audio_branch.query_tokens",
    "audio_branch.qformer",
    "audio_branch.projector",
)


def word_loss(
    tokens: torch.Tensor, tables: Sequence[torch.Tensor], labels: torch.Tensor
) -> tuple[torch.Tensor, list[float]]:
    """Tokens (B, Q, D) against each query's words `labels` (B, Q); also the shares named right."""
    loss, right = tokens.new_zeros(()), []
    for query, table in enumerate(tables):
        token = tokens[:, query]
        logits = 12 * F.normalize(token, dim=-1) @ F.normalize(table, dim=-1).T
        target = labels[:, query]
        loss = loss + F.cross_entropy(logits, target)
        # As long as a word, too: the language model has read words at 0.5 to 1.1 of their length.
        loss = loss + (token - 0.9 * table[target]).square().mean() / table.var()
        right.append((logits.argmax(-1) == target).float().mean().item())
    return loss / len(tables), right


def frame_scene(facts: np.ndarray) -> Scene:
    """The picture behind one row of frame facts."""
    names, colours = list(THINGS), list(COLOURS)
    groups = [
        Group(names[int(facts[i])], colours[int(facts[i + 1])], int(facts[i + 2]) + 1)
        for i in (0, 6)
        if facts[i] >= 0
    ]
    return Scene(tuple(groups), "beside" if len(groups) == 2 else "alone", seconds=0.0)


@torch.no_grad()
def encode(
    frames: np.ndarray, encoder: Callable[[torch.Tensor], torch.Tensor], path: Path
) -> np.ndarray:
    """What a frozen encoder says of frames (N, S, S, 3), computed once: half precision (N, ...)."""
    if not path.is_file():
        parts = [
            encoder(pixels(frames[i : i + 256])).numpy().astype(np.float16)
            for i in range(0, len(frames), 256)
        ]
        np.save(path.with_suffix(".part.npy"), np.concatenate(parts))
        path.with_suffix(".part.npy").rename(path)
    return np.load(path)


class VisionData:
    """Frame states of clips (N, 8, Q, D) and of pictures (K, 1, Q, D), with their scenes."""

    def __init__(self, model: VideoLlamaForConditionalGeneration, folder: Path) -> None:
        branch = model.vision_branch.eval()
        (clips,) = render("clips", folder)
        flat = clips.reshape(-1, *clips.shape[2:])
        states = encode(flat, branch.encode_frames, folder / "clip_states.npy")
        self.clips = states.reshape(len(clips), -1, *states.shape[1:])
        self.clip_scenes = [replace(clip_scene(i), sound=None) for i in range(len(clips))]
        frames, facts = render("frames", folder)
        frames, facts = frames.reshape(-1, *frames.shape[2:]), facts.reshape(-1, facts.shape[-1])
        seen = np.nonzero(facts[:, 0] >= 0)[0][::4]
        pictures = encode(frames[seen], branch.encode_frames, folder / "picture_states.npy")
        self.pictures = pictures[:, None]
        self.picture_scenes = [frame_scene(facts[i]) for i in seen]


def soft(states: np.ndarray, noise: float, generator: torch.Generator) -> torch.Tensor:
    """To full precision, with a little noise."""
    x = torch.from_numpy(states.astype(np.float32))
    return x + noise * x.std() * torch.randn(x.shape, generator=generator)


def train_vision_branch(
    model: VideoLlamaForConditionalGeneration,
    processor: VideoLlamaProcessor,
    folder: Path,
) -> None:
    """Stages 1 and 2 of the vision branch."""
    data, words = VisionData(model, folder), Words(processor.tokenizer)
    branch = model.vision_branch
    parameters = freeze_all_but(model, *VISION_NAMES)
    nn.init.normal_(branch.frame_position_embedding.weight, std=0.3)
    table = model.get_input_embeddings().weight.detach()
    tables = [words.table(w, table) for w in words.video]
    generator = torch.Generator().manual_seed(SEED + 4)
    clip_labels = torch.tensor([video_labels(scene) for scene in data.clip_scenes])
    picture_labels = torch.tensor([video_labels(scene) for scene in data.picture_scenes])
    clip_order = batches(len(data.clips), min(96, len(data.clips)), SEED + 4)
    picture_order = batches(len(data.pictures), 32, SEED + 5)

    def stage1(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index, other = next(clip_order), next(picture_order)
        moving = branch.join_frames(soft(data.clips[index.numpy()], 0.1, generator))
        still = branch.join_frames(soft(data.pictures[other.numpy()], 0.1, generator))
        loss, right = word_loss(moving, tables, clip_labels[index])
        picture_loss, picture_right = word_loss(still, tables, picture_labels[other])
        figures = {f"q{i}": share for i, share in enumerate(right)}
        return loss + 0.4 * picture_loss, {**figures, "picture": float(np.mean(picture_right))}

    train("vision stage 1", parameters, stage1, VISION_STEPS[0], 1e-3)

    rng = random.Random(SEED)
    pool = [(i, False) for i in range(len(data.clips))] + [
        (i, True) for i in range(len(data.pictures))
    ]

    def stage2(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = rng.sample(pool, 32)
        talks, features = [], []
        for i, picture in chosen:
            scenes, states = (
                (data.picture_scenes, data.pictures) if picture else (data.clip_scenes, data.clips)
            )
            talks.append(make_talk_about(scenes[i], rng))
            features.append(branch.join_frames(soft(states[i][None], 0.1, generator)))
        return answer_loss(model, processor, talks, video_features=torch.cat(features))

    train("vision stage 2", parameters, stage2, VISION_STEPS[1], 2e-4, warmup=20, every=25)


def answer_loss(
    model: VideoLlamaForConditionalGeneration,
    processor: VideoLlamaProcessor,
    talks: Sequence[Talk],
    **features: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of the answers, through the frozen language model."""
    batch = processor.pad([tokenize_talk(processor, talk) for talk in talks], "right")
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **features)
    targets = batch["labels"][:, 1:]
    learnt = targets != -100
    logits = output.logits[:, :-1][learnt]
    right = (logits.argmax(-1) == targets[learnt]).float().mean().item()
    return F.cross_entropy(logits, targets[learnt]), {"tokens right": right}


def train_audio_branch(
    model: VideoLlamaForConditionalGeneration,
    processor: VideoLlamaProcessor,
    folder: Path,
) -> None:
    """Stages 1 and 2 of the audio branch, on pictures of things that can sound."""
    branch = model.audio_branch.eval()
    frames, facts = render("frames", folder)
    frames, facts = frames.reshape(-1, *frames.shape[2:]), facts.reshape(-1, facts.shape[-1])
    names = list(THINGS)
    shown = [i for i in lone_things(facts) if names[int(facts[i, 0])] in SOUNDING]
    embeddings = torch.from_numpy(
        encode(frames[shown], branch.imagebind.embed_vision, folder / "embeddings.npy").astype(
            np.float32
        )
    )
    things = [names[int(facts[i, 0])] for i in shown]
    of_thing = {name: [i for i, t in enumerate(things) if t == name] for name in SOUNDING}
    words = Words(processor.tokenizer)
    parameters = freeze_all_but(model, *AUDIO_NAMES)
    table = model.get_input_embeddings().weight.detach()
    tables = [words.table(w, table) for w in words.audio]
    generator = torch.Generator().manual_seed(SEED + 6)
    rng = random.Random(SEED + 6)

    def pictures(chosen: Sequence[str], count: int) -> torch.Tensor:
        """Tokens (B, U, D) of `count` pictures of each thing, roughened."""
        index = torch.tensor([rng.choices(of_thing[name], k=count) for name in chosen])
        z = embeddings[index]
        z = F.dropout(z, 0.3) + torch.randn(z.shape, generator=generator)
        return branch.join_clips(z)

    def stage1(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = rng.choices(SOUNDING, k=96)
        tokens = pictures(chosen, rng.choice((1, 2, 3)))
        labels = torch.tensor([audio_labels(name) for name in chosen])
        loss, right = word_loss(tokens, tables, labels)
        return loss, {"thing": right[0], "verb": right[1]}

    torch.manual_seed(SEED + 6)
    train("audio stage 1", parameters, stage1, AUDIO_STEPS[0], 1e-3)

    def stage2(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = rng.choices(SOUNDING, k=32)
        talks = [make_talk_about(Scene((), sound=name), rng) for name in chosen]
        tokens = pictures(chosen, rng.choice((1, 2, 3)))
        return answer_loss(model, processor, talks, audio_features=tokens)

    train("audio stage 2", parameters, stage2, AUDIO_STEPS[1], 2e-4, warmup=20, every=25)
