"""Accuracy on held-out scenes, from real files through the whole of the shipped model.

    python -m recipes.nano.evaluate MODEL_DIR [--count 300] [--json FILE]

Every scene is written as mp4 (H.264, AAC), png or wav, read back, and asked every question that
makes sense for it, in English and Chinese. Seeds from `HELD_OUT_SEED` on are never trained on.
Chance is what the same answers reach when they are dealt out anew within a kind of question.
"""

import argparse
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from video_llama.data.world.questions import QA, questions, score
from video_llama.data.world.scene import HELD_OUT_SEED, Scene
from video_llama.data.world.write import SUFFIXES, item_scene, write_scene
from video_llama.media.reader import load_media
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor

BATCH = 64
DEALS = 20  # shuffles for the chance level


@dataclass(frozen=True)
class Reply:
    """One question, what was answered, and whether it is right."""

    scene_kind: str
    qa: QA
    answer: str

    @property
    def right(self) -> bool:
        return score(self.qa, self.answer)


def question_kind(reply: Reply) -> str:
    """The row of the table a reply belongs to."""
    qa = reply.qa
    if "no sound" in qa.answer_words or "no picture" in qa.answer_words:
        return "missing stream"
    if qa.kind in ("presence", "audible"):
        return f"{qa.kind} ({qa.answer_words[0]})"
    if qa.kind in ("sound", "both", "describe", "audible"):
        return f"{qa.kind} of {reply.scene_kind}"
    return qa.kind


def answer_scenes(
    model: VideoLlamaForConditionalGeneration,
    processor: VideoLlamaProcessor,
    scenes: Iterable[Scene],
    folder: Path,
) -> list[Reply]:
    """Ask about every scene, written to `folder` and read back."""
    pending: list[tuple[Scene, QA, list[dict], Any, Any]] = []
    replies: list[Reply] = []
    for number, scene in enumerate(scenes):
        path = write_scene(scene, folder / f"{number}{SUFFIXES[scene.kind]}")
        clip = load_media(path, num_frames=processor.num_frames)
        video, audio = encode_clip(model, processor, clip)
        for language in ("en", "zh"):
            for qa in questions(scene, language):
                parts = [{"type": clip.info.kind}, {"type": "text", "text": qa.question}]
                pending.append(
                    (scene, qa, [{"role": "user", "content": parts}], clip, (video, audio))
                )
        while len(pending) >= BATCH:
            replies += answer_batch(model, processor, pending[:BATCH])
            pending = pending[BATCH:]
    if pending:
        replies += answer_batch(model, processor, pending)
    return replies


@torch.no_grad()
def encode_clip(
    model: VideoLlamaForConditionalGeneration, processor: VideoLlamaProcessor, clip: Any
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Tokens of what is seen and of what is heard, each (1, tokens, D) or None."""
    video = audio = None
    if clip.frames is not None:
        video = model.get_video_features(processor.clip_to_pixel_values(clip)[None])
    if clip.sound is not None:
        audio = model.get_audio_features(processor.clip_to_input_features(clip)[None])
    return video, audio


@torch.no_grad()
def answer_batch(
    model: VideoLlamaForConditionalGeneration, processor: VideoLlamaProcessor, items: list
) -> list[Reply]:
    """Greedy answers to a batch of questions."""
    inputs = processor.apply_chat_template(
        [messages for _, _, messages, _, _ in items],
        clips=[[clip] for _, _, _, clip, _ in items],
        return_media=False,
    )
    seen = [features[0] for *_, features in items if features[0] is not None]
    heard = [features[1] for *_, features in items if features[1] is not None]
    ids = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        video_features=torch.cat(seen) if seen else None,
        audio_features=torch.cat(heard) if heard else None,
        max_new_tokens=48,
        do_sample=False,
        pad_token_id=processor.tokenizer.pad_token_id,
    )[:, inputs["input_ids"].shape[1] :]
    pad, eos = processor.tokenizer.pad_token_id, processor.tokenizer.eos_token_id
    answers = []
    for row in ids.tolist():
        row = row[: row.index(eos)] if eos in row else row
        answers.append(processor.decode_answer([i for i in row if i != pad]))
    return [
        Reply(scene.kind, qa, answer)
        for (scene, qa, *_), answer in zip(items, answers, strict=True)
    ]


def table(replies: list[Reply]) -> dict[str, dict[str, float]]:
    """For each kind of question: number, accuracy, of Chinese alone, and the chance level."""
    rows: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        rows[question_kind(reply)].append(reply)
    rng = random.Random(0)
    by_kind: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        by_kind[reply.qa.kind].append(reply)
    chance = {kind: dealt_out(row, rng) for kind, row in sorted(by_kind.items())}
    made = {}
    for kind, row in sorted(rows.items()):
        right = sum(r.right for r in row) / len(row)
        chinese = [r for r in row if r.qa.language == "zh"]
        english = [r for r in row if r.qa.language == "en"]
        made[kind] = {
            "n": len(row),
            "accuracy": round(right, 4),
            "english": round(sum(r.right for r in english) / max(1, len(english)), 4),
            "chinese": round(sum(r.right for r in chinese) / max(1, len(chinese)), 4),
            "chance": round(sum(chance[r.qa.kind] for r in row) / len(row), 4),
        }
    return made


def dealt_out(row: list[Reply], rng: random.Random) -> float:
    """The share right when the true answers to a kind are dealt out anew within a language."""
    right = total = 0
    for language in ("en", "zh"):
        part = [r for r in row if r.qa.language == language]
        answers = [r.qa.answer for r in part]
        for _ in range(DEALS):
            rng.shuffle(answers)
            right += sum(score(r.qa, a) for r, a in zip(part, answers, strict=True))
            total += len(part)
    return right / max(1, total)


def rotate_sounds(model: VideoLlamaForConditionalGeneration) -> None:
    """Turn what the sound side says by a random rotation: the joint space is broken, no more."""
    imagebind = model.audio_branch.imagebind
    width = model.config.imagebind_config.embedding_size
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(noise).Q
    embed = imagebind.embed_audio
    imagebind.embed_audio = lambda mel: embed(mel) @ rotation


def evaluate(
    directory: Path, count: int, first: int = HELD_OUT_SEED, rotate: bool = False
) -> dict[str, Any]:
    """The table of a saved model, with every wrong answer."""
    model = VideoLlamaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    if rotate:
        rotate_sounds(model)
    processor = VideoLlamaProcessor.from_pretrained(directory)
    scenes = [item_scene(first + i) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        replies = answer_scenes(model, processor, scenes, Path(folder))
    yes = [r for r in replies if r.qa.kind in ("presence", "audible")]
    said = [r for r in yes if r.answer.startswith(("Yes", "是"))]
    true = [r for r in yes if r.qa.answer.startswith(("Yes", "是"))]
    wrong = [
        {
            "scene": r.scene_kind,
            "kind": r.qa.kind,
            "question": r.qa.question,
            "true": r.qa.answer,
            "answer": r.answer,
        }
        for r in replies
        if not r.right
    ]
    return {
        "scenes": count,
        "first_seed": first,
        "questions": table(replies),
        "all": round(sum(r.right for r in replies) / len(replies), 4),
        "yes_said": round(len(said) / len(yes), 4),
        "yes_true": round(len(true) / len(yes), 4),
        "wrong": wrong,
    }


def main() -> None:
    """Print the table, and write it with the wrong answers if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rotate", action="store_true", help="control: break the joint space")
    arguments = parser.parse_args()
    result = evaluate(arguments.model, arguments.count, arguments.first, arguments.rotate)
    if arguments.json:
        arguments.json.write_text(
            json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8"
        )
    print(json.dumps({k: v for k, v in result.items() if k != "wrong"}, indent=1))


if __name__ == "__main__":
    main()
