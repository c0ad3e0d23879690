"""The branches, trained in the paper's order before a frozen language model and frozen encoders.

Stage 1 pulls each token towards the language model's embedding of its word, stage 2 goes through
the language model: questions and answers, loss on the answers alone. Some of these compare what is
seen with what is heard; the other branch's tokens are blurred words then, as the language model
knows them. The audio branch is given pictures only, through ImageBind's picture side; it never
meets a sound.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.nano.joint_space import SHOWN_PHOTOGRAPHS, picture_embeddings
from recipes.nano.language import blurred
from recipes.nano.loop import DEVICE, batches, kept_arrays, mixed_precision, normal, train
from recipes.nano.material import Material
from recipes.nano.pictures import PhotographBatches, flat_frames
from recipes.nano.render import clip_scene, pixels, render
from recipes.nano.text import Talk, Words, make_talk_about, said, tokenize_talk
from video_llama.data.world.scene import Group, Scene, sample_scene
from video_llama.data.world.things import COLOURS, NAMED
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.models.vision_branch import VisionBranch
from video_llama.processing.processor import VideoLlamaProcessor

VISION_STEPS = (2600, 2200)  # stage 1, stage 2
AUDIO_STEPS = (900, 200)
KEPT_WORDS = 0.5  # of stage 1's loss, in stage 2 of the vision branch
COMPARED = 0.4  # of the scenes of stage 2 that can be: seen and heard
COMPARING = ("match", "audible", "both")  # what is asked first of these
EITHER = {"match": 1.0, "other": 1.0}  # what is heard is one of the things seen, or it is not


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
    meant = said(tables, labels)
    for query, table in enumerate(tables):
        logits = 12 * F.normalize(tokens[:, query], dim=-1) @ F.normalize(table, dim=-1).T
        target = labels[:, query]
        loss = loss + F.cross_entropy(logits, target)
        # As long as what is meant, too: the language model has read it at 0.5 to 1.1 of its length.
        loss = loss + (tokens[:, query] - 0.9 * meant[:, query]).square().mean() / table.var()
        right.append((logits.argmax(-1) == target).float().mean().item())
    return loss / len(tables), right


def frame_scene(facts: np.ndarray) -> Scene:
    """The picture behind one row of frame facts."""
    names, colours = list(NAMED), list(COLOURS)
    groups = [
        Group(
            names[int(facts[i])],
            None if facts[i + 1] < 0 else colours[int(facts[i + 1])],
            int(facts[i + 2]) + 1,
        )
        for i in (0, 6)
        if facts[i] >= 0
    ]
    return Scene(tuple(groups), "beside" if len(groups) == 2 else "alone", seconds=0.0)


@torch.no_grad()
def encode(
    frames: np.ndarray, encoder: Callable[[torch.Tensor], torch.Tensor], path: Path
) -> np.ndarray:
    """What a frozen encoder says of frames (N, S, S, 3), computed once: half precision (N, ...)."""

    def states() -> list[np.ndarray]:
        with mixed_precision():
            starts = range(0, len(frames), 256)
            parts = [encoder(pixels(frames[i : i + 256])).half().cpu() for i in starts]
        return [torch.cat(parts).numpy()]

    return kept_arrays([path], states)[0]


class VisionData:
    """Frame states of clips (N, 8, Q, D) and of pictures (K, 1, Q, D), with their scenes.

    `picture_weights` (K,) say how often a picture is drawn.
    """

    def __init__(self, model: VideoLlamaForConditionalGeneration, material: Material) -> None:
        branch, folder = model.vision_branch.eval(), material.work
        (clips,) = render("clips", material)
        flat = clips.reshape(-1, *clips.shape[2:])
        states = encode(flat, branch.encode_frames, folder / "clip_states.npy")
        self.clips = states.reshape(len(clips), -1, *states.shape[1:])
        scenes = [clip_scene(material, i) for i in range(len(clips))]
        self.clip_scenes = [replace(scene, sound=None) for scene in scenes]
        frames, facts, _ = flat_frames(material)
        seen = np.nonzero(facts[:, 0] >= 0)[0][::4]
        pictures = encode(frames[seen], branch.encode_frames, folder / "picture_states.npy")
        self.picture_scenes = [frame_scene(facts[i]) for i in seen]
        if material.folder:
            more, labels = self.photographs(branch, material)
            pictures = np.concatenate([pictures, more])
            names = list(NAMED)
            self.picture_scenes += [
                Scene((Group(names[label], None),), seconds=0.0) for label in labels
            ]
        self.pictures = pictures[:, None]
        # As many photographs as scenes.
        drawn, photographed = len(seen), len(pictures) - len(seen)
        weights = [1 / drawn] * drawn + [1 / max(1, photographed)] * photographed
        self.picture_weights = torch.tensor(weights)

    def photographs(self, branch: VisionBranch, material: Material) -> tuple[np.ndarray, ...]:
        """Frame states (N, Q, D) of loosened photographs and their things (N,), computed once."""
        paths = [material.work / f"photograph_{name}.npy" for name in ("states", "things")]
        drawn = PhotographBatches(material, material.things, material.seed + 4)
        return kept_arrays(paths, lambda: drawn.encoded(branch.encode_frames, SHOWN_PHOTOGRAPHS))


def soft(states: np.ndarray, noise: float, generator: torch.Generator) -> torch.Tensor:
    """To full precision, with a little noise."""
    x = torch.from_numpy(states.astype(np.float32)).to(DEVICE)
    return x + noise * x.std() * normal(x.shape, generator)


def train_vision_branch(
    model: VideoLlamaForConditionalGeneration,
    processor: VideoLlamaProcessor,
    material: Material,
) -> None:
    """Stages 1 and 2 of the vision branch."""
    data, vocabulary = VisionData(model, material), material.vocabulary
    words = Words(processor.tokenizer, vocabulary)
    branch = model.vision_branch
    parameters = freeze_all_but(model, *VISION_NAMES)
    nn.init.normal_(branch.frame_position_embedding.weight, std=0.3)
    table = model.get_input_embeddings().weight.detach()
    tables = [words.table(w, table) for w in words.video]
    generator = torch.Generator().manual_seed(material.seed + 4)
    clip_labels = torch.tensor([vocabulary.video_labels(scene) for scene in data.clip_scenes])
    picture_labels = torch.tensor([vocabulary.video_labels(scene) for scene in data.picture_scenes])
    clip_order = batches(len(data.clips), min(96, len(data.clips)), material.seed + 4)

    def some_pictures(count: int) -> torch.Tensor:
        return torch.multinomial(data.picture_weights, count, generator=generator)

    def stage1(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        index, other = next(clip_order), some_pictures(128)
        moving = branch.join_frames(soft(data.clips[index.numpy()], 0.1, generator))
        still = branch.join_frames(soft(data.pictures[other.numpy()], 0.1, generator))
        loss, right = word_loss(moving, tables, clip_labels[index].to(DEVICE))
        picture_loss, picture_right = word_loss(still, tables, picture_labels[other].to(DEVICE))
        figures = {f"q{i}": share for i, share in enumerate(right)}
        return loss + picture_loss, {**figures, "picture": float(np.mean(picture_right))}

    train("vision stage 1", parameters, stage1, VISION_STEPS[0], 1e-3)

    rng = random.Random(material.seed)

    audio_tables = [words.table(w, table) for w in words.audio]

    def talk_about_clip(scene: Scene) -> Talk:
        if rng.random() >= COMPARED:
            return make_talk_about(scene, rng)
        shown = [name for name in scene.things if name in vocabulary.audible]
        others = [name for name in vocabulary.audible if name not in scene.things]
        heard = rng.choice(shown if shown and rng.random() < 0.5 else others)
        return make_talk_about(replace(scene, sound=heard), rng, first=COMPARING)

    def stage2(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        clips, pictures = rng.sample(range(len(data.clips)), 18), some_pictures(18).tolist()
        talks = [talk_about_clip(data.clip_scenes[i]) for i in clips]
        talks += [make_talk_about(data.picture_scenes[i], rng) for i in pictures]
        seen = [
            branch.join_frames(soft(states, 0.1, generator))
            for states in (data.clips[clips], data.pictures[pictures])
        ]
        heard = [vocabulary.audio_labels(talk.scene.sound) for talk in talks if talk.scene.sound]
        said_too = blurred(audio_tables, torch.tensor(heard), 1.0, generator) if heard else None
        loss, figures = answer_loss(
            model, processor, talks, video_features=torch.cat(seen), audio_features=said_too
        )
        # For answers alone tokens leave their words: fewer of new photographs are named then.
        labels = torch.cat([clip_labels[clips], picture_labels[pictures]])
        words_loss, _ = word_loss(torch.cat(seen), tables, labels.to(DEVICE))
        return loss + KEPT_WORDS * words_loss, figures

    train("vision stage 2", parameters, stage2, VISION_STEPS[1], 2e-4, warmup=20, every=25)


def answer_loss(
    model: VideoLlamaForConditionalGeneration,
    processor: VideoLlamaProcessor,
    talks: Sequence[Talk],
    **features: torch.Tensor | None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of the answers, through the frozen language model."""
    batch = processor.pad([tokenize_talk(processor, talk) for talk in talks], "right")
    batch = {name: tensor.to(DEVICE) for name, tensor in batch.items()}
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **features)
    targets = batch["labels"][:, 1:]
    learnt = targets != -100
    logits = output.logits[:, :-1][learnt]
    right = (logits.argmax(-1) == targets[learnt]).float().mean().item()
    return F.cross_entropy(logits, targets[learnt]), {"tokens right": right}


def train_audio_branch(
    model: VideoLlamaForConditionalGeneration,
    processor: VideoLlamaProcessor,
    material: Material,
    make_embeddings: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None,
    seed: int | None = None,
) -> None:
    """Stages 1 and 2 of the audio branch, on pictures of things that can sound.

    `make_embeddings` gives other material than pictures, for controls: embeddings as the branch
    reads them (N, E) and their things (N,); `seed` another seed than the material's.
    """
    branch = model.audio_branch.eval()
    vocabulary, names = material.vocabulary, list(NAMED)
    z, things = (make_embeddings or (lambda: pictures_to_hear(model, material)))()
    of_thing = {names[int(t)]: torch.nonzero(things == t)[:, 0].tolist() for t in things.unique()}
    audible = [name for name in vocabulary.audible if name in of_thing]
    words = Words(processor.tokenizer, vocabulary)
    parameters = freeze_all_but(model, *AUDIO_NAMES)
    table = model.get_input_embeddings().weight.detach()
    tables = [words.table(w, table) for w in words.audio]
    seed = material.seed if seed is None else seed
    generator = torch.Generator().manual_seed(seed + 6)
    rng = random.Random(seed + 6)

    def tokens_of(chosen: Sequence[str], count: int) -> torch.Tensor:
        """Tokens (B, U, D) of `count` pictures of each thing, roughened."""
        index = torch.tensor([rng.choices(of_thing[name], k=count) for name in chosen])
        x = z[index].to(DEVICE)
        return branch.join_clips(F.dropout(x, 0.3) + normal(x.shape, generator))

    def stage1(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = rng.choices(audible, k=96)
        tokens = tokens_of(chosen, rng.choice((1, 2, 3)))
        labels = torch.tensor([vocabulary.audio_labels(name) for name in chosen])
        loss, right = word_loss(tokens, tables, labels.to(DEVICE))
        return loss, {"thing": right[0], "verb": right[1]}

    torch.manual_seed(seed + 6)
    train("audio stage 1", parameters, stage1, AUDIO_STEPS[0], 1e-3)

    video_tables = [words.table(w, table) for w in words.video]

    def talk_about_sound() -> Talk:
        if rng.random() >= COMPARED:
            return make_talk_about(Scene((), sound=rng.choice(audible)), rng)
        photographs = material.photographs
        scene = sample_scene(
            rng, sound_weights=EITHER, photographs=photographs, audible=tuple(audible)
        )
        return make_talk_about(scene, rng, first=COMPARING)

    def stage2(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        talks = [talk_about_sound() for _ in range(32)]
        tokens = tokens_of([str(talk.scene.sound) for talk in talks], rng.choice((1, 2, 3)))
        seen = [vocabulary.video_labels(talk.scene) for talk in talks if talk.scene.groups]
        said_too = blurred(video_tables, torch.tensor(seen), 1.0, generator) if seen else None
        return answer_loss(model, processor, talks, audio_features=tokens, video_features=said_too)

    train("audio stage 2", parameters, stage2, AUDIO_STEPS[1], 2e-4, warmup=20, every=25)


@torch.no_grad()
def pictures_to_hear(
    model: VideoLlamaForConditionalGeneration, material: Material
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of pictures as the audio branch reads them (N, E), and their things (N,)."""
    imagebind = model.audio_branch.imagebind
    z, things = picture_embeddings(imagebind.vision, material)
    centred = F.normalize(z - imagebind.vision.mean.cpu(), dim=-1)
    return centred * z.shape[-1] ** 0.5, things
